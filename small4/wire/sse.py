"""Server-sent events: bytes to events and events to bytes, after the WHATWG's event stream format.

A line ends with CR LF, LF or CR; `data:` lines of one event are joined by LF; a blank line ends the event; lines that
begin with a colon are comments; an event that the stream's end cuts off is dropped, as the standard asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from small4.errors import UpstreamError

MAX_EVENT_BYTES = 4 * 2**20  # of one event that is read, its lines together
MAX_LINE_BYTES = MAX_EVENT_BYTES

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its data, and its name where the dialect gives names."""

    data: str
    name: str | None = None


def encode(event: ServerEvent) -> bytes:
    """The event's bytes, blank line included."""
    if event.name is None and "\n" not in event.data:
        return f"data: {event.data}\n\n".encode()
    lines = [] if event.name is None else [f"event: {event.name}"]
    lines += [f"data: {line}" for line in event.data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


class EventReader:
    """Feed bytes as they come, cut anywhere; get the events that they complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_event_bytes, self._max_line_bytes = max_event_bytes, max_line_bytes
        self._rest: list[bytes] = []  # of the line that has not ended
        self._num_rest = 0
        self._has_return = False  # the last byte was a CR, which may be half of a CR LF
        self._name: str | None = None
        self._data: list[str] = []
        self._num_bytes = 0  # of the event's lines so far
        self._is_first = True  # a byte order mark may stand before the first line

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """The events that end in these bytes; raises `UpstreamError` where a line or an event grows past its limit."""
        for line in self._lines(data):
            if (event := self._take(line)) is not None:
                yield event
        if self._num_rest > self._max_line_bytes:
            self._refuse("a line", self._max_line_bytes)
        if self._num_bytes + self._num_rest > self._max_event_bytes:
            self._refuse("an event", self._max_event_bytes)

    def end(self) -> Iterator[ServerEvent]:
        """The event that a CR at the very end of the stream completes: no LF follows it any more."""
        return self.feed(b"\n") if self._has_return else iter(())

    def _lines(self, data: bytes) -> list[bytes]:
        """The whole lines; a CR at the very end waits for what follows."""
        if self._has_return:
            data = b"\r" + data
        self._has_return = data.endswith(b"\r")
        text = (data[:-1] if self._has_return else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._num_rest = [], 0
        # Pieces are joined once their line is whole: a line that comes byte by byte is not copied with each of them.
        self._rest.append(rest)
        self._num_rest += len(rest)
        return lines

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._is_first:
            line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return self._end_event()
        if len(line) > self._max_line_bytes:
            self._refuse("a line", self._max_line_bytes)
        self._num_bytes += len(line)
        if self._num_bytes > self._max_event_bytes:
            self._refuse("an event", self._max_event_bytes)
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None  # comments, id, retry and unknown fields change nothing here

    def _end_event(self) -> ServerEvent | None:
        event = ServerEvent("\n".join(self._data), self._name) if self._data else None
        self._name, self._data, self._num_bytes = None, [], 0
        return event

    def _refuse(self, what: str, limit: int) -> None:
        raise UpstreamError(f"{what} of the stream is larger than {limit} bytes, the limit")
