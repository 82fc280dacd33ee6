"""Percentiles and counts over the last minutes, in memory that does not grow with the number of requests.

Definition: the percentile p of n values is the smallest one that at least p·n of them do not pass; a value counts for a
window of w seconds in slices of s if its slice is one of the last w/s that have begun. Values are kept as counts of
buckets whose bounds grow by 2 %, so that what is told is within 1 % of the definition; counts are exact.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

WIDTH = 1.02  # of a bucket: its upper bound by its lower
SMALLEST, LARGEST = 1e-5, 1e6  # values beyond are as these
SHARES = (0.50, 0.75, 0.90, 0.95, 0.99)

_LOG_WIDTH = math.log(WIDTH)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The usual five."""

    p50: float
    p75: float
    p90: float
    p95: float
    p99: float


class Histogram:
    """How many values fell into each bucket."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count a value."""
        self.buckets[math.ceil(math.log(min(max(value, SMALLEST), LARGEST)) / _LOG_WIDTH)] += 1

    def merge(self, other: "Histogram") -> None:
        """Count all of another's values too."""
        self.buckets.update(other.buckets)

    def percentiles(self) -> Percentiles | None:
        """None where there is nothing."""
        total = self.buckets.total()
        if not total:
            return None
        ordered, found, passed = iter(sorted(self.buckets.items())), [], 0
        bucket = 0
        for share in SHARES:
            while passed < rank(share, total):
                bucket, count = next(ordered)
                passed += count
            found.append(2.0 * WIDTH**bucket / (WIDTH + 1.0))
        return Percentiles(*found)


def rank(share: float, total: int) -> int:
    """Which of `total` values in order, counted from 1, is their percentile."""
    return max(1, math.ceil(round(share * total, 9)))


@dataclass(slots=True)
class Slice:
    """What ended in one slice of time."""

    number: int = 0  # of the slice, from the clock's zero
    num_successes: int = 0
    num_faults: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_token_seconds: Histogram = field(default_factory=Histogram)
    tokens_per_second: Histogram = field(default_factory=Histogram)

    def merge(self, other: "Slice") -> None:
        """Add another's counts to these."""
        self.num_successes += other.num_successes
        self.num_faults += other.num_faults
        self.errors.update(other.errors)
        self.first_token_seconds.merge(other.first_token_seconds)
        self.tokens_per_second.merge(other.tokens_per_second)


class RollingWindow:
    """The last slices of one route; nothing is kept of those before."""

    def __init__(self, num_slices: int, slice_seconds: float) -> None:
        self._num_slices, self._slice_seconds = num_slices, slice_seconds
        self._slices: deque[Slice] = deque()

    def current(self, now: float) -> Slice:
        """The slice that counts what ends now."""
        number = self._forget(now)
        if not self._slices or self._slices[-1].number != number:
            self._slices.append(Slice(number))
        return self._slices[-1]

    def total(self, now: float) -> Slice:
        """All slices in one."""
        self._forget(now)
        return merged(self._slices)

    def _forget(self, now: float) -> int:
        number = math.floor(now / self._slice_seconds)
        while self._slices and self._slices[0].number <= number - self._num_slices:
            self._slices.popleft()
        return number


def merged(slices: Iterable[Slice]) -> Slice:
    """One slice with all that these counted."""
    whole = Slice()
    for piece in slices:
        whole.merge(piece)
    return whole
