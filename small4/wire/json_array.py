"""A stream as one JSON array, which Google's clients get that do not ask for server-sent events."""

from small4.wire.sse import ServerEvent


class ArrayEncoder:
    """The events' bytes: each an element, the array closed at the end."""

    def __init__(self) -> None:
        self._is_first = True

    def encode(self, event: ServerEvent) -> bytes:
        """The bytes of one more element."""
        separator = "[" if self._is_first else ",\r\n"
        self._is_first = False
        return (separator + event.data).encode()

    def end(self) -> bytes:
        """What the stream ends with."""
        return b"[]" if self._is_first else b"]"
