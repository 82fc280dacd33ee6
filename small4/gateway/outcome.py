"""What an attempt's end says of its route: an error's class, and whether it is the provider's fault.

success   the whole answer came
fault     the provider did not answer, or not to the end: counts against its uptime, and its breaker
key       it refuses the key that it is given: the breaker's business, not its uptime's
barred    it refuses this request to the key's account (402, 403): perhaps this one alone, perhaps all
answered  it refused what the caller asked: says that it lives, and nothing else
unknown   the caller left, or we stopped it, had no connection free, or no word for it: says nothing
"""

from typing import Literal

from small4.errors import (
    BusyError,
    ConnectionsBusyError,
    EngineStoppedError,
    ForbiddenError,
    RateLimitError,
    RequestError,
    TooLargeError,
    UnknownModelError,
    UnsayableError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)

Verdict = Literal["success", "fault", "key", "barred", "answered", "unknown"]
ErrorClass = Literal[
    "unreachable",
    "timeout",
    "rate_limit",
    "overloaded",
    "key",
    "server",
    "broken",
    "refused",
    "caller",
    "internal",
    "busy",
    "unsayable",
]

_CLASSES: tuple[tuple[type[Exception], ErrorClass], ...] = (  # the first that fits
    (ConnectionsBusyError, "busy"),
    (UnsayableError, "unsayable"),
    (UpstreamUnreachableError, "unreachable"),
    (UpstreamTimeoutError, "timeout"),
    (UpstreamKeyError, "key"),
    (RateLimitError, "rate_limit"),
    (BusyError, "overloaded"),
    (EngineStoppedError, "overloaded"),
    *((kind, "caller") for kind in (RequestError, ForbiddenError, TooLargeError, UnknownModelError)),
)


def error_class(error: Exception) -> ErrorClass:
    """What kind of error it is, in a word that no caller can make up."""
    for kind, name in _CLASSES:
        if isinstance(error, kind):
            return name
    if isinstance(error, UpstreamError):
        return "broken" if error.status is None or error.status < 400 else _class_of_status(error.status)
    return "internal"


def verdict_of(error: Exception | None) -> Verdict:
    """What the end of an attempt says of its route; None is an answer that came whole."""
    if error is None:
        return "success"
    match error_class(error):
        case "caller" | "refused":
            return "answered"
        case "key":
            return "barred" if isinstance(error, UpstreamError) and error.status in (402, 403) else "key"
        case "busy" | "unsayable":
            return "unknown"
        case _:
            return "fault"


def retry_after(error: Exception | None) -> float | None:
    """Seconds for which the provider asked to be left alone."""
    return error.retry_after_seconds if isinstance(error, RateLimitError | UpstreamError) else None


def _class_of_status(status: int) -> ErrorClass:
    if status in (408, 504):
        return "timeout"
    if status in (401, 402, 403):
        return "key"
    if status == 429:
        return "rate_limit"
    if status in (503, 529):
        return "overloaded"
    return "refused" if status < 500 else "server"
