"""How often a route may be asked again for the same request: a share of the requests that it had, so that a provider
in trouble gets at most a little more than it would without retries."""

from collections import deque
from dataclasses import dataclass

from small4.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Retries as a share of requests."""

    share: float = 0.2
    min_retries: int = 3  # in a window, however few requests there are
    window_seconds: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.min_retries < 0 or self.window_seconds < 1:
            raise ConfigError("a retry budget needs a share from 0 to 1, and a window of at least a second")


class RetryBudget:
    """Counts by the second, over the last `window_seconds` that have begun."""

    def __init__(self, config: RetryConfig) -> None:
        self._config = config
        self._seconds: deque[list[int]] = deque()  # second, requests, retries
        self._num_requests = self._num_retries = 0

    def note_request(self, now: float) -> None:
        """A request that asks the route for the first time."""
        self._current(now)[1] += 1
        self._num_requests += 1

    def may_retry(self, now: float) -> bool:
        """Whether one more retry fits; if it does, it is counted."""
        current = self._current(now)
        if self._num_retries + 1 > max(self._config.min_retries, self._config.share * self._num_requests):
            return False
        current[2] += 1
        self._num_retries += 1
        return True

    def _current(self, now: float) -> list[int]:
        second = int(now)
        while self._seconds and self._seconds[0][0] <= second - self._config.window_seconds:
            _, requests, retries = self._seconds.popleft()
            self._num_requests -= requests
            self._num_retries -= retries
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
