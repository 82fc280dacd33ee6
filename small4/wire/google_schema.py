"""Google's Schema -> JSON Schema: upper-case types, `nullable`, counts as strings, an order of properties."""

from typing import Any

from small4.errors import FieldError

_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_NUMBER_FORMATS = ("int32", "int64", "float", "double", "enum")  # say nothing that the type does not
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SINGLE = ("items", "additionalProperties")
_MAPS = ("properties", "defs", "$defs")
_LISTS = ("anyOf", "prefixItems")
_NAMES = {"defs": "$defs", "ref": "$ref"}


def json_schema(schema: dict[str, Any], path: str, *, is_closed: bool = False) -> dict[str, Any]:
    """The schema in JSON Schema's words; `is_closed` allows an object only the properties that it names."""
    fields = {camel(name): value for name, value in schema.items()}
    is_nullable = fields.pop("nullable", None) is True
    order = fields.pop("propertyOrdering", None)
    example = fields.pop("example", None)
    converted: dict[str, Any] = {} if example is None else {"examples": [example]}
    for keyword, value in fields.items():
        if value is None or (keyword == "format" and value in _NUMBER_FORMATS):
            continue
        if (new := _converted(keyword, value, f"{path}.{keyword}", is_closed)) is not None:
            converted[_NAMES.get(keyword, keyword)] = new
    if isinstance(order, list) and isinstance(converted.get("properties"), dict):
        converted["properties"] = _ordered(converted["properties"], order)
    if is_closed and converted.get("type") == "object" and "properties" in converted:
        converted.setdefault("additionalProperties", False)
    return _with_null(converted) if is_nullable else converted


def camel(name: str) -> str:
    """`snake_case` as `camelCase`; Google takes either."""
    if "_" not in name:
        return name
    first, *others = name.split("_")
    return first + "".join(other[:1].upper() + other[1:] for other in others) if first else name


def _converted(keyword: str, value: Any, path: str, is_closed: bool) -> Any:
    """The keyword's value, or None where it says nothing."""
    if keyword == "type":
        return _type(value, path)
    if keyword in _COUNTS and isinstance(value, str):
        return _count(value, path)
    if keyword in _SINGLE and isinstance(value, dict):
        return json_schema(value, path, is_closed=is_closed)
    if keyword in _MAPS and isinstance(value, dict):
        return {name: _part(part, f"{path}.{name[:100]}", is_closed) for name, part in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [_part(part, f"{path}[{index}]", is_closed) for index, part in enumerate(value)]
    return value


def _part(value: Any, path: str, is_closed: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(f"{path}: a schema must be an object", path)
    return json_schema(value, path, is_closed=is_closed)


def _type(value: Any, path: str) -> Any:
    if not isinstance(value, str):
        return value
    if value == "TYPE_UNSPECIFIED":
        return None
    if value.lower() not in _TYPES:
        raise FieldError(f"{path}: {value[:40]!r} is no type; choose one of {', '.join(_TYPES).upper()}", path)
    return value.lower()


def _count(value: str, path: str) -> int:
    """A 64-bit number, which Google writes as a string."""
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise FieldError(f"{path}: {value[:40]!r} is no whole number from 0", path)
    return int(value)


def _ordered(properties: dict[str, Any], order: list[Any]) -> dict[str, Any]:
    names = [name for name in order if isinstance(name, str) and name in properties]
    return {name: properties[name] for name in (*names, *properties)}


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    return schema
