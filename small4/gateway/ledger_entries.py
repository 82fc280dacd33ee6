"""What the ledger is told of an attempt: that it is about to begin, and how it ended.

An attempt is one try of one route for one request; a request that falls back has several.
"""

from dataclasses import dataclass
from decimal import Decimal

from small4.chat import FinishReason, Usage
from small4.errors import LedgerError
from small4.gateway.money import to_units

AttemptId = tuple[str, int]  # the request's id, and which of its attempts this is, from 0

MAX_TEXT = 256  # characters of any name
MAX_TOKENS = 2**40
MAX_SECONDS = 10_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An attempt that is about to begin, and the most that it may cost."""

    request_id: str
    attempt: int = 0
    route: str
    model: str
    estimate: Decimal | None  # dollars, no less than what it will cost; None: unknown, so no budget may apply
    dialect: str = ""  # that the caller spoke
    key: str = ""  # id of the caller's key; empty: nobody had to show one
    app: str = ""

    def __post_init__(self) -> None:
        for text in (self.request_id, self.route, self.model, self.dialect, self.key, self.app):
            _check_text(text)
        if not 0 <= self.attempt < 1000:
            raise LedgerError(f"attempt number {self.attempt} of a request; the ledger keeps 0 to 999")
        if self.estimate is not None:
            to_units(self.estimate)

    @property
    def id(self) -> AttemptId:
        return self.request_id, self.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How an attempt ended, what it used, and what it cost."""

    request_id: str
    attempt: int = 0
    usage: Usage
    cost: Decimal | None  # dollars; None: unknown
    finish: FinishReason
    is_estimate: bool = False  # whether the tokens were counted here, since the provider did not tell
    error_class: str | None = None  # kind of the error that ended it
    first_token_seconds: float | None = None  # after the beginning; None: there was none
    duration_seconds: float

    def __post_init__(self) -> None:
        usage = self.usage
        counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens)
        if not all(0 <= count <= MAX_TOKENS for count in counts):
            raise LedgerError(f"token counts {counts} cannot be booked; each must lie between 0 and {MAX_TOKENS}")
        for seconds in (self.first_token_seconds or 0.0, self.duration_seconds):
            if not 0 <= seconds <= MAX_SECONDS:
                raise LedgerError(f"a duration of {seconds} s cannot be booked; the limit is {MAX_SECONDS:.0f} s")
        if self.cost is not None:
            to_units(self.cost)
        _check_text(self.error_class or "")

    @property
    def id(self) -> AttemptId:
        return self.request_id, self.attempt


@dataclass(frozen=True, slots=True)
class Release:
    """An attempt that used nothing: what was held for it is free again."""

    request_id: str
    attempt: int = 0
    error_class: str | None = None

    @property
    def id(self) -> AttemptId:
        return self.request_id, self.attempt


@dataclass(frozen=True, slots=True)
class Begun:
    """A reservation with the time at which it was made."""

    reservation: Reservation
    began_us: int  # microseconds since 1970

    @property
    def id(self) -> AttemptId:
        return self.reservation.id

    @property
    def day(self) -> int:
        """Days since 1970-01-01, UTC."""
        return self.began_us // (86_400 * 1_000_000)


Entry = Begun | Settlement | Release


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise LedgerError(f"a name of {len(text)} characters cannot be booked; the limit is {MAX_TEXT} printable ones")
