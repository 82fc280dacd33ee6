"""`small4 cost`: what a workload costs on every route, this machine's among them."""

import json
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from small4.cli.catalog import MODEL, AsJson, Model, On

if TYPE_CHECKING:
    from datetime import date

    from small4.catalog.card import ModelCard
    from small4.catalog.forecast import Workload
    from small4.catalog.price import Cost, Prices

Text = str | None


@dataclass(frozen=True, slots=True)
class RouteCost:
    """What a workload costs on one route, and how old the prices are that say so."""

    route: str
    cost: "Cost"
    prices: str  # their age, as text
    fits: bool  # one request of it fits the context

    def to_dict(self) -> dict[str, Any]:
        """For programs: money as text, exactly; unknown as null."""
        lines = {line.what: {"number": line.number, "usd": _money(line.usd)} for line in self.cost.lines}
        return {
            "route": self.route,
            "usd": _money(self.cost.usd),
            "at_most_usd": _money(self.cost.at_most_usd),
            "unknown": list(self.cost.unknown),
            "lines": lines,
            "prices": self.prices,
            "fits_context": self.fits,
        }


def cost_command(
    preset: Annotated[Text, typer.Option(metavar="NAME", help="A month of chat, rag, agent, batch or code.")] = None,
    prompt: Annotated[Text, typer.Option("--in", metavar="N", help="Tokens of prompt: 2M, 400k.")] = None,
    output: Annotated[Text, typer.Option("--out", metavar="N", help="Tokens of output, thinking included.")] = None,
    cached: Annotated[Text, typer.Option(metavar="50%", help="Of the prompt, found in a cache.")] = None,
    reasoning: Annotated[Text, typer.Option(metavar="30%", help="Of the output, thought.")] = None,
    requests: Annotated[Text, typer.Option(metavar="N", help="So many; --in and --out are of each.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="At the prices of batches.")] = False,
    watts: Annotated[Text, typer.Option(metavar="W", help="That this machine draws.")] = None,
    kwh: Annotated[Text, typer.Option(metavar="USD", help="Price of a kWh.")] = None,
    hardware: Annotated[Text, typer.Option(metavar="USD", help="Price of this machine.")] = None,
    years: Annotated[str, typer.Option(metavar="N", help="That it lasts.")] = "3",
    used: Annotated[str, typer.Option(metavar="SHARE", help="Of the time that it lasts.")] = "100%",
    read_speed: Annotated[Text, typer.Option(metavar="N", help="Its prompt tokens per second.")] = None,
    write_speed: Annotated[Text, typer.Option(metavar="N", help="Its output tokens per second.")] = None,
    model: Model = MODEL,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Price a workload on every route. What nobody claims a price of stays unknown and is never counted as 0."""
    from small4.catalog.local_cost import LocalCost
    from small4.cli.amounts import decimal_of, share_of
    from small4.cli.catalog import day_of, known_catalog

    card, today = known_catalog(model).find(model), day_of(on)
    workload = _workload(preset, prompt, output, cached, reasoning, requests, is_batch=batch)
    machine = LocalCost(
        watts=decimal_of(watts, "--watts"),
        usd_per_kwh=decimal_of(kwh, "--kwh"),
        hardware_usd=decimal_of(hardware, "--hardware"),
        hardware_years=decimal_of(years, "--years") or Decimal(0),
        used_share=share_of(used, "--used") or Decimal(0),
        prompt_tokens_per_second=decimal_of(read_speed, "--read-speed"),
        output_tokens_per_second=decimal_of(write_speed, "--write-speed"),
    )
    rows = route_costs(card, workload, machine.prices(), today)
    if as_json:
        print(json.dumps({"workload": _workload_json(workload), "routes": [row.to_dict() for row in rows]}))
    else:
        _print(rows, workload)


def route_costs(card: "ModelCard", workload: "Workload", local: "Prices", today: "date") -> list[RouteCost]:
    """The workload on every route, the cheapest bound first and what has none last."""
    from small4.catalog.local_cost import LocalCost
    from small4.catalog.route import LOCAL, routes_of
    from small4.cli.catalog import age_text

    size = workload.prompt_tokens + workload.output_tokens
    said = "unknown" if local == LocalCost().prices() else "as you say"
    rows = [RouteCost(LOCAL, workload.cost(local), said, True)]
    for route in routes_of(card, today):
        field = "price.batch.input" if workload.is_batch else "price.input"
        fact = card.facts(today, route.name).get(field)
        fits = workload.num_requests == 1 or route.context_tokens is None or size <= route.context_tokens
        age = "unknown" if fact is None else age_text(fact.claim, today)
        rows.append(RouteCost(route.name, workload.cost(route.prices), age, fits))
    return sorted(rows, key=_by_bound)


def _by_bound(row: RouteCost) -> tuple[bool, Decimal, str]:
    bound = row.cost.at_most_usd
    return bound is None, bound or Decimal(0), row.route


def _workload(
    preset: Text, prompt: Text, output: Text, cached: Text, reasoning: Text, requests: Text, *, is_batch: bool
) -> "Workload":
    """The preset with whatever was given in its place, or the amounts alone."""
    from small4.catalog.forecast import PRESETS, Workload
    from small4.cli.amounts import count_of, share_of
    from small4.errors import ConfigError

    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    if preset is None and (prompt is None or output is None):
        raise ConfigError(f"give --in and --out, such as --in 2M --out 400k, or --preset {'|'.join(PRESETS)}")
    given = {
        "num_requests": count_of(requests, "--requests"),
        "prompt_tokens": count_of(prompt, "--in"),
        "output_tokens": count_of(output, "--out"),
        "cached_share": share_of(cached, "--cached"),
        "reasoning_share": share_of(reasoning, "--reasoning"),
        "is_batch": is_batch or None,
    }
    base = Workload(prompt_tokens=0, output_tokens=0) if preset is None else PRESETS[preset]
    return replace(base, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _print(rows: list[RouteCost], workload: "Workload") -> None:
    from small4.cli.ink import Ink
    from small4.cli.readable import count_text

    ink, usage = Ink(sys.stdout), workload.usage
    ink.line(
        f"{count_text(workload.num_requests)} x {count_text(usage.prompt_tokens)} tokens of prompt "
        f"({count_text(usage.cached_tokens)} cached) and {count_text(usage.completion_tokens)} of output "
        f"({count_text(usage.reasoning_tokens)} thought){', as batches' if workload.is_batch else ''}"
    )
    names = [line.what for line in rows[0].cost.lines]
    cells = [
        (
            row.route,
            *(dollars(line.usd) for line in row.cost.lines[: len(names)]),
            total_text(row.cost),
            row.prices if row.fits else f"{row.prices}; does not fit its context",
        )
        for row in rows
    ]
    ink.table(("route", *names, "total", "prices"), cells)


def total_text(cost: "Cost") -> str:
    """The sum, its bound where the sum is unknown, or that neither is known."""
    if cost.usd is not None:
        return dollars(cost.usd)
    return "unknown" if cost.at_most_usd is None else f"at most {dollars(cost.at_most_usd)}"


def dollars(amount: Decimal | None) -> str:
    """To the cent; small amounts to four digits that say something."""
    if amount is None:
        return "unknown"
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.{max(2, 3 - amount.adjusted())}f}"


def _workload_json(workload: "Workload") -> dict[str, Any]:
    usage = workload.usage
    return {
        "requests": workload.num_requests,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "batch": workload.is_batch,
    }


def _money(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount.normalize(), "f")
