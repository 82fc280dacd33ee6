"""What no random request and policy may break: routes stay within both, and a request never widens a policy.

The definition beside which the rules are held is written anew here, from the raw fields.
"""

import random

import pytest

from small4.catalog.load import load_catalog
from small4.catalog.regions import EU_COUNTRIES
from small4.catalog.route import Posture, local_route, routes_of
from small4.errors import ConfigError
from small4.gateway.needs import Needs
from small4.gateway.policy import Policy, policy_from, policy_of, preference_of
from small4.gateway.policy_words import policy_of_words
from small4.gateway.routing import route_request
from small4.gateway.rules import reasons_against
from small4.wire.routing_fields import parse_provider
from tests.catalog.conftest import MODEL, TODAY
from tests.gateway.made_routes import route

REGIONS = ("EU", "FR", "DE", "US", "CH", "HERE")
NAMES = ("a", "a/x", "a/y", "a/x/z", "b", "b/x", "c", "d", "ax")
QUANTIZATIONS = ("fp8", "int4", "bf16", "unknown")


def random_routes(draw: random.Random):
    for i in range(60):
        posture = Posture(
            region=draw.choice((None, "EU", "FR", "DE", "US", "CH")),
            zdr=draw.choice((None, "yes", "contract", "no")),
            training=draw.choice((None, "no", "opt-out", "yes")),
            retention_days=draw.choice((None, 0, 7, 30)),
            is_distillable=draw.choice((None, True, False)),
            age_days=draw.choice((None, 0, 40)),
        )
        yield route(
            draw.choice(NAMES) if i < 40 else f"{draw.choice(NAMES)}/{i}",
            prompt=draw.choice((None, "0", "0.15", "1", "3")),
            output=draw.choice((None, "0.6", "2", "9")),
            posture=posture,
            dialect=draw.choice(("openai", "openai", "openai", None)),
            quantization=draw.choice((None, *QUANTIZATIONS[:3])),
            parameters=frozenset(draw.sample(("tools", "seed", "stop"), draw.randint(0, 3))),
        )


def random_fields(draw: random.Random) -> dict:
    some = {
        "only": lambda: draw.sample(NAMES, draw.randint(0, 4)),
        "ignore": lambda: draw.sample(NAMES, draw.randint(0, 2)),
        "require_parameters": lambda: draw.random() < 0.5,
        "data_collection": lambda: draw.choice(("allow", "deny")),
        "zdr": lambda: draw.random() < 0.5,
        "quantizations": lambda: draw.sample(QUANTIZATIONS, draw.randint(0, 4)),
        "max_price": lambda: {draw.choice(("prompt", "completion")): draw.choice(("0", "0.15", "1", "5"))},
        "enforce_distillable_text": lambda: draw.random() < 0.5,
        "regions": lambda: draw.sample(REGIONS, draw.randint(0, 3)),
        "training": lambda: draw.choice(("allow", "deny")),
        "max_retention_days": lambda: draw.choice((0, 7, 30)),
        "local_only": lambda: draw.random() < 0.3,
        "max_posture_age_days": lambda: draw.choice((0, 30, 90)),
        "order": lambda: draw.sample(NAMES, draw.randint(0, 3)),
        "sort": lambda: draw.choice(("price", "throughput", {"blend": {"price": 1, "latency": 2}})),
    }
    return {name: some[name]() for name in draw.sample(list(some), draw.choice((0, 1, 1, 2, 3, 4)))}


def is_allowed(one, fields: dict, parameters: set) -> bool:
    """By the words of the documentation, without the rules."""
    p, name, local = one.posture, one.name, one.is_local
    stays = (
        p.retention_days not in (0, None) or p.zdr not in ("yes", None) or (p.zdr is None and p.retention_days is None)
    )

    def named(slugs) -> bool:
        return any((name + "/").startswith(slug + "/") for slug in slugs)

    def in_regions() -> bool:
        wanted = {c for r in fields["regions"] for c in (EU_COUNTRIES | {"EU"} if r == "EU" else {r})}
        return local or p.region in wanted

    def under_cap() -> bool:
        rates = one.prices.tiers[0].standard
        prices = {"prompt": rates.prompt, "completion": rates.output}
        caps = fields["max_price"].items()
        return local or all(prices[what] is not None and float(prices[what]) <= float(cap) for what, cap in caps)

    checks = {
        "only": lambda: named(fields["only"]),
        "ignore": lambda: not named(fields["ignore"]),
        "require_parameters": lambda: not fields["require_parameters"] or parameters <= one.parameters,
        "data_collection": lambda: fields["data_collection"] == "allow" or (p.training == "no" and not stays),
        "zdr": lambda: not fields["zdr"] or (p.zdr == "yes" and not stays),
        "quantizations": lambda: (one.quantization or "unknown") in fields["quantizations"],
        "max_price": under_cap,
        "enforce_distillable_text": lambda: not fields["enforce_distillable_text"] or p.is_distillable is True,
        "regions": in_regions,
        "training": lambda: fields["training"] == "allow" or p.training == "no",
        "max_retention_days": lambda: (
            not stays or (p.retention_days not in (0, None) and p.retention_days <= fields["max_retention_days"])
        ),
        "local_only": lambda: local or not fields["local_only"],
        "max_posture_age_days": lambda: p.age_days is not None and p.age_days <= fields["max_posture_age_days"],
    }
    return all(check() for name, check in checks.items() if name in fields)


@pytest.mark.parametrize("num_requests", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_requests_stay_within_what_their_policies_allow(num_requests: int) -> None:
    draw = random.Random(6)
    card = load_catalog().find(MODEL)
    made = [*random_routes(draw), *routes_of(card, TODAY), local_route(MODEL)]
    num_left = 0
    for _ in range(num_requests):
        server, wanted = random_fields(draw), random_fields(draw)
        routes = draw.sample(made, 6)
        parameters = set(draw.sample(("tools", "seed"), draw.randint(0, 2)))
        fields = parse_provider(wanted)
        policy = policy_from(server).narrow(policy_of(fields))
        routing = route_request(routes, policy, preference_of(fields), Needs(parameters=frozenset(parameters)))
        reachable = [one for one in routes if one.is_local or one.address.dialect is not None]
        by_server = {id(one) for one in reachable if is_allowed(one, server, parameters)}
        by_both = {id(one) for one in reachable if id(one) in by_server and is_allowed(one, wanted, parameters)}
        chosen = {id(candidate.route) for candidate in routing.candidates}
        assert chosen <= by_server
        assert chosen == by_both
        assert len(routing.candidates) + len(routing.removed) == len(routes)
        num_left += len(chosen)
    assert num_left > num_requests / 4  # or the requests would hold nothing


def test_narrowing_is_the_same_in_any_order_and_never_adds_a_route() -> None:
    draw = random.Random(7)
    made = [*random_routes(draw), local_route(MODEL)]
    needs = Needs(parameters=frozenset({"tools"}))

    def left(policy: Policy) -> set[int]:
        return {i for i, one in enumerate(made) if not reasons_against(one, policy, needs)}

    for _ in range(200):
        a, b, c = (policy_from(random_fields(draw)) for _ in range(3))
        assert left(a.narrow(b)) == left(b.narrow(a)) == left(a) & left(b)
        assert left(a.narrow(b).narrow(c)) == left(a.narrow(b.narrow(c)))
        assert left(a.narrow(a)) == left(a) == left(a.narrow(Policy())) == left(Policy().narrow(a))


@pytest.mark.parametrize(
    ("words", "table"),
    [
        ("", {}),
        ("eu, no-training ,zdr", {"regions": ["EU"], "training": "deny", "zdr": True}),
        ("local", {"local_only": True}),
        ("retention=7,posture-age=30", {"max_retention_days": 7, "max_posture_age_days": 30}),
        ("max-price=0.2/0.8,only=a+b/c", {"max_price": {"prompt": "0.2", "completion": "0.8"}, "only": ["a", "b/c"]}),
        ("region=eu+ch", {"regions": ["eu", "ch"]}),
        ("eu,fr", {"regions": ["fr"]}),
        ("no_collection,parameters,distillable,no-fallbacks,quantization=fp8+bf16,ignore=x", {
            "data_collection": "deny",
            "require_parameters": True,
            "enforce_distillable_text": True,
            "allow_fallbacks": False,
            "quantizations": ["fp8", "bf16"],
            "ignore": ["x"],
        }),
    ],
)  # fmt: skip
def test_words_mean_the_fields_of_a_request(words, table) -> None:
    assert policy_of_words(words) == policy_from(table)


@pytest.mark.parametrize("words", ["cheap", "zdr=1", "retention=long", "only=", "max-price="])
def test_an_unknown_word_is_refused_with_those_that_there_are(words) -> None:
    with pytest.raises(ConfigError, match="is no word of a policy; there are no-training"):
        policy_of_words(words)
