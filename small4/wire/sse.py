"""Server-sent events: bytes to events and events to bytes, after the WHATWG's event stream format.

A line ends with CR LF, LF or CR; `data:` lines of one event are joined by LF; a blank line ends the event; lines that
begin with a colon are comments; an event that the stream's end cuts off is dropped, as the standard asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from small4.errors import UpstreamError

MAX_EVENT_BYTES = 4 * 2**20  # of one event that is read, its lines together

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its data, and its name where the dialect gives names."""

    data: str
    name: str | None = None


def encode(event: ServerEvent) -> bytes:
    """The event's bytes, blank line included."""
    lines = [] if event.name is None else [f"event: {event.name}"]
    lines += [f"data: {line}" for line in event.data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


class EventReader:
    """Feed bytes as they come, cut anywhere; get the events that they complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""  # of the line that has not ended
        self._name: str | None = None
        self._data: list[str] = []
        self._num_bytes = 0  # of the event's lines so far
        self._is_first = True  # a byte order mark may stand before the first line

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """The events that end in these bytes; raises `UpstreamError` where one grows past the limit."""
        lines, self._rest = _split(self._rest + data)
        for line in lines:
            if (event := self._take(line)) is not None:
                yield event
        if self._num_bytes + len(self._rest) > self._max_event_bytes:
            self._refuse()

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._is_first:
            line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return self._end_event()
        self._num_bytes += len(line)
        if self._num_bytes > self._max_event_bytes:
            self._refuse()
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

    def _refuse(self) -> None:
        raise UpstreamError(f"an event of the stream is larger than {self._max_event_bytes} bytes, the limit")


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines, and what follows the last; a CR at the very end may be half of a CR LF and waits."""
    is_waiting = data.endswith(b"\r")
    text = (data[:-1] if is_waiting else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = text.split(b"\n")
    return lines, rest + b"\r" if is_waiting else rest
