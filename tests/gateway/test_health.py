"""Measurements equal their definition, callers' mistakes never count against a route, and memory stays bounded."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import Usage
from small4.errors import (
    BusyError,
    ContextLengthError,
    FieldError,
    NonFiniteLogitsError,
    RateLimitError,
    UnknownModelError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from small4.gateway.health import SLICES, Health, HealthConfig, Outcome
from small4.gateway.outcome import error_class, retry_after, verdict_of
from small4.gateway.rolling import LARGEST, SHARES, SMALLEST, Histogram

TOLERANCE = 0.01  # of a percentile, by the width of the buckets
SUCCESS = Outcome(verdict="success", first_token_seconds=0.5, duration_seconds=2.5, completion_tokens=201)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched() -> tuple[Health, Clock]:
    clock = Clock()
    return Health(clock=clock), clock


def sorted_percentile(values: list[float], share: float) -> float:
    """The definition."""
    return next(
        value for value in sorted(values) if sum(other <= value for other in values) >= share * len(values) - 1e-9
    )


@given(values=st.lists(st.floats(SMALLEST, LARGEST), min_size=1, max_size=60))
def test_percentiles_are_those_of_the_sorted_values(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.percentiles()
    assert found is not None
    for share in SHARES:
        told = getattr(found, f"p{round(share * 100)}")
        assert told == pytest.approx(sorted_percentile(values, share), rel=TOLERANCE)


@settings(max_examples=60)
@given(
    log=st.lists(
        st.tuples(st.floats(0, 3000), st.floats(0.001, 30), st.sampled_from(["success", "fault", "key", "answered"])),
        max_size=50,
    ),
    end=st.floats(0, 4000),
)
def test_replayed_log_gives_what_lies_in_the_window(log: list[tuple[float, float, str]], end: float) -> None:
    health, clock = watched()
    for clock.now, seconds, verdict in sorted(log):
        health.record("a", "normal", Outcome(verdict=verdict, first_token_seconds=seconds, error_class=verdict))
    clock.now = max(end, clock.now if log else 0.0)
    for window, (num_slices, slice_seconds) in SLICES.items():
        newest = math.floor(clock.now / slice_seconds)
        meant = [entry for entry in log if math.floor(entry[0] / slice_seconds) > newest - num_slices]
        found = health.measure("a", window)
        if not meant:
            assert found is None
            continue
        assert found is not None
        verdicts = [verdict for _, _, verdict in meant]
        counted = verdicts.count("success"), verdicts.count("fault")
        assert (found.num_successes, found.num_faults) == counted
        assert found.uptime == (counted[0] / sum(counted) if any(counted) else None)
        assert found.errors == {verdict: verdicts.count(verdict) for verdict in set(verdicts)}
        seconds = [seconds for _, seconds, verdict in meant if verdict == "success"]
        assert (found.first_token_seconds is None) == (not seconds)
        if found.first_token_seconds is not None:
            assert found.first_token_seconds.p90 == pytest.approx(sorted_percentile(seconds, 0.9), rel=TOLERANCE)


def test_hundred_known_answers_have_known_percentiles() -> None:
    health, _ = watched()
    for number in range(1, 101):
        outcome = Outcome(
            verdict="success",
            first_token_seconds=number / 100,
            duration_seconds=number / 100 + 10,
            completion_tokens=501,
        )
        health.record("a", "normal", outcome)
    found = health.measure("a", "5m")
    assert found is not None
    assert found.first_token_seconds is not None
    assert found.tokens_per_second is not None
    assert (found.first_token_seconds.p50, found.first_token_seconds.p99) == pytest.approx((0.5, 0.99), rel=TOLERANCE)
    assert found.tokens_per_second.p50 == pytest.approx(50, rel=TOLERANCE)


def test_empty_window_is_none() -> None:
    health, clock = watched()
    assert health.measure("a", "5m") is None
    health.record("a", "normal", SUCCESS)
    clock.now += 301
    assert health.measure("a", "5m") is None
    assert health.measure("a", "30m") is not None
    clock.now += 86_400
    assert health.measure("a", "1d") is None


CALLERS_OWN = [FieldError("no"), ContextLengthError("long"), UnknownModelError("what"), FieldError("bad")]
PROVIDERS = [
    (UpstreamError("dead", 500), "server"),
    (UpstreamError("cut"), "broken"),
    (UpstreamError("slow", 504), "timeout"),
    (UpstreamError("full", 529), "overloaded"),
    (UpstreamTimeoutError("slow"), "timeout"),
    (UpstreamUnreachableError("no"), "unreachable"),
    (RateLimitError("wait", 3.0), "rate_limit"),
    (BusyError("full"), "overloaded"),
    (NonFiniteLogitsError("NaN"), "internal"),
    (ValueError("a bug"), "internal"),
]


def test_callers_own_mistakes_never_count_against_a_route() -> None:
    health, _ = watched()
    for error in CALLERS_OWN * 10:
        passed = health.admit("a")
        assert passed is not None
        health.record("a", passed, Outcome(verdict=verdict_of(error), error_class=error_class(error)))
    health.record("a", "normal", SUCCESS)
    found = health.measure("a", "5m")
    assert found is not None
    assert (found.uptime, found.errors, health.phase("a")) == (1.0, {"caller": 40}, "closed")


def test_faults_of_the_provider_count_and_have_their_class() -> None:
    health, _ = watched()
    for error, name in PROVIDERS:
        assert (error_class(error), verdict_of(error)) == (name, "fault")
        health.record("a", "normal", Outcome(verdict="fault", error_class=name))
    for _ in range(30):
        health.record("a", "normal", SUCCESS)
    found = health.measure("a", "1d")
    assert found is not None
    assert found.uptime == 0.75
    assert sum(found.errors.values()) == 10


def test_route_that_refuses_for_reasons_of_its_own_lives() -> None:
    health, _ = watched()
    error = UpstreamError("no such model", 404)
    for _ in range(6):
        health.record("a", "normal", Outcome(verdict=verdict_of(error), error_class=error_class(error)))
    found = health.measure("a", "5m")
    assert found is not None
    assert (found.uptime, found.errors, health.phase("a")) == (None, {"refused": 6}, "closed")


def test_refused_key_opens_the_breaker_and_leaves_the_uptime() -> None:
    health, _ = watched()
    error = UpstreamKeyError("no", 401)
    health.record("a", "normal", Outcome(verdict=verdict_of(error), error_class=error_class(error)))
    found = health.measure("a", "5m")
    assert found is not None
    assert (found.uptime, found.errors, health.admit("a")) == (None, {"key": 1}, None)


def test_pause_that_a_provider_asks_for_is_kept() -> None:
    health, clock = watched()
    error = RateLimitError("wait", 42.0)
    health.record("a", "normal", Outcome(verdict=verdict_of(error), asked_seconds=retry_after(error)))
    assert health.open_seconds("a") == 42.0
    clock.now += 41.9
    assert health.admit("a") is None
    clock.now += 0.2
    assert health.admit("a") == "probe"


def test_memory_is_bounded_in_answers_and_routes() -> None:
    health = Health(HealthConfig(max_routes=3), clock=(clock := Clock()))
    for number in range(20_000):
        clock.now += 7.0
        seconds = SMALLEST * (LARGEST / SMALLEST) ** (number % 997 / 997)
        health.record("a", "normal", Outcome(verdict="success", first_token_seconds=seconds))
    windows = health._routes["a"].windows.values()
    assert sum(len(window._slices) for window in windows) <= sum(size[0] for size in SLICES.values())
    for route in "bcde":
        health.record(route, "normal", SUCCESS)
    assert health.measure("a", "1d") is None
    assert len(health._routes) == 3


def test_short_answer_says_nothing_of_speed() -> None:
    usage = Usage(completion_tokens=3)
    outcome = Outcome(
        verdict="success", first_token_seconds=0.1, duration_seconds=0.2, completion_tokens=usage.completion_tokens
    )
    assert outcome.tokens_per_second is None
    assert SUCCESS.tokens_per_second == 100.0
