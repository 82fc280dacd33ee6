"""Reads a form that comes in parts (multipart/form-data), piece by piece, and holds none of its file.

The form is read strictly: it begins with its boundary, every part says which field it is, exactly one is the file, and
the closing boundary must come. A piece may be cut anywhere; what may still become a boundary waits for the next one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from small4.errors import FieldError
from small4.server.bounds import Bounds

MAX_BOUNDARY = 70  # bytes, by RFC 2046
_BOUNDARY_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'()+_,-./:=? ")


@dataclass(slots=True)
class Form:
    """What has been read of a form: its fields, and the name of its file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


class FormReader:
    """Takes a form's bytes with `feed`, which gives those of its file; `finish` gives the form."""

    def __init__(self, content_type: str, bounds: Bounds) -> None:
        self._delimiter = b"\r\n--" + boundary_of(content_type)
        self._bounds = bounds
        self._buffer = bytearray(b"\r\n")  # as if a line had ended before the first boundary
        self._read = self._read_start
        self._form = Form()
        self._name: str | None = None  # of the part that is being read; None: it is the file
        self._value = bytearray()
        self._num_parts = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the file that these bytes bring."""
        self._buffer += data
        pieces: list[bytes] = []
        while self._read(pieces):
            pass
        return pieces

    def finish(self) -> Form:
        """The form, once all of it was fed."""
        if self._read != self._read_rest:
            raise FieldError("the form ends before its closing boundary; send all of it")
        if self._form.filename is None:
            raise FieldError("the form has no file; send one as the part named file", "file")
        return self._form

    def _read_start(self, pieces: list[bytes]) -> bool:
        """The first boundary; each reader tells whether there may be more to read from what came so far."""
        if len(self._buffer) < len(self._delimiter):
            return False
        if not self._buffer.startswith(self._delimiter):
            raise FieldError("the form does not begin with its boundary")
        return self._after_boundary(len(self._delimiter))

    def _read_boundary_end(self, pieces: list[bytes]) -> bool:
        if len(self._buffer) < 2:
            return False
        mark = bytes(self._buffer[:2])
        if mark not in (b"\r\n", b"--"):
            raise FieldError("a boundary of the form is followed by neither a new line nor its end")
        self._read = self._read_head if mark == b"\r\n" else self._read_rest
        if mark == b"--":
            del self._buffer[:2]
        return True

    def _read_head(self, pieces: list[bytes]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > self._bounds.max_form_head_bytes or (end < 0 and len(self._buffer) > self._bounds.max_form_head_bytes):
            limit = self._bounds.max_form_head_bytes
            raise FieldError(f"the headers of a part have more than {limit} bytes, the limit; send fewer")
        if end < 0:
            return False
        self._begin_part(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._read = self._read_part_start
        return True

    def _begin_part(self, head: bytes) -> None:
        self._num_parts += 1
        if self._num_parts > self._bounds.max_form_parts:
            raise FieldError(f"the form has more than {self._bounds.max_form_parts} parts, the limit; send fewer")
        name, filename = disposition_of(head)
        if name == "file":
            if self._form.filename is not None:
                raise FieldError("the form has two files; send one", "file")
            self._name, self._form.filename = None, filename or "file"
        elif name in self._form.fields:
            raise FieldError(f"the form has the field {name[:50]!r} twice; send it once", name[:50])
        else:
            self._name = name
        self._value.clear()

    def _read_part_start(self, pieces: list[bytes]) -> bool:
        line = self._delimiter[2:]
        if len(self._buffer) < len(line):
            return False
        if self._buffer.startswith(line):
            raise FieldError("a part of the form begins with the boundary, which may or may not end it; choose another")
        self._read = self._read_part
        return True

    def _read_part(self, pieces: list[bytes]) -> bool:
        found = self._buffer.find(self._delimiter)
        # Without a boundary all but what may be the beginning of one belongs to the part.
        size = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if size:
            self._take(bytes(self._buffer[:size]), pieces)
            del self._buffer[:size]
        if found < 0:
            return False
        if self._name is not None:
            self._form.fields[self._name] = self._value.decode("utf-8", errors="replace")
        return self._after_boundary(len(self._delimiter))

    def _take(self, data: bytes, pieces: list[bytes]) -> None:
        if self._name is None:
            pieces.append(data)
            return
        self._value += data
        limit = self._bounds.max_form_field_bytes
        if len(self._value) > limit:
            raise FieldError(f"the field {self._name[:50]!r} has more than {limit} bytes, the limit", self._name[:50])

    def _after_boundary(self, size: int) -> bool:
        del self._buffer[:size]
        self._read = self._read_boundary_end
        return True

    def _read_rest(self, pieces: list[bytes]) -> bool:
        self._buffer.clear()  # what stands behind the form means nothing
        return False


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names."""
    kind, _, rest = content_type.partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise FieldError("a file comes in a form: Content-Type must be multipart/form-data")
    boundary = dict(_parameters(rest)).get("boundary", "").encode("utf-8", "replace")
    if not 0 < len(boundary) <= MAX_BOUNDARY or not _BOUNDARY_BYTES.issuperset(boundary) or boundary.endswith(b" "):
        raise FieldError("Content-Type names no boundary, or one that is not 1 to 70 plain characters")
    return boundary


def disposition_of(head: bytes) -> tuple[str, str | None]:
    """Which field a part is, and the name of its file if it has one."""
    for line in head.split(b"\r\n"):
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        if name.strip().lower() == "content-disposition":
            kind, _, rest = value.partition(";")
            found = dict(_parameters(rest))
            if kind.strip().lower() == "form-data" and found.get("name"):
                return found["name"], found.get("filename")
    raise FieldError("a part of the form does not say which field it is; send Content-Disposition with a name")


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    """`; name=value; name="value"`, each once as it stands; quotes may hold what would end a value otherwise."""
    position = 0
    while position < len(text):
        equals = text.find("=", position)
        if equals < 0:
            return
        name = text[position:equals].strip(" \t;").lower()
        value, position = _value(text, equals + 1)
        yield name, value


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that begins here, and where the next parameter does."""
    if not text.startswith('"', start):
        end = text.find(";", start)
        end = len(text) if end < 0 else end
        return text[start:end].strip(), end + 1
    letters, position = [], start + 1
    while position < len(text) and text[position] != '"':
        is_escaped = text[position] == "\\" and text[position + 1 : position + 2] in ('"', "\\")
        position += is_escaped
        letters.append(text[position : position + 1])
        position += 1
    return "".join(letters), position + 1
