"""The words of all dialects for how much to think, and which of the model's two states each one means."""

from small4.chat import Effort
from small4.errors import FieldError

EFFORT_WORDS: dict[str, Effort] = {
    "none": "none",
    "minimal": "none",
    "low": "high",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def effort_of(word: str, param: str) -> Effort:
    """The effort that a word asks for, in whatever case it is written; `param` is the path of its field."""
    effort = EFFORT_WORDS.get(word.lower())
    if effort is None:
        words = ", ".join(EFFORT_WORDS)
        raise FieldError(f"{param}: {word[:40]!r} is no reasoning effort; choose one of {words}", param)
    return effort
