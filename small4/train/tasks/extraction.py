"""Facts told in a sentence or two -> JSON of the asked keys, null where nothing is told.

    Give JSON with name, age, city. Text: Velo lives in Marubo. Velo is 34 years old.
    {"name": "Velo", "age": 34, "city": "Marubo"}

Which keys are asked for, and in which order, changes from problem to problem; text may tell more than is asked. The
thought lists what was found, one key a line.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from small4.train.tasks.problem import Problem, is_same_json
from small4.train.tasks.source import Source

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = ("bread", "milk", "tea", "rice", "soap", "cheese", "salt", "fish", "apples", "eggs", "butter", "jam")
_LEVELS = ("low", "normal", "high")

_ASK = ("Give JSON with {k}.", "Return {k} as JSON.", "Extract {k} as JSON.", "Write JSON with the keys {k}.")
_TEXT = (" Text: {t}", " {t}", "\n{t}", "\nText: {t}")


@dataclass(frozen=True, slots=True)
class _Field:
    """One key that can be asked for: its schema, how a value is drawn and how it is told."""

    schema: dict[str, Any]
    draw: Callable[[Source], Any]
    told: tuple[str, ...]  # {w} is the person's name, {v} the value in words


def _things(source: Source) -> list[str]:
    return source.rng.sample(THINGS, source.number(1, 3))


def _address(source: Source) -> dict[str, Any]:
    return {"street": source.made_up(2) + " Street", "number": source.number(1, 99)}


def _order(source: Source) -> dict[str, Any]:
    return {"item": source.choice(THINGS), "count": source.number(1, 50)}


_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}

FIELDS: dict[str, _Field] = {
    "age": _Field(_INTEGER, lambda s: s.number(1, 99), ("{w} is {v} years old.", "{w} is {v}.")),
    "city": _Field(_STRING, lambda s: s.city(), ("{w} lives in {v}.", "{w} is from {v}.")),
    "color": _Field({"enum": list(COLOURS)}, lambda s: s.choice(COLOURS), ("{w} likes {v}.", "{w} chose {v}.")),
    "day": _Field({"enum": list(DAYS)}, lambda s: s.choice(DAYS), ("{w} comes on {v}.", "On {v} {w} is here.")),
    "level": _Field({"enum": list(_LEVELS)}, lambda s: s.choice(_LEVELS), ("This has {v} priority.",)),
    "friend": _Field(_STRING, lambda s: s.name(), ("{w} is a friend of {v}.", "{w} knows {v}.")),
    "phone": _Field(
        _STRING, lambda s: f"{s.number(100, 999)}-{s.number(1000, 9999)}", ("Call {v}.", "The phone is {v}.")
    ),
    "member": _Field({"type": "boolean"}, lambda s: s.chance(0.5), ("{w} is a member.", "{w} is not a member.")),
    "items": _Field({"type": "array", "items": _STRING}, _things, ("{w} buys {v}.", "{w} needs {v}.")),
    "address": _Field(
        {
            "type": "object",
            "properties": {"street": _STRING, "number": _INTEGER},
            "required": ["street", "number"],
            "additionalProperties": False,
        },
        _address,
        ("The address is {v}.", "{w} lives at {v}."),
    ),
    "order": _Field(
        {
            "type": "object",
            "properties": {"item": _STRING, "count": _INTEGER},
            "required": ["item", "count"],
            "additionalProperties": False,
        },
        _order,
        ("{w} orders {v}.", "The order is {v}."),
    ),
}


def sample_extraction(source: Source, most: int = 6) -> Problem:
    """Two to `most` keys of one person's facts."""
    who = source.name()
    keys = ["name", *source.rng.sample(list(FIELDS), source.number(1, most - 1))]
    if source.chance(0.5):
        keys = source.shuffled(keys)
    facts: dict[str, Any] = {"name": who}
    told = []
    for key in source.shuffled([key for key in keys if key != "name"]):
        facts[key] = None if source.chance(0.12) else FIELDS[key].draw(source)
        if facts[key] is not None:
            told.append(_tell(source, key, who, facts[key]))
    extra = source.choice([key for key in FIELDS if key not in keys])
    if source.chance(0.2) or not told:
        told.insert(source.number(0, len(told)), _tell(source, extra, who, FIELDS[extra].draw(source)))
    if not any(who in sentence for sentence in told):
        told.insert(0, f"This is {who}.")
    found = {key: facts[key] for key in keys}
    asked = source.wording(_ASK, _TEXT).format(k=", ".join(keys), t=" ".join(told))
    return Problem(
        skill="extraction",
        key="extraction " + json.dumps(found),
        question=asked,
        thought="\n".join(f"{key}: {_said(key, value)}" for key, value in found.items()),
        answer=json.dumps(found),
        checker=is_same_json,
        schema=schema_of(keys),
    )


def schema_of(keys: list[str]) -> dict[str, Any]:
    """An object of exactly these keys; all but the name may be null."""
    properties = {key: _STRING if key == "name" else _or_null(FIELDS[key].schema) for key in keys}
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    return {"anyOf": [schema, {"type": "null"}]}


def _tell(source: Source, key: str, who: str, value: Any) -> str:
    told = FIELDS[key].told
    phrase = told[0 if value else 1] if key == "member" else source.choice(told)
    return phrase.format(w=who, v=_said(key, value))


def _said(key: str, value: Any) -> str:
    """A value in words."""
    if value is None:
        return "not told"
    if key == "member":
        return "yes" if value else "no"
    if key == "items":
        return " and ".join([", ".join(value[:-1]), value[-1]] if len(value) > 1 else value)
    if key == "address":
        return f"{value['number']} {value['street']}"
    return f"{value['count']} {value['item']}" if key == "order" else str(value)
