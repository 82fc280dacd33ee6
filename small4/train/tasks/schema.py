"""Whether a value is what a schema asks for, as far as the generators' schemas go."""

from typing import Any

_TYPES: dict[str, type[Any]] = {"string": str, "array": list, "object": dict, "boolean": bool}


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Of JSON Schema: type, enum, anyOf, items, and objects of listed properties."""
    if "anyOf" in schema:
        return any(fits(option, value) for option in schema["anyOf"])
    if "enum" in schema:
        return any(value == option and type(value) is type(option) for option in schema["enum"])
    kind = schema["type"]
    if kind == "null":
        return value is None
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, _TYPES[kind]):
        return False
    if kind == "array":
        return all(fits(schema["items"], item) for item in value)
    return kind != "object" or _has_properties(schema, value)


def _has_properties(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    properties = schema["properties"]
    if not set(schema["required"]) <= set(value) <= set(properties):
        return False
    return all(fits(properties[key], item) for key, item in value.items())
