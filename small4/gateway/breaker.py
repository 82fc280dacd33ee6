"""The circuit breaker of a route: a route that fails is left alone for a while, then tried with one request.

    closed     requests pass; `max_faults` in a row, a refused key, `max_barred` requests in a row that its account
               may not make, or a provider that asks for a pause open it
    open       nothing passes until its time is over; then it is half-open
    half-open  one request passes, the probe; its success closes the breaker, its fault opens it for twice as long
    on trial   the probe begins to answer: requests pass as if it were closed, and the first fault opens it again

States are values and transitions are functions of them, so that nothing is hidden and everything can be replayed.
"""

from dataclasses import dataclass, replace
from typing import Literal

from small4.errors import ConfigError
from small4.gateway.outcome import Verdict

Phase = Literal["closed", "open", "half-open"]
Pass = Literal["normal", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a route is left alone, and for how long."""

    max_faults: int = 5  # in a row
    max_barred: int = 2  # in a row: one may be this request's own doing, such as what it asks about or for how much
    pause_seconds: float = 1.0  # the first time; doubled by every probe that fails
    max_pause_seconds: float = 8.0  # but for a provider that asks for a longer one
    max_asked_seconds: float = 3600.0  # that a provider may ask for
    key_pause_seconds: float = 60.0  # after a refused key, which a person has to mend
    probe_seconds: float = 150.0  # after which a probe that did not come back counts as lost

    def __post_init__(self) -> None:
        if self.max_faults < 1:
            raise ConfigError(f"max_faults is {self.max_faults}; a breaker needs at least 1")
        if not 0 < self.pause_seconds <= self.max_pause_seconds:
            raise ConfigError("pause_seconds must be more than 0 and no more than max_pause_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """Times are seconds of a clock that only goes forward."""

    num_faults: int = 0  # in a row
    num_barred: int = 0  # in a row
    num_pauses: int = 0  # in a row, without a success between them
    open_until: float | None = None  # None: closed
    probe_since: float | None = None  # None: no probe is on its way

    def phase(self, now: float) -> Phase:
        """What it is at this time."""
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half-open"


CLOSED = BreakerState()


def admit(state: BreakerState, now: float, config: BreakerConfig) -> tuple[BreakerState, Pass | None]:
    """Whether a request may go to the route, to be handed to `report` with what came of it."""
    match state.phase(now):
        case "closed":
            return state, "normal"
        case "open":
            return state, None
        case _:
            if state.probe_since is not None and now - state.probe_since < config.probe_seconds:
                return state, None
            return replace(state, probe_since=now), "probe"


def can_pass(state: BreakerState, now: float, config: BreakerConfig) -> bool:
    """Whether `admit` would let a request pass."""
    return admit(state, now, config)[1] is not None


def begin(state: BreakerState, passed: Pass, config: BreakerConfig) -> BreakerState:
    """The state once a request begins to answer; a probe's is ended as a normal request from then on."""
    if passed == "normal":
        return state
    # Its whole answer may take minutes, for which everybody else would wait.
    return replace(state, open_until=None, probe_since=None, num_faults=config.max_faults - 1)


def report(
    state: BreakerState,
    passed: Pass,
    verdict: Verdict,
    now: float,
    config: BreakerConfig,
    asked_seconds: float | None = None,
) -> BreakerState:
    """The state after a request has ended; `asked_seconds` is for how long the provider wants to be left alone."""
    if passed == "probe":
        state = replace(state, probe_since=None)
    elif state.open_until is not None and verdict != "fault" and verdict != "key":
        return state  # it began before the pause, and says nothing of the present
    match verdict:
        case "success" | "answered":
            return CLOSED
        case "unknown":
            return state
        case "key":
            return _opened(state, now, config.key_pause_seconds)
        case "barred":
            state = replace(state, num_barred=state.num_barred + 1)
            is_all = state.num_barred >= config.max_barred
            return _opened(state, now, config.key_pause_seconds) if is_all else state
        case _:
            return _after_fault(state, passed, now, config, asked_seconds)


def _after_fault(
    state: BreakerState, passed: Pass, now: float, config: BreakerConfig, asked_seconds: float | None
) -> BreakerState:
    state = replace(state, num_faults=state.num_faults + 1)
    asked = min(asked_seconds or 0.0, config.max_asked_seconds)
    if passed == "probe" or (state.open_until is None and state.num_faults >= config.max_faults):
        pause = min(config.pause_seconds * 2.0 ** min(state.num_pauses, 30), config.max_pause_seconds)
        return replace(_opened(state, now, max(pause, asked)), num_pauses=state.num_pauses + 1)
    return _opened(state, now, asked) if asked else state


def _opened(state: BreakerState, now: float, seconds: float) -> BreakerState:
    """A pause that is never shorter than one that was begun before."""
    return replace(state, open_until=max(state.open_until or 0.0, now + seconds))
