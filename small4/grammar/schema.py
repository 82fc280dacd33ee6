"""Whether a JSON Schema is within the limits and holds only what can be enforced.

llguidance enforces a subset of JSON Schema and refuses the rest; this walk comes first, so that a refusal names the
keyword and its place, and so that what would be relaxed in silence is refused as well.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from small4.errors import SchemaError
from small4.grammar.limits import GrammarLimits

REFUSED = {
    **dict.fromkeys(("not", "if", "then", "else"), "spell the allowed cases out with anyOf"),
    **dict.fromkeys(("contains", "minContains", "maxContains"), "use prefixItems and items"),
    **dict.fromkeys(("propertyNames",), "use patternProperties with additionalProperties: false"),
    **dict.fromkeys(
        ("dependencies", "dependentRequired", "dependentSchemas"), "spell the allowed cases out with anyOf"
    ),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), "use additionalProperties or items"),
    **dict.fromkeys(("$dynamicRef", "$recursiveRef"), "use $ref"),
    "x-guidance": "leave it out",  # llguidance's own options; one of them relaxes the schema
}
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
BOUND_STEP = 1e-12  # relative; numbers nearer to an excluded whole number are excluded with it

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLES = ("items", "additionalItems", "additionalProperties")


def check_schema(schema: Mapping[str, Any], limits: GrammarLimits, where: str = "the schema") -> None:
    """Raises a `SchemaError` that names the keyword or the limit."""
    check_size(schema, limits, where)
    for path, part in subschemas(schema):
        for keyword, value in part.items():
            _check_keyword(keyword, value, f"{where} at {path}", limits)
        _check_min_properties(part, f"{where} at {path}")


def check_size(schema: Mapping[str, Any], limits: GrammarLimits, where: str) -> None:
    """Raises if a schema, or several under `$defs` of one, are too large; asks nothing about keywords."""
    _check_depth(schema, limits.max_depth, where)
    _check_bytes(schema, limits.max_schema_bytes, where)
    parts = [part for _, part in subschemas(schema)]
    num_properties = sum(_length(part.get(keyword)) for part in parts for keyword in _MAPS)
    _check_count(num_properties, limits.max_properties, "properties and definitions", where)
    _check_count(sum(_length(part.get("enum")) for part in parts), limits.max_enum_entries, "enum entries", where)


def subschemas(schema: Any, path: str = "#") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and all that stand in it, each with its JSON pointer; plain true and false are left out."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword in _MAPS:
        if isinstance(parts := schema.get(keyword), Mapping):
            for name, part in parts.items():
                yield from subschemas(part, f"{path}/{keyword}/{_escape(name)}")
    for keyword in _LISTS:
        if isinstance(parts := schema.get(keyword), list | tuple):
            for index, part in enumerate(parts):
                yield from subschemas(part, f"{path}/{keyword}/{index}")
    for keyword in _SINGLES:
        yield from subschemas(schema.get(keyword), f"{path}/{keyword}")


def to_llguidance(schema: Any) -> Any:
    """A copy that llguidance reads as the schema is meant."""
    if not isinstance(schema, Mapping):
        return schema
    # It refuses `uniqueItems: false`, which asks for nothing.
    copy = {keyword: value for keyword, value in schema.items() if not (keyword == "uniqueItems" and value is False)}
    for keyword in _MAPS:
        if isinstance(parts := copy.get(keyword), Mapping):
            copy[keyword] = {name: to_llguidance(part) for name, part in parts.items()}
    for keyword in {*_LISTS, *_SINGLES}:
        value = copy.get(keyword)
        if isinstance(value, list | tuple):
            copy[keyword] = [to_llguidance(part) for part in value]
        elif isinstance(value, Mapping):
            copy[keyword] = to_llguidance(value)
    return _with_plain_bounds(copy)


def _with_plain_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """`exclusiveMinimum: 2` as a minimum just above 2, and so on.

    llguidance 1.9.1 lets 2 itself pass if the other bound begins with the same digits, as 2.5 does.
    """
    for exclusive, inclusive, sign, tighter in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        bound, other = schema.get(exclusive), schema.get(inclusive)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        # Larger ones would be moved by so much that whole numbers are lost.
        if abs(bound) <= 1e9 and bound == int(bound):
            moved = bound + sign * BOUND_STEP * max(1, abs(bound))
            del schema[exclusive]
            schema[inclusive] = tighter(moved, other) if isinstance(other, int | float) else moved
    return schema


def _check_keyword(keyword: str, value: Any, where: str, limits: GrammarLimits) -> None:
    if keyword in REFUSED:
        raise SchemaError(f"{where} uses the keyword {keyword!r}, which cannot be enforced; {REFUSED[keyword]}")
    if keyword == "uniqueItems" and value is not False:
        raise SchemaError(f"{where} uses the keyword 'uniqueItems', which cannot be enforced; check it afterwards")
    if keyword == "format" and value not in FORMATS:
        raise SchemaError(
            f"{where} uses the keyword 'format' with {str(value)[:80]!r}; enforced are {', '.join(FORMATS)}; "
            "use pattern, or leave it out"
        )
    if keyword == "pattern":
        check_pattern(value, limits, f"{where} (pattern)")
    if keyword == "patternProperties" and isinstance(value, Mapping):
        for pattern in value:
            check_pattern(pattern, limits, f"{where} (patternProperties)")
    if keyword == "$ref" and isinstance(value, str) and not value.startswith("#"):
        raise SchemaError(
            f"{where} uses the keyword '$ref' with {value[:80]!r}; only parts of the same schema (#/...) can be meant"
        )


def check_pattern(pattern: Any, limits: GrammarLimits, where: str) -> None:
    """Raises if a regular expression is too long; whether it can be compiled shows when it is."""
    if isinstance(pattern, str) and len(pattern.encode("utf-8", "replace")) > limits.max_pattern_bytes:
        raise SchemaError(
            f"{where} has {len(pattern)} characters, the limit is {limits.max_pattern_bytes} bytes; shorten it"
        )


def _check_min_properties(part: Mapping[str, Any], where: str) -> None:
    """Names of additional properties may come twice, which counts once when the JSON is read."""
    count = part.get("minProperties")
    if isinstance(count, int) and count > max(1, _length(part.get("required"))):
        raise SchemaError(
            f"{where} uses the keyword 'minProperties' with {count}, which cannot be enforced above 1 and the "
            "number of required properties; name the properties in required"
        )


def _check_depth(schema: Any, limit: int, where: str) -> None:
    level: list[Any] = [schema]
    for _ in range(limit):
        level = [
            child
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for child in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return
    raise SchemaError(f"{where} nests deeper than {limit} levels of JSON, which is the limit; move parts to $defs")


def _check_bytes(schema: Any, limit: int, where: str) -> None:
    try:
        num_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{where} cannot be written as JSON ({str(error)[:80]}); send a JSON Schema") from error
    if num_bytes > limit:
        raise SchemaError(f"{where} has {num_bytes} bytes, the limit is {limit}; shorten descriptions or split it")


def _check_count(count: int, limit: int, what: str, where: str) -> None:
    if count > limit:
        raise SchemaError(f"{where} has {count} {what}, the limit is {limit}; split it")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Mapping | list | tuple) else 0


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
