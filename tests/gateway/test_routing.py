"""Where a request goes: what takes a route away, in which order the others are tried, and what is told of it."""

from decimal import Decimal

import pytest

from small4.catalog.route import Posture, local_route
from small4.chat import ChatRequest, ImagePart, JsonSchema, Message, Regex, Sampling, Tool
from small4.errors import ContextLengthError, FieldError, NoRouteError
from small4.gateway.health import Measurement
from small4.gateway.needs import Needs, needs_of
from small4.gateway.policy import Policy, Preference, policy_from, policy_of, preference_of, split_variant
from small4.gateway.rolling import Percentiles
from small4.gateway.routing import route_request
from small4.wire.problem import problem_of
from small4.wire.routing_fields import parse_provider
from tests.gateway.made_routes import route


def decide(routes, wanted=None, needs=None, **more):
    fields = parse_provider(wanted)
    return route_request(routes, policy_of(fields), preference_of(fields), needs or Needs(prompt_tokens=1000), **more)


def tried(routing) -> list[str]:
    return [candidate.route.name for candidate in routing.candidates]


def why(routing, name) -> list[str]:
    return [reason.text for one in routing.removed if one.route.name == name for reason in one.reasons]


A, B, C = route("a", prompt="3"), route("b", prompt="1"), route("c", prompt="2")
UNPRICED = route("u", prompt=None)


def test_the_cheapest_for_this_request_comes_first_and_an_unknown_price_last() -> None:
    assert tried(decide([A, B, C, UNPRICED])) == ["b", "c", "a", "u"]
    long_answer = Needs(prompt_tokens=10, output_tokens=10_000)
    writer, reader = route("writer", prompt="9", output="1"), route("reader", prompt="1", output="9")
    assert tried(decide([reader, writer], needs=long_answer)) == ["writer", "reader"]
    assert tried(decide([reader, writer], needs=Needs(prompt_tokens=10_000, output_tokens=10))) == ["reader", "writer"]


def test_the_order_of_the_request_comes_first_and_a_slug_stands_for_its_variants() -> None:
    fast, slow = route("a/fast", prompt="9"), route("a/slow", prompt="8")
    assert tried(decide([B, C, fast, slow], {"order": ["C", "a"]})) == ["c", "a/slow", "a/fast", "b"]


def test_without_fallbacks_the_first_is_all_or_those_that_are_named() -> None:
    assert tried(decide([A, B, C], {"allow_fallbacks": False})) == ["b"]
    named = decide([A, B, C], {"allow_fallbacks": False, "order": ["c", "a", "x"]})
    assert tried(named) == ["c", "a"]
    assert why(named, "b") == ["no fallback is allowed, and another route comes first"]


def test_only_and_ignore_keep_and_drop_slugs_with_their_variants() -> None:
    fast = route("a/fast")
    assert tried(decide([A, B, fast], {"only": ["A"]})) == ["a/fast", "a"]
    assert tried(decide([A, B, fast], {"ignore": ["a"]})) == ["b"]
    assert why(decide([A, B, fast], {"only": ["a/fast"]}), "a") == ["is not among a/fast"]


@pytest.mark.parametrize(
    "wanted", [{"regions": ["eu"]}, {"zdr": True}, {"training": "deny"}, {"max_retention_days": 30}]
)
@pytest.mark.parametrize("more", [{}, {"data_collection": "allow"}])
def test_an_unknown_posture_never_counts_as_yes(wanted, more) -> None:
    routing = decide([route("silent"), local_route("m")], wanted | more)
    assert tried(routing) == ["local"]
    assert "unknown" in why(routing, "silent")[0]


@pytest.mark.parametrize(
    ("posture", "wanted", "is_allowed"),
    [
        (Posture(region="FR"), {"regions": ["EU"]}, True),
        (Posture(region="FR"), {"regions": ["fr", "de"]}, True),
        (Posture(region="EU"), {"regions": ["FR"]}, False),
        (Posture(region="US"), {"regions": ["EU"]}, False),
        (Posture(zdr="yes"), {"zdr": True}, True),
        (Posture(zdr="contract"), {"zdr": True}, False),
        (Posture(zdr="yes", retention_days=30), {"zdr": True}, False),
        (Posture(training="no"), {"training": "deny"}, True),
        (Posture(training="opt-out"), {"training": "deny"}, False),
        (Posture(retention_days=30), {"max_retention_days": 30}, True),
        (Posture(retention_days=31), {"max_retention_days": 30}, False),
        (Posture(zdr="yes"), {"max_retention_days": 0}, True),
        (Posture(retention_days=0), {"max_retention_days": 0}, True),
        (Posture(zdr="no", retention_days=0), {"max_retention_days": 0}, False),
        (Posture(zdr="contract", retention_days=0), {"max_retention_days": 30}, False),
        (Posture(zdr="contract", retention_days=30), {"max_retention_days": 30}, True),
        (Posture(training="no", zdr="yes"), {"data_collection": "deny"}, True),
        (Posture(training="no", retention_days=30), {"data_collection": "deny"}, False),
        (Posture(training="yes", zdr="yes"), {"data_collection": "deny"}, False),
        (Posture(is_distillable=True), {"enforce_distillable_text": True}, True),
        (Posture(), {"enforce_distillable_text": True}, False),
        (Posture(region="FR", age_days=10), {"max_posture_age_days": 30}, True),
        (Posture(region="FR", age_days=31), {"max_posture_age_days": 30}, False),
        (Posture(region="FR"), {"max_posture_age_days": 30}, False),
    ],
)
def test_a_posture_passes_only_where_it_is_known_to(posture, wanted, is_allowed) -> None:
    assert bool(tried(decide([route("r", posture=posture)], wanted))) is is_allowed


def test_local_only_leaves_the_engine_of_this_machine() -> None:
    assert tried(decide([A, local_route("m")], {"local_only": True})) == ["local"]


def test_a_price_over_the_cap_or_unknown_is_removed_and_the_local_engine_bills_nothing() -> None:
    routing = decide([A, B, UNPRICED, local_route("m")], {"max_price": {"prompt": 1, "completion": "2"}})
    assert tried(routing) == ["b", "local"]
    assert why(routing, "a") == ["its price of a prompt is $3, the cap is $1"]
    assert why(routing, "u") == ["its price of a prompt is unknown, the cap is $1"]


def test_quantisations_keep_what_is_listed_and_unknown_must_be_listed_too() -> None:
    routes = [route("f", quantization="fp8"), route("q", quantization="int4"), route("u")]
    assert tried(decide(routes, {"quantizations": ["fp8"]})) == ["f"]
    assert tried(decide(routes, {"quantizations": ["fp8", "unknown"]})) == ["f", "u"]


def test_required_parameters_must_be_known_and_others_only_not_denied() -> None:
    routes = [
        route("knows", parameters=frozenset({"tools", "seed"}), abilities={"tools": True}),
        route("denies", abilities={"tools": False}),
        route("silent"),
    ]
    needs = Needs(parameters=frozenset({"tools", "seed"}), abilities=frozenset({"tools"}))
    assert tried(decide(routes, needs=needs)) == ["knows", "silent"]
    required = decide(routes, {"require_parameters": True}, needs)
    assert tried(required) == ["knows"]
    assert why(required, "silent") == ["is not known to support seed, tools"]


def test_a_request_must_fit_the_context_and_the_output_limit() -> None:
    small = route("small", context_tokens=1000, max_output_tokens=100)
    assert tried(decide([small], needs=Needs(prompt_tokens=900, max_tokens=100))) == ["small"]
    routing = decide([small], needs=Needs(prompt_tokens=900, max_tokens=101))
    assert why(routing, "small") == [
        "its context is 1000 tokens, and the request needs 1001",
        "it writes at most 100 tokens, and max_tokens is 101",
    ]


def test_images_and_grammars_go_only_where_they_can() -> None:
    routes = [route("blind", reads_images=False), route("sees", reads_images=True), local_route("m", reads_images=True)]
    assert tried(decide(routes, needs=Needs(num_images=1))) == ["sees", "local"]
    assert tried(decide(routes, needs=Needs(abilities=frozenset({"grammar"})))) == ["local"]


def test_a_route_without_a_dialect_or_not_ready_is_removed_with_its_reason() -> None:
    routing = decide([A, route("mute", dialect=None)], unready={"a": "no key"})
    assert why(routing, "a") == ["no key"]
    assert why(routing, "mute") == ["small4 speaks no dialect of it"]


def measured(speeds, first_token_seconds, uptime) -> Measurement:
    return Measurement(
        num_successes=9,
        num_faults=1,
        errors={},
        uptime=uptime,
        first_token_seconds=Percentiles(*[first_token_seconds] * 5),
        tokens_per_second=Percentiles(*speeds),
    )


FAST = measured((90.0, 60.0, 40.0, 30.0, 20.0), 0.9, 0.9)
QUICK = measured((30.0, 28.0, 25.0, 24.0, 23.0), 0.3, 1.0)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("throughput", "abc"), ("latency", "bac"), ("uptime", "bac"), ("price", "bca"), ({"by": "latency"}, "bac")],
)
def test_routes_are_sorted_by_one_metric_with_the_unmeasured_last(sort, expected) -> None:
    routing = decide([A, B, C], {"sort": sort}, measured={"a": FAST, "b": QUICK})
    assert tried(routing) == list(expected)


def test_a_blend_is_the_weighted_mean_of_shares_of_the_best() -> None:
    routing = decide([A, B], {"sort": {"blend": {"price": 1, "throughput": 3}}}, measured={"a": FAST, "b": QUICK})
    scores = {candidate.route.name: candidate.scores for candidate in routing.candidates}
    # a: price 0.002 against 0.004, throughput the best; b: price the best, throughput 30 of 90
    assert scores["a"].blend == pytest.approx((1 * 0.5 + 3 * 1) / 4)
    assert scores["b"].blend == pytest.approx((1 * 1 + 3 * (1 / 3)) / 4)
    assert tried(routing) == ["a", "b"]


def test_routes_not_known_to_be_as_fast_as_wished_go_last_and_stay() -> None:
    wished = {"preferred_min_throughput": {"p90": 30}, "preferred_max_latency": 1.0}
    routing = decide([A, B, C], wished, measured={"a": FAST, "b": QUICK})
    assert tried(routing) == ["a", "b", "c"]
    assert [candidate.is_as_wished for candidate in routing.candidates] == [True, False, False]


def test_a_wish_of_the_request_goes_after_its_order() -> None:
    assert tried(decide([A, B], {"order": ["b"], "preferred_min_throughput": 60}, measured={"a": FAST})) == ["b", "a"]


def test_no_route_left_is_a_404_that_names_the_rules_and_what_they_found() -> None:
    routing = decide([A, route("r", posture=Posture(training="yes"))], {"training": "deny"})
    with pytest.raises(NoRouteError) as caught:
        routing.required()
    assert str(caught.value) == (
        "no route is left of 2: training (2) removed them. a: training on prompts is unknown; "
        "r: training on prompts is yes. Loosen one of these"
    )
    assert problem_of(caught.value).status == 404
    with pytest.raises(NoRouteError, match="there is no route to this model"):
        decide([]).required()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"zrd": True}, "provider: Object contains unknown field `zrd`"),
        ({"sort": "exacto"}, r"provider\.sort: Invalid enum value 'exacto'"),
        ({"max_price": {"prompt": "-1"}}, r"provider\.max_price: prompt must be from 0"),
        ({"max_price": {"prompt": "NaN"}}, r"provider\.max_price: prompt must be from 0"),
        ({"regions": ["europe"]}, r"provider\.regions\[0\]"),
        ({"order": "mistral"}, r"provider\.order: Expected `array"),
        ([], "provider: Expected `object`"),
    ],
)
def test_a_misspelt_wish_is_refused_by_its_path(wanted, message) -> None:
    with pytest.raises(FieldError, match=message):
        parse_provider(wanted)


def test_a_table_of_a_file_and_the_object_of_a_request_are_the_same_policy() -> None:
    table = {"regions": ["eu"], "zdr": True, "max_price": {"prompt": Decimal("0.2")}, "only": ["Mistral"]}
    assert policy_from(table) == policy_of(parse_provider({**table, "max_price": {"prompt": "0.2"}}))
    assert policy_from({}) == Policy()


@pytest.mark.parametrize(
    ("model", "name", "weights"),
    [
        ("mistralai/mistral-small-2603:nitro", "mistralai/mistral-small-2603", {"throughput": 1.0}),
        ("small4:FLOOR", "small4", {"price": 1.0}),
        ("small4:int4", "small4:int4", {}),
        ("nitro", "nitro", {}),
    ],
)
def test_a_suffix_of_the_model_sorts(model, name, weights) -> None:
    found, preference = split_variant(model)
    assert (found, preference.weights) == (name, weights)


def test_needs_tell_what_a_chat_request_uses() -> None:
    request = ChatRequest(
        messages=(Message("user", (ImagePart(b"x"),)),),
        tools=(Tool("f", "", {}),),
        tool_choice="required",
        response_format=JsonSchema({}),
        effort="high",
        sampling=Sampling(temperature=0.7, seed=4),
        num_answers=2,
        max_tokens=50,
    )
    needs = needs_of(request, 1234, cached_tokens=1000)
    assert needs.parameters == {"tools", "tool_choice", "structured_outputs", "reasoning_effort", "seed", "n"}
    assert needs.abilities == {"tools", "structured_output", "reasoning"}
    assert (needs.num_images, needs.max_tokens, needs.output_tokens) == (1, 50, 100)
    assert needs.usage.cached_tokens == 1000
    plain = needs_of(ChatRequest(messages=(Message("user", "hi"),), sampling=Sampling(temperature=0.1)), 5)
    assert plain.parameters == plain.abilities == frozenset()
    assert needs_of(ChatRequest(messages=(), response_format=Regex("a")), 5).abilities == {"grammar"}


def test_request_that_is_too_long_for_every_route_is_told_as_that() -> None:
    routes = [route("a", context_tokens=1000), route("b", context_tokens=2000)]
    needs = Needs(prompt_tokens=1900, max_tokens=200)
    with pytest.raises(ContextLengthError, match="its context is 2000 tokens, and the request needs 2100"):
        route_request(routes, Policy(), Preference(), needs).required()
    with pytest.raises(NoRouteError, match="ignore"):
        route_request(routes, Policy(ignore=frozenset({"b"})), Preference(), needs).required()
