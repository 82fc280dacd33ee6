"""A client's bytes to the structs of a dialect, with every mistake named by its path.

Unknown fields are never an error: agents send many. Their paths are gathered, so that the server can name them.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from small4.errors import FieldError

MAX_DEPTH = 64  # brackets inside brackets

S = TypeVar("S", bound=msgspec.Struct)


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise FieldError("the body must be a JSON object")
    check_depth(value)
    return value


def check_depth(value: object) -> None:
    """Raises if brackets nest deeper than the limit."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise _too_deep()


def convert(fields: object, kind: type[S], path: str = "") -> S:
    """The fields as a struct of the dialect; `path` is where they stand in the body."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        param = (path + place.rstrip("`")).lstrip(".")
        raise FieldError(f"{param or 'the body'}: {message}", param or None) from None


def unknown_fields(fields: dict[str, Any], kind: type[msgspec.Struct], path: str = "") -> list[str]:
    """Paths of the fields that the struct has no place for."""
    known = set(kind.__struct_encode_fields__)
    return [f"{path}.{name}".lstrip(".")[:100] for name in fields if name not in known]


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _too_deep() -> FieldError:
    return FieldError(f"the body nests deeper than {MAX_DEPTH} levels, the limit; flatten it")
