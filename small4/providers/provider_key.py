"""A hosted provider's key in memory: it goes to the origin that it is bound to, and shows itself nowhere else."""

from typing import NoReturn
from urllib.parse import quote

from small4.errors import ConfigError

MAX_LENGTH = 4096  # characters
MASK = "[key]"
ENDING = 4  # characters that tell keys apart in listings
_PIECE = 8  # characters in a row that are too much of a key to be shown
_SHORTEST = 4  # a key below that is a word such as "x", which local servers want to see and no one has to hide


class ProviderKey:
    """A key and its origin. Whoever prints, logs or pickles it gets no part of the key."""

    __slots__ = ("_pieces", "_text", "origin")

    def __init__(self, text: str, origin: str) -> None:
        if not 0 < len(text) <= MAX_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError(
                f"a key is 1 to {MAX_LENGTH} printable ASCII characters without blanks; copy it once more"
            )
        self._text, self.origin = text, origin
        self._pieces = _pieces(text) | _pieces(quote(text, safe=""))

    def text_for(self, origin: str) -> str:
        """The key itself, for a request to its own origin."""
        if origin != self.origin:
            raise ConfigError(f"the key for {self.origin} is not sent to {origin}; give that one a key of its own")
        return self._text

    @property
    def ending(self) -> str:
        """Its last characters, where enough others stay hidden."""
        return self._text[-ENDING:] if len(self._text) >= 4 * ENDING else ""

    def redact(self, text: str) -> str:
        """The text with every piece of the key masked that is long enough to be of use."""
        length = len(next(iter(self._pieces), ""))
        places = [i for i in range(len(text) - length + 1) if text[i : i + length] in self._pieces] if length else []
        kept: list[str] = []
        end = 0
        for place in places:
            if place > end or not kept:
                kept += [text[end:place], MASK]
            end = place + length
        return "".join(kept) + text[end:]

    def __repr__(self) -> str:
        return f"ProviderKey({MASK}, {self.origin!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not copied into a pickle")


def _pieces(text: str) -> frozenset[str]:
    length = min(_PIECE, len(text))
    if length < _SHORTEST:
        return frozenset()
    return frozenset(text[i : i + length] for i in range(len(text) - length + 1))
