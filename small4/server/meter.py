"""What an answer used, read off its events."""

import time

from small4.chat import AnswerEvent, Finish, Usage
from small4.errors import UpstreamError
from small4.server.exchange import Exchange


class Meter:
    """Adds up the usage of all answers to one request in its exchange."""

    def __init__(self, num_answers: int, exchange: Exchange) -> None:
        self._open = set(range(num_answers))
        self._exchange = exchange
        self._num_open_events = 0  # of answers that have not ended

    @property
    def is_open(self) -> bool:
        """Whether an answer has not ended."""
        return bool(self._open)

    def see(self, event: AnswerEvent) -> None:
        """Take the next event."""
        if self._exchange.first_event_seconds is None:
            self._exchange.first_event_seconds = time.perf_counter() - self._exchange.began
        if isinstance(event.event, Finish):
            self._open.discard(event.index)
            self._exchange.usage = _sum(self._exchange.usage, event.event.usage)
            self._exchange.is_estimate = self._exchange.usage.is_estimated
        else:
            self._num_open_events += 1

    def check_ended(self) -> None:
        """Raises if the stream is over and an answer is not: it was cut, which must not look like an end."""
        if self._open:
            raise UpstreamError("the answer broke off before its end; ask again")

    def estimate(self, num_prompt_tokens: int) -> None:
        """Count what the answers used that were left before their end: about a token for each event."""
        self._exchange.is_estimate = True
        estimated = Usage(num_prompt_tokens, self._num_open_events, is_estimated=True)
        self._exchange.usage = _sum(self._exchange.usage, estimated)


def _sum(so_far: Usage | None, usage: Usage) -> Usage:
    """Answers to one request share their prompt; what they wrote adds up."""
    if so_far is None:
        return usage
    return Usage(
        max(so_far.prompt_tokens, usage.prompt_tokens),
        so_far.completion_tokens + usage.completion_tokens,
        so_far.reasoning_tokens + usage.reasoning_tokens,
        max(so_far.cached_tokens, usage.cached_tokens),
        so_far.is_estimated or usage.is_estimated,
    )
