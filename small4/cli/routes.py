"""`small4 routes` and `small4 route explain`: every way to the model, which of them a request would take, and why."""

import json
import sys
from collections import defaultdict
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from small4.cli.catalog import CELL, MODEL, AsJson, Model, On, day_of, known_catalog, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

    from small4.catalog.card import Catalog
    from small4.catalog.route import Route
    from small4.gateway.keys import ProviderKeys
    from small4.gateway.needs import Needs
    from small4.gateway.routing import Ranked, Routing

app = typer.Typer(help="Where a request would go, and why.", no_args_is_help=True, rich_markup_mode=None)

Sort = Annotated[
    str | None,
    typer.Option("--sort", metavar="METRIC", help="price, throughput, latency, uptime; or a blend: price=2,latency=1."),
]
AllReady = Annotated[bool, typer.Option("--all-ready", help="As if every key were set and the model loaded here.")]
ORDINARY_PROMPT = 1000  # tokens, by which routes are priced where no prompt is given


def routes_command(
    sort: Sort = None,
    posture: Annotated[
        str | None, typer.Option("--posture", metavar="WORDS", help="Only those: eu,no-training,zdr,retention=7.")
    ] = None,
    model: Model = MODEL,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """List the routes to a model with what is claimed of them, in the order in which they would be tried."""
    from small4.cli.ink import Ink
    from small4.gateway.needs import Needs
    from small4.gateway.policy import Preference
    from small4.gateway.policy_words import policy_of_words
    from small4.gateway.routing import route_request

    catalog, today = known_catalog(model), day_of(on)
    routes, preference = every_route(catalog, model, today), Preference(weights=_weights(sort))
    needs = Needs(prompt_tokens=ORDINARY_PROMPT)
    routing = route_request(routes, policy_of_words(posture or ""), preference, needs)
    unready = not_ready(catalog, routes)
    if as_json:
        print(json.dumps([_route_json(c.route, unready) for c in routing.candidates]))
        return
    rows = [_route_row(candidate.route, unready) for candidate in routing.candidates]
    header = ("route", "prompt", "answer", "context", "weights", "region", "zdr", "trains", "keeps", "can be asked")
    ink = Ink(sys.stdout)
    ink.table(header, rows)
    if routing.removed:
        others = "1 other is" if len(routing.removed) == 1 else f"{len(routing.removed)} others are"
        words = f" --policy {posture}" if posture else ""
        ink.line(f"{others} removed; see: small4 route explain --all-ready{words}")


@app.command("explain")
def explain_command(
    prompt: Annotated[
        str | None, typer.Argument(help="What would be asked; left out: 1000 tokens of anything.")
    ] = None,
    words: Annotated[
        str | None, typer.Option("--policy", metavar="WORDS", help="As for your key: eu,no-training,zdr,max-price=1/2.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="JSON", help="The `provider` object of the request.")
    ] = None,
    sort: Sort = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Of the answer.")] = None,
    all_ready: AllReady = False,
    model: Model = MODEL,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Tell where a request would go: every candidate with its scores, and what removed each of the others."""
    from dataclasses import replace

    from small4.gateway.explanation import explain_routing
    from small4.gateway.policy import policy_of, preference_of
    from small4.gateway.policy_words import policy_of_words
    from small4.gateway.routing import route_request

    catalog, today = known_catalog(model), day_of(on)
    fields = _provider_fields(provider)
    policy = policy_of_words(words or "").narrow(policy_of(fields))
    preference = preference_of(fields)
    if sort is not None:
        preference = replace(preference, weights=_weights(sort))
    routes = every_route(catalog, model, today)
    unready = {} if all_ready else not_ready(catalog, routes)
    needs = _needs(prompt, max_tokens)
    routing = route_request(routes, policy, preference, needs, unready=unready)
    if as_json:
        print(json.dumps(explain_routing(routing, needs)))
    else:
        _print_routing(routing, needs)


def every_route(catalog: "Catalog", model: str, today: "date") -> "list[Route]":
    """The hosted routes of a model and the engine of this machine."""
    from small4.catalog.route import local_route, routes_of

    card = catalog.find(model)
    return [*routes_of(card, today), local_route(card.id, reads_images=True)]


def not_ready(catalog: "Catalog", routes: "Iterable[Route]") -> dict[str, str]:
    """Why a route cannot be asked from here: its key is missing, or no server of this machine has the model."""
    from small4.gateway.keys import ProviderKeys

    keys = ProviderKeys.of_user()
    reasons = {route.name: _reason(route, catalog, keys) for route in routes}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(route: "Route", catalog: "Catalog", keys: "ProviderKeys") -> str | None:
    from small4.gateway.reach import why_unreachable

    if route.is_local:
        is_here = _is_served_here(catalog, route.model)
        return None if is_here else "no server of this machine has the model; see small4 serve"
    return why_unreachable(route, keys) if route.address.dialect else None  # a rule tells of no dialect


def _is_served_here(catalog: "Catalog", model: str) -> bool:
    from small4.cli.servers import running_servers
    from small4.errors import UnknownModelError

    for running in running_servers():
        try:
            if running.is_loaded and catalog.find(running.model).id == model:
                return True
        except UnknownModelError:
            continue
    return False


def _needs(prompt: str | None, max_tokens: int | None) -> "Needs":
    from small4.chat import ChatRequest, Message
    from small4.gateway.needs import needs_of
    from small4.providers.estimate import prompt_tokens

    request = ChatRequest(messages=(Message("user", prompt or ""),), max_tokens=max_tokens)
    return needs_of(request, ORDINARY_PROMPT if prompt is None else prompt_tokens(request))


def _provider_fields(text: str | None) -> Any:
    from small4.wire.decode import decode_object
    from small4.wire.routing_fields import parse_provider

    return parse_provider(None if text is None else decode_object(text.encode()))


def _weights(sort: str | None) -> "Mapping[Any, float]":
    """`price` or `price=2,latency=1`."""
    from small4.gateway.policy import preference_of
    from small4.wire.routing_fields import parse_provider

    if sort is None:
        return {}
    parts = [part.partition("=") for part in sort.split(",")]
    blend = {name.strip(): _number(value) if separator else 1.0 for name, separator, value in parts}
    return preference_of(parse_provider({"sort": {"blend": blend}}, "--sort")).weights


def _number(text: str) -> float | str:
    """As text where it is none, so that the check of the field says so."""
    try:
        return float(text)
    except ValueError:
        return text


def _print_routing(routing: "Routing", needs: "Needs") -> None:
    from small4.cli.ink import Ink

    ink = Ink(sys.stdout)
    ink.line(f"about {needs.prompt_tokens} tokens of prompt and {needs.output_tokens} of answer")
    if routing.candidates:
        header = ("try", "route", "at most", "tok/s", "first token", "uptime", "blend", "")
        ink.table(header, [_candidate_row(i, c) for i, c in enumerate(routing.candidates, 1)])
    else:
        ink.line("no route is left", "error")
    if routing.removed:
        ink.table(("removed", "by", "since"), _removed_rows(routing))


def _removed_rows(routing: "Routing") -> list[tuple[str, ...]]:
    """Routes that were removed for the same reasons together."""
    groups: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
    for one in routing.removed:
        groups[one.reasons].append(one.route.name)
    rows: list[tuple[str, ...]] = []
    for reasons, names in groups.items():
        left = wrap(", ".join(names), CELL, break_on_hyphens=False)
        right = wrapped((reason.rule, reason.text) for reason in reasons)
        right += [("", "")] * (len(left) - len(right))
        rows += [(name, *cells) for name, cells in zip_longest(left, right, fillvalue="")]
    return rows


def _candidate_row(number: int, candidate: "Ranked") -> tuple[str, ...]:
    from small4.cli.cost import dollars

    scores = candidate.scores
    latency, uptime = scores.latency_seconds, scores.uptime
    notes = [] if candidate.place is None else ["named by the request"]
    notes += [] if candidate.is_as_wished else ["not known to be as fast as wished"]
    return (
        str(number),
        candidate.route.name,
        dollars(scores.usd),
        _or_unknown(scores.throughput, "{:.0f}"),
        _or_unknown(latency, "{:.2f} s"),
        _or_unknown(None if uptime is None else uptime * 100, "{:.1f}%"),
        "" if scores.blend is None else f"{scores.blend:.3f}",
        ", ".join(notes),
    )


def _or_unknown(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _route_row(route: "Route", unready: "Mapping[str, str]") -> tuple[str, ...]:
    posture, rates = route.posture, route.prices.rates(0)
    keeps = "nothing" if posture.keeps_nothing else None
    if keeps is None and posture.retention_days is not None:
        keeps = f"{posture.retention_days} d"
    context = route.context_tokens
    return (
        route.name,
        *("unknown" if rate is None else f"${rate:f}" for rate in (rates.prompt, rates.output)),
        *("unknown" if word is None else str(word) for word in (context, route.quantization, posture.region)),
        *(word or "unknown" for word in (posture.zdr, posture.training, keeps)),
        unready.get(route.name, "yes"),
    )


def _route_json(route: "Route", unready: "Mapping[str, str]") -> dict[str, Any]:
    from dataclasses import asdict

    tiers = [
        {
            "above_prompt_tokens": tier.above_prompt_tokens,
            **{kind: _rates_json(asdict(getattr(tier, kind))) for kind in ("standard", "batch")},
        }
        for tier in route.prices.tiers
    ]
    return {
        "route": route.name,
        "provider": route.address.provider,
        "model_id": route.address.model_id,
        "dialect": route.address.dialect,
        "base_url": route.address.base_url,
        "usd_per_million": tiers,
        "context_tokens": route.context_tokens,
        "max_output_tokens": route.max_output_tokens,
        "quantization": route.quantization,
        "abilities": dict(route.abilities),
        "parameters": sorted(route.parameters),
        "posture": asdict(route.posture),
        "is_local": route.is_local,
        "not_ready": unready.get(route.name),
    }


def _rates_json(rates: dict[str, Any]) -> dict[str, str | None]:
    return {name: None if rate is None else format(rate, "f") for name, rate in rates.items()}
