"""What went wrong, in words that every dialect can say, and which exception is which problem.

Only messages of our own exceptions leave the process; any other exception is an internal fault with a fixed text,
since what it says may hold addresses, paths or someone's prompt.
"""

from dataclasses import dataclass
from typing import Literal

from small4.errors import (
    AuthenticationError,
    BudgetError,
    BusyError,
    ConflictError,
    ContextLengthError,
    EngineStoppedError,
    FieldError,
    ForbiddenError,
    LedgerUnavailableError,
    RateLimitError,
    RequestError,
    Small4Error,
    TooLargeError,
    UnknownModelError,
    UnknownPathError,
    UnknownResponseError,
    UpstreamError,
    UpstreamTimeoutError,
)

Kind = Literal[
    "invalid",  # 400
    "authentication",  # 401
    "forbidden",  # 403
    "unknown_model",  # 404
    "unknown_path",  # 404
    "conflict",  # 409
    "too_large",  # 413
    "rate_limit",  # 429
    "internal",  # 500
    "upstream",  # 502
    "overloaded",  # 503
    "timeout",  # 504
]

STATUS: dict[Kind, int] = {
    "invalid": 400,
    "authentication": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "unknown_path": 404,
    "conflict": 409,
    "too_large": 413,
    "rate_limit": 429,
    "internal": 500,
    "upstream": 502,
    "overloaded": 503,
    "timeout": 504,
}

INTERNAL_MESSAGE = "an internal error; the request may be sent again, and the server's log has the rest"

_KINDS: tuple[tuple[type[Small4Error], Kind], ...] = (  # the first that fits
    (AuthenticationError, "authentication"),
    (ForbiddenError, "forbidden"),
    (UnknownModelError, "unknown_model"),
    (UnknownPathError, "unknown_path"),
    (ConflictError, "conflict"),
    (TooLargeError, "too_large"),
    (RateLimitError, "rate_limit"),
    (BusyError, "overloaded"),
    (LedgerUnavailableError, "overloaded"),
    (EngineStoppedError, "overloaded"),
    (UpstreamTimeoutError, "timeout"),
    (UpstreamError, "upstream"),
    (RequestError, "invalid"),
)


_CODES: tuple[tuple[type[Small4Error], str], ...] = (
    (ContextLengthError, "context_length_exceeded"),
    (UnknownResponseError, "previous_response_not_found"),
    (BudgetError, "insufficient_quota"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request got no answer, or only part of one."""

    kind: Kind
    message: str
    param: str | None = None  # path of the field, where one is to blame
    code: str | None = None  # a finer word, of the OpenAI vocabulary
    retry_after_seconds: float | None = None
    exact_status: int | None = None  # where HTTP has a finer one than that of the kind

    @property
    def status(self) -> int:
        """The HTTP status that says it before an answer has begun."""
        return self.exact_status or STATUS[self.kind]


def problem_of(error: Exception) -> Problem:
    """What an exception means to a caller."""
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            return Problem(
                kind,
                str(error),
                param=error.param if isinstance(error, FieldError) else None,
                code=next((code for kind_of_error, code in _CODES if isinstance(error, kind_of_error)), None),
                retry_after_seconds=_retry_after(error),
            )
    return Problem("internal", INTERNAL_MESSAGE)


def _retry_after(error: Small4Error) -> float | None:
    if isinstance(error, RateLimitError | UpstreamError):
        return error.retry_after_seconds
    return 1.0 if isinstance(error, (BusyError, EngineStoppedError, LedgerUnavailableError)) else None
