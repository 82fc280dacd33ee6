"""A client's bytes to the structs of a dialect, with every mistake named by its path.

Unknown fields are never an error: agents send many. Their paths are gathered, so that the server can name them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from small4.errors import FieldError

MAX_DEPTH = 64  # brackets inside brackets
MAX_NODES = 200_000  # values, the ones inside others included
MAX_QUOTED = 200  # characters of a message about a value
MAX_PATH = 100  # characters of a path that are named
MAX_IGNORED = 64  # paths that are named; more are counted
MAX_DIGITS = 4300  # of a whole number

S = TypeVar("S", bound=msgspec.Struct)


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(body, str(error)) from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise FieldError("the body must be a JSON object")
    check_depth(value)
    return value


def _not_json(body: bytes, why: str) -> FieldError:
    """The error of a body that is not JSON, with the path of the number that is to blame, if one is."""
    path = _path_of_no_number(body)
    if not path:
        return FieldError(f"the body is not JSON: {why}")
    path = _shown(path)
    return FieldError(f"{path}: the number is not finite, or has more than {MAX_DIGITS} digits; send another", path)


def _path_of_no_number(body: bytes) -> str | None:
    """Where the first number stands that is NaN, infinite or too long: Python's reader goes on where msgspec ends."""
    mark = object()
    try:
        value = json.loads(
            body.decode(),
            parse_constant=lambda text: mark,
            parse_float=lambda text: 0 if math.isfinite(float(text)) else mark,
            parse_int=lambda text: 0 if len(text) <= MAX_DIGITS else mark,
        )
    except (ValueError, RecursionError):
        return None
    return _path_to(mark, value)


def _path_to(mark: object, value: object) -> str | None:
    """Where the mark stands in a value, cut to what is shown."""
    waiting = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if value is mark:
            return path.removeprefix(".")
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}"[:MAX_PATH], child) for name, child in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]"[:MAX_PATH], child) for index, child in enumerate(value)]
    return None


def check_depth(value: object) -> None:
    """Raises if brackets nest deeper than the limit, or hold more values than the other."""
    level, num_nodes = [value], 1
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        num_nodes += len(level)
        if num_nodes > MAX_NODES:
            raise FieldError(f"the body has more than {MAX_NODES} values, the limit; send less")
        if not level:
            return
    raise _too_deep()


def convert(fields: object, kind: type[S], path: str = "") -> S:
    """The fields as a struct of the dialect; `path` is where they stand in the body."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message, separator, place = str(error).rpartition(" - at `$")
        param = (path + place.rstrip("`") if separator else path).lstrip(".")
        raise FieldError(f"{param or 'the body'}: {_shown(message if separator else place)}", param or None) from None


class Ignored:
    """Gathers the paths of fields that change nothing, each once, in the order in which they are met."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._seen: set[str] = set()  # as the caller wrote them
        self._num_more = 0

    def add(self, path: str) -> None:
        """Take one path; what could not stand in an HTTP header becomes `?`."""
        path = path[:MAX_PATH]
        if path in self._seen:
            return
        self._seen.add(path)
        path = "".join(c if " " < c < "\x7f" and c != "," else "?" for c in path)
        if path in self._paths:
            return
        if len(self._paths) < MAX_IGNORED:
            self._paths[path] = None
        else:
            self._num_more += 1

    def unknown(self, fields: Mapping[str, Any], kind: type[msgspec.Struct], path: str = "") -> None:
        """Take every field that the struct has no place for and that holds something."""
        config = kind.__struct_config__
        known = {*kind.__struct_encode_fields__, config.tag_field}
        for name, value in fields.items():
            if name not in known and value is not None:
                self.add(f"{path}.{name}".lstrip("."))

    def unknown_within(self, fields: Mapping[str, Any], struct: msgspec.Struct, path: str = "") -> None:
        """Take the unknown fields of a struct and of all structs in it; `fields` is what it was converted from."""
        names = _attributes(type(struct))
        prefix = f"{path}." if path else ""
        for name, raw in fields.items():
            attribute = names.get(name)
            if attribute is None:
                if raw is not None and name != struct.__struct_config__.tag_field:
                    self.add(prefix + name)
            elif isinstance(raw, dict | list):
                items = raw if isinstance(raw, list) else [raw]
                value = getattr(struct, attribute)
                for item, inner in zip(items, value if isinstance(value, list) else [value], strict=True):
                    if isinstance(inner, msgspec.Struct):
                        self.unknown_within(item, inner, prefix + name)

    def set(self, struct: msgspec.Struct, names: Iterable[str], path: str = "") -> None:
        """Take those of the named fields that the caller set: fields that are known and change nothing."""
        for name in names:
            if getattr(struct, name) is not None:
                self.add(f"{path}.{name}".lstrip("."))

    @property
    def paths(self) -> tuple[str, ...]:
        """What was gathered; beyond the limit only a number."""
        more = (f"and-{self._num_more}-more",) if self._num_more else ()
        return (*self._paths, *more)


def _shown(message: str) -> str:
    """On one line and not long, since it can quote the value that is wrong."""
    text = "".join(c if c.isprintable() else "?" for c in message[: MAX_QUOTED + 1])
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


@lru_cache(maxsize=256)  # bodies hold thousands of structs of few kinds
def _attributes(kind: type[msgspec.Struct]) -> dict[str, str]:
    """A struct's attributes by their names in JSON."""
    return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _too_deep() -> FieldError:
    return FieldError(f"the body nests deeper than {MAX_DEPTH} levels, the limit; flatten it")
