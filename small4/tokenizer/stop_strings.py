"""Stop strings in text that arrives in pieces, whatever token borders they lie across.

The text ends where the first stop string is complete; of several that are complete at the same character, with the
longest. What could still become the beginning of one is held back. Each string keeps how many of its characters the
text so far ends with (Knuth, Morris and Pratt), so a long string costs no more than a short one.
"""

from collections.abc import Sequence

from small4.errors import SamplingError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


def check_stop(stops: Sequence[str]) -> None:
    """Raise SamplingError for stop strings that are too many or too long, or that no text can hold."""
    if isinstance(stops, str):
        raise SamplingError("stop is one text; give a tuple of texts")
    if len(stops) > MAX_STOPS:
        raise SamplingError(f"there are {len(stops)} stop strings, the limit is {MAX_STOPS}; leave some out")
    for number, stop in enumerate(stops, 1):
        if not isinstance(stop, str):
            raise SamplingError(f"stop string {number} is {type(stop).__name__}; it must be text")
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise SamplingError(
                f"stop string {number} has {len(stop)} characters; it must have 1 to {MAX_STOP_CHARACTERS}"
            )
        if any("\ud800" <= character <= "\udfff" for character in stop):
            raise SamplingError(
                f"stop string {number} holds half a surrogate pair, which no answer can; mend its encoding"
            )


class StopStrings:
    """Takes text piece by piece and gives what may be shown of it, up to the first stop string and without it."""

    def __init__(self, stops: Sequence[str]) -> None:
        check_stop(stops)
        self.found: str | None = None
        self._matches = [_Match(stop) for stop in stops]
        self._held = ""

    def push(self, text: str) -> str:
        """The part of the text so far that can be shown now; nothing once a stop string was found."""
        if not self._matches:
            return text
        if self.found is not None:
            return ""
        text = self._held + text
        for end in range(len(self._held) + 1, len(text) + 1):
            complete = [match.stop for match in self._matches if match.take(text[end - 1])]
            if complete:
                self.found, self._held = max(complete, key=len), ""
                return text[: end - len(self.found)]
        held = max(match.length for match in self._matches)
        shown, self._held = text[: len(text) - held], text[len(text) - held :]
        return shown

    def flush(self) -> str:
        """What was held back, for the end of the text; the next piece begins another text."""
        held, self._held = self._held, ""
        for match in self._matches:
            match.length = 0
        return held


class _Match:
    """How far one stop string has come; `length` of its characters are the end of the text."""

    def __init__(self, stop: str) -> None:
        self.stop, self.length = stop, 0
        self.shorter = [0] * len(stop)  # per place: the longest shorter beginning that also ends there
        for place in range(1, len(stop)):
            self.shorter[place] = self._longer(self.shorter[place - 1], stop[place])

    def take(self, character: str) -> bool:
        """Whether the string is complete with this character."""
        self.length = self._longer(self.length, character)
        return self.length == len(self.stop)

    def _longer(self, length: int, character: str) -> int:
        """The longest beginning that the text ends with, once `character` follows one of `length`."""
        while length and self.stop[length] != character:
            length = self.shorter[length - 1]
        return length + 1 if self.stop[length] == character else 0
