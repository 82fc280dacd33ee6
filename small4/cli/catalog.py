"""`small4 catalog`: what is claimed of the model and its routes, by whom, how long ago, and where claims contradict."""

import json
import sys
from collections import defaultdict
from datetime import date
from itertools import zip_longest
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from small4.catalog.card import Catalog, Conflict, ModelCard
    from small4.catalog.claims import Claim, Fact

app = typer.Typer(
    help="What is claimed of the model and its routes, by whom and when.", no_args_is_help=True, rich_markup_mode=None
)

MODEL = "mistral-small-4"
LINE, CELL = 110, 44  # characters
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="By any of its names.")]
On = Annotated[str | None, typer.Option("--on", metavar="DATE", help="As of that day, like 2026-11-21; today.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def known_catalog(model: str) -> "Catalog":
    """What came with small4, what you added, and the prices that genai-prices publishes."""
    from small4.catalog.load import load_catalog
    from small4.catalog.published import with_published_prices
    from small4.places import config_directory

    return with_published_prices(load_catalog(config_directory() / "catalog"), model)


def day_of(text: str | None) -> date:
    """The day of `--on`, else today."""
    from small4.errors import ConfigError

    try:
        return date.today() if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--on is {text!r}; write the day like 2026-11-21") from None


@app.command("show")
def show_command(
    route: Annotated[str | None, typer.Argument(help="A route; left out: the model itself.")] = None,
    model: Model = MODEL,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Show what is worked with: value, source and age of every field, and how many claims contradict it."""
    from small4.cli.ink import Ink

    card, today = known_catalog(model).find(model), day_of(on)
    name = None if route is None else card.address(route).name
    facts = card.facts(today, name)
    if as_json:
        fields = {field: fact_json(fact, today) for field, fact in facts.items()}
        print(json.dumps({"model": card.id, "route": name, "aliases": card.aliases, "fields": fields}))
        return
    ink = Ink(sys.stdout)
    ink.line(f"{card.name}, {card.maker}" if name is None else f"{card.name} by the route {name}", "bold")
    if name is None:
        ink.line(fill(f"also called {', '.join(card.aliases)}", LINE, break_on_hyphens=False))
        ink.line(fill(f"routes: {', '.join(address.name for address in card.addresses)}", LINE, break_on_hyphens=False))
    rows = [
        (field, value_text(fact.claim), fact.claim.source.id, age_text(fact.claim, today), _doubt(fact))
        for field, fact in facts.items()
    ]
    ink.table(("field", "value", "source", "age", ""), wrapped(rows))


@app.command("diff")
def diff_command(
    left: Annotated[str | None, typer.Argument(help="A route, to be compared with another.")] = None,
    right: Annotated[str | None, typer.Argument(help="The other route.")] = None,
    model: Model = MODEL,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Show where sources contradict each other; with two routes, where these differ."""
    from small4.cli.ink import Ink
    from small4.errors import ConfigError

    card, today = known_catalog(model).find(model), day_of(on)
    if (left is None) != (right is None):
        raise ConfigError("name two routes to compare, or none to see the contradictions")
    if left is None or right is None:
        _print_conflicts(card, today, as_json=as_json)
        return
    names = card.address(left).name, card.address(right).name
    facts = [card.facts(today, name) for name in names]
    differing = [field for field in dict.fromkeys([*facts[0], *facts[1]]) if _differs(field, *facts)]
    if as_json:
        sides = dict(zip(names, facts, strict=True))
        print(json.dumps({f: {n: _side_json(s.get(f), today) for n, s in sides.items()} for f in differing}))
        return
    rows = [(field, *(value_text(s[field].claim) if field in s else "unknown" for s in facts)) for field in differing]
    Ink(sys.stdout).table(("field", *names), wrapped(rows))


@app.command("check")
def check_command(model: Model = MODEL, on: On = None, as_json: AsJson = False) -> None:
    """Read every claim, and count those that are too old for their kind, undated or contradicted."""
    from small4.catalog.fields import MAX_AGE_DAYS
    from small4.cli.ink import Ink

    catalog, today = known_catalog(model), day_of(on)
    card = catalog.find(model)
    contradicted = {id(claim) for conflict in card.conflicts(today) for claim in conflict.fact.conflicts}
    counts = {
        kind: _counts([c for c in card.claims if c.field.kind == kind], contradicted, today) for kind in MAX_AGE_DAYS
    }
    used = {claim.source.id: claim.source for claim in card.claims}
    if as_json:
        sources = {name: {"name": s.name, "as_of": _iso(s.as_of), "seen": _iso(s.seen)} for name, s in used.items()}
        print(json.dumps({"claims": len(card.claims), "kinds": counts, "sources": sources}))
        return
    ink = Ink(sys.stdout)
    ink.line(f"{len(card.claims)} claims of {card.name} and {len(card.addresses)} routes, from {len(used)} sources")
    header = ("kind", "claims", "fresh", "stale", "undated", "contradicted", "fresh for")
    ink.table(header, [(kind, *(str(n) for n in counts[kind].values()), f"{MAX_AGE_DAYS[kind]} d") for kind in counts])
    rows = [(s.id, f"as of {s.as_of}" if s.as_of else f"undated, seen {s.seen}", s.name) for s in used.values()]
    ink.table(("source", "", ""), rows)


def wrapped(rows: "Iterable[Sequence[str]]") -> list[tuple[str, ...]]:
    """Rows of a table, long cells continued on lines of their own."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        cells = [wrap(cell, CELL, break_on_hyphens=False) or [""] for cell in row]
        lines += zip_longest(*cells, fillvalue="")
    return lines


def value_text(claim: "Claim") -> str:
    """A claim's value as it was written, with its unit."""
    value, unit = claim.value, claim.field.unit
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    if isinstance(value, bool):
        text = "yes" if value else "no"
    if unit == "USD/Mtok":
        return f"${text}/Mtok"
    return f"{text} {unit}".rstrip() if not unit.startswith("USD") else f"${text}"


def age_text(claim: "Claim", today: date) -> str:
    """How old it is, and whether that is too old for its kind."""
    age = claim.age_days(today)
    return "undated" if age is None else f"{age} d{' stale' if claim.freshness(today) == 'stale' else ''}"


def fact_json(fact: "Fact", today: date) -> dict[str, Any]:
    """A fact for programs, with the claims that contradict it."""
    return {**claim_json(fact.claim, today), "conflicts": [claim_json(claim, today) for claim in fact.conflicts]}


def claim_json(claim: "Claim", today: date) -> dict[str, Any]:
    """A claim for programs; money and amounts as they were written."""
    value = claim.value
    return {
        "value": value
        if isinstance(value, bool | int | str)
        else list(value)
        if isinstance(value, tuple)
        else str(value),
        "unit": claim.field.unit,
        "source": claim.source.id,
        "route": claim.route,
        "as_of": _iso(claim.source.as_of),
        "seen": _iso(claim.source.seen),
        "freshness": claim.freshness(today),
        "note": claim.note,
    }


def _print_conflicts(card: "ModelCard", today: date, *, as_json: bool) -> None:
    from small4.cli.ink import Ink

    conflicts = card.conflicts(today)
    if as_json:
        found = [{"route": c.route, "field": c.fact.field.name, **fact_json(c.fact, today)} for c in conflicts]
        print(json.dumps(found))
        return
    rows = []
    for subjects, fact in _grouped(conflicts):
        rows.append((subjects, fact.field.name, value_text(fact.claim), fact.claim.source.id, "worked with"))
        rows += [("", "", value_text(claim), claim.source.id, claim.note) for claim in fact.conflicts]
    Ink(sys.stdout).table(("of", "field", "value", "source", ""), wrapped(rows))


def _grouped(conflicts: "Iterable[Conflict]") -> "list[tuple[str, Fact]]":
    """Conflicts in the same words told once, with all routes that they are of."""
    groups: defaultdict[tuple[object, ...], list[Conflict]] = defaultdict(list)
    for conflict in conflicts:
        fact = conflict.fact
        others = tuple((claim.source.id, claim.value, claim.route) for claim in fact.conflicts)
        groups[(fact.field.name, fact.value, fact.claim.source.id, others)].append(conflict)
    return [(", ".join(c.route or "the model" for c in group), group[0].fact) for group in groups.values()]


def _differs(field: str, left: "Mapping[str, Fact]", right: "Mapping[str, Fact]") -> bool:
    if field not in left or field not in right:
        return True
    return not left[field].claim.agrees_with(right[field].claim)


def _side_json(fact: "Fact | None", today: date) -> dict[str, Any] | None:
    return None if fact is None else fact_json(fact, today)


def _counts(claims: "list[Claim]", contradicted: set[int], today: date) -> dict[str, int]:
    states = [claim.freshness(today) for claim in claims]
    return {
        "claims": len(claims),
        "fresh": states.count("fresh"),
        "stale": states.count("stale"),
        "undated": states.count("undated"),
        "contradicted": sum(id(claim) in contradicted for claim in claims),
    }


def _doubt(fact: "Fact") -> str:
    number = len(fact.conflicts)
    return f"{number} contradict" if number > 1 else "1 contradicts" if number else ""


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
