"""What is known of each route from its own traffic: how fast it was, how often it answered, and whether to ask it now.

    passed = health.admit(route)            # None: its breaker is open
    health.record(route, passed, Outcome(...))
    health.measure(route, "5m")             # None where nothing was measured

Uptime is successes / (successes + faults of the provider). What a caller did wrong, or broke off, never counts.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from small4.gateway.breaker import CLOSED, BreakerConfig, BreakerState, Pass, Phase, admit, begin, can_pass, report
from small4.gateway.outcome import Verdict
from small4.gateway.retry_budget import RetryBudget, RetryConfig
from small4.gateway.rolling import Percentiles, RollingWindow, Slice

Window = Literal["5m", "30m", "1d"]
SLICES: dict[Window, tuple[int, float]] = {"5m": (15, 20.0), "30m": (15, 120.0), "1d": (24, 3600.0)}

MIN_SPEED_TOKENS = 8  # an answer shorter than this says nothing of speed


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How routes are watched."""

    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    retries: RetryConfig = field(default_factory=RetryConfig)
    max_routes: int = 1000  # with measurements; the one that was not used for longest is forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one attempt ended."""

    verdict: Verdict
    error_class: str | None = None
    asked_seconds: float | None = None  # for which the provider asked to be left alone
    first_token_seconds: float | None = None
    duration_seconds: float | None = None
    completion_tokens: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Between the first token and the last; None where that cannot be told."""
        tokens, first, end = self.completion_tokens, self.first_token_seconds, self.duration_seconds
        if tokens is None or first is None or end is None or tokens < MIN_SPEED_TOKENS or end <= first:
            return None
        return (tokens - 1) / (end - first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A route over one window."""

    num_successes: int
    num_faults: int
    errors: Mapping[str, int]  # by class, the caller's own too
    uptime: float | None  # None: nothing that counts ended
    first_token_seconds: Percentiles | None
    tokens_per_second: Percentiles | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTotals:
    """All that ever ended on a route."""

    results: Mapping[str, int] = field(
        default_factory=dict
    )  # success, the class of the error, or unknown: left, or stopped here
    num_tokens: int = 0  # of answers that came whole


class Health:
    """Every route's measurements, breaker and retry budget. Lives in one event loop."""

    def __init__(self, config: HealthConfig | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config or HealthConfig()
        self._clock = clock
        self._routes: OrderedDict[str, _Route] = OrderedDict()

    def admit(self, route: str, *, is_retry: bool = False) -> Pass | None:
        """Whether a request may go there; if so, `record` has to follow, whatever happens."""
        known, now = self._route(route), self._clock()
        known.breaker, passed = admit(known.breaker, now, self._config.breaker)
        if passed is not None and not is_retry:
            known.retries.note_request(now)
        return passed

    def begin(self, route: str, passed: Pass) -> Pass:
        """The request that passed begins to answer; returns how it is to be recorded at its end."""
        known = self._route(route)
        known.breaker = begin(known.breaker, passed, self._config.breaker)
        return "normal"

    def may_retry(self, route: str) -> bool:
        """Whether a request that failed there may go there once more."""
        return self._route(route).retries.may_retry(self._clock())

    def phase(self, route: str) -> Phase:
        """Of its breaker, without letting anything pass."""
        known = self._routes.get(route)
        return "closed" if known is None else known.breaker.phase(self._clock())

    def can_pass(self, route: str) -> bool:
        """Whether a request may go there now, without letting one pass."""
        known = self._routes.get(route)
        return known is None or can_pass(known.breaker, self._clock(), self._config.breaker)

    def open_seconds(self, route: str) -> float:
        """For how long nothing will be sent there."""
        known = self._routes.get(route)
        until = None if known is None else known.breaker.open_until
        return 0.0 if until is None else max(0.0, until - self._clock())

    def record(self, route: str, passed: Pass, outcome: Outcome) -> None:
        """Count how an attempt ended."""
        known, now = self._route(route), self._clock()
        known.breaker = report(known.breaker, passed, outcome.verdict, now, self._config.breaker, outcome.asked_seconds)
        for window in known.windows.values():
            _count(window.current(now), outcome)
        known.results["success" if outcome.verdict == "success" else outcome.error_class or "unknown"] += 1
        known.num_tokens += outcome.completion_tokens or 0

    def totals(self) -> Mapping[str, RouteTotals]:
        """Every route since the start."""
        return {
            name: RouteTotals(results=dict(route.results), num_tokens=route.num_tokens)
            for name, route in self._routes.items()
        }

    def measure(self, route: str, window: Window) -> Measurement | None:
        """The route over a window; None where nothing ended in it."""
        known = self._routes.get(route)
        if known is None:
            return None
        total = known.windows[window].total(self._clock())
        if not (total.num_successes or total.num_faults or total.errors):
            return None
        num_counted = total.num_successes + total.num_faults
        return Measurement(
            num_successes=total.num_successes,
            num_faults=total.num_faults,
            errors=dict(total.errors),
            uptime=total.num_successes / num_counted if num_counted else None,
            first_token_seconds=total.first_token_seconds.percentiles(),
            tokens_per_second=total.tokens_per_second.percentiles(),
        )

    def _route(self, name: str) -> "_Route":
        known = self._routes.get(name)
        if known is None:
            known = self._routes[name] = _Route(RetryBudget(self._config.retries))
            if len(self._routes) > self._config.max_routes:
                self._routes.popitem(last=False)
        self._routes.move_to_end(name)
        return known


class _Route:
    def __init__(self, retries: RetryBudget) -> None:
        self.breaker: BreakerState = CLOSED
        self.retries = retries
        self.results: Counter[str] = Counter()
        self.num_tokens = 0
        self.windows: dict[Window, RollingWindow] = {name: RollingWindow(*size) for name, size in SLICES.items()}


def _count(now: Slice, outcome: Outcome) -> None:
    now.num_successes += outcome.verdict == "success"
    now.num_faults += outcome.verdict == "fault"
    if outcome.error_class is not None:
        now.errors[outcome.error_class] += 1
    if outcome.verdict != "success":
        return
    if outcome.first_token_seconds is not None:
        now.first_token_seconds.add(outcome.first_token_seconds)
    if outcome.tokens_per_second is not None:
        now.tokens_per_second.add(outcome.tokens_per_second)
