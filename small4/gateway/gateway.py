"""The gateway: tries the routes that may answer a request, in order, and is a provider itself.

    for each candidate: its breaker lets it pass -> its worst case is held -> it is asked -> what it came to is settled

The next candidate is tried where one fails before anything of its answer was seen, and never after. Where all failed,
a route may be asked once more after a pause, as far as its retry budget goes. No other layer tries again.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

from small4.chat import AnswerEvent, ChatRequest
from small4.errors import BudgetError, BusyError, ContextLengthError, UnpricedError, UnsayableError
from small4.gateway.attempt import Attempt, Books, Candidate
from small4.gateway.breaker import Pass
from small4.gateway.health import Health
from small4.gateway.ledger import Ledger
from small4.gateway.outcome import error_class, retry_after
from small4.gateway.trail import Trail, Trails, reason_of
from small4.providers.provider import Caller, ServedModel

# Which routes may answer, the best first; raises what to tell the caller where there is none.
Candidates = Callable[[ChatRequest, Caller, Trail], Sequence[Candidate]]

# The provider did nothing yet, or says that it will not: the same request may go to the same route again.
RETRYABLE = ("unreachable", "overloaded", "server", "rate_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """How hard it tries."""

    max_candidates: int = 5  # asked for one request
    max_retries: int = 2  # of routes that failed, after all were asked
    retry_seconds: float = 0.25  # longest pause before the first retry; twice as much before the next
    max_wait_seconds: float = 2.0  # a provider that asks for a longer pause is not asked again
    max_trails: int = 10_000  # requests that can be explained
    books_ends_first: bool = True  # else an answer's end waits for no disk, and a crash then leaves its estimate


class Gateway:
    """Answers by whichever route may and can. Lives in one event loop."""

    def __init__(
        self,
        model: ServedModel,
        candidates: Candidates,
        ledger: Ledger,
        health: Health,
        config: GatewayConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        trails: Trails | None = None,
    ) -> None:
        """Gateways to several models may share their ledger, health and trails."""
        self.model = model
        self._config = config or GatewayConfig()
        self.trails = trails or Trails(self._config.max_trails)
        self._candidates = candidates
        self._books = Books(ledger, health, clock, self._config.books_ends_first)

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        """See `Provider.stream`."""
        trail = self.trails.begin(caller.request_id or f"req_{secrets.token_hex(12)}", caller.name)
        candidates = tuple(self._candidates(request, caller, trail))
        failures: dict[str, Exception] = {}
        last_error: Exception = self._nobody(candidates)
        numbers = count()
        async with aclosing(self._tries(candidates, failures, trail)) as tries:
            async for candidate, passed in tries:
                attempt = Attempt(next(numbers), candidate, passed, request, caller, trail, self._books)
                try:
                    await attempt.hold()
                except (BudgetError, UnpricedError) as error:  # another may be cheaper, or have a price
                    trail.pass_over(candidate.route, reason_of(error), "budget")
                    last_error = error
                    continue
                try:
                    async with aclosing(_ask(attempt)) as events:
                        async for event in events:
                            yield event
                    return
                except Exception as error:
                    if attempt.has_started or not is_for_another(error):
                        raise
                    if not (failures and isinstance(error, UnsayableError)):  # a route that only failed says more
                        last_error = error
                    failures[candidate.route] = error
        raise last_error

    async def count_tokens(self, request: ChatRequest) -> int:
        """As the route that would be asked first counts."""
        candidates = self._candidates(request, Caller(), Trail("", ""))
        if not candidates:
            raise self._nobody(candidates)
        return await candidates[0].provider.count_tokens(request)

    async def _tries(
        self, candidates: tuple[Candidate, ...], failures: dict[str, Exception], trail: Trail
    ) -> AsyncGenerator[tuple[Candidate, Pass], None]:
        """The candidates that their breakers let pass, up to a number; then, where all failed, some of them again."""
        health, num_asked = self._books.health, 0
        for candidate in candidates:
            if num_asked == self._config.max_candidates:
                break
            passed = health.admit(candidate.route)
            if passed is None:
                seconds = health.open_seconds(candidate.route)
                trail.pass_over(candidate.route, f"left alone for another {seconds:.1f} s, since it failed", "breaker")
            else:
                num_asked += 1
                yield candidate, passed
        num_retries = 0
        for candidate in candidates * self._config.max_retries:
            pause = self._pause(failures.get(candidate.route), num_retries)
            if num_retries == self._config.max_retries:
                return
            if pause is None or not health.may_retry(candidate.route):
                continue
            num_retries += 1
            await asyncio.sleep(pause)
            passed = health.admit(candidate.route, is_retry=True)
            if passed is not None:
                yield candidate, passed

    def _pause(self, error: Exception | None, num_retries: int) -> float | None:
        """How long to wait before a route is asked again; None if it is not."""
        if error is None or error_class(error) not in RETRYABLE:
            return None
        pause = random.uniform(0, self._config.retry_seconds * 2**num_retries) + (retry_after(error) or 0.0)
        return pause if pause <= self._config.max_wait_seconds else None

    def _nobody(self, candidates: Sequence[Candidate]) -> BusyError:
        """What is wrong if not one candidate is asked."""
        pauses = [self._books.health.open_seconds(candidate.route) for candidate in candidates]
        return BusyError(
            f"all {len(candidates)} routes for this request failed just now and are left alone; "
            f"the first is tried again in {min(pauses, default=0.0):.0f} s"
        )


async def _ask(attempt: Attempt) -> AsyncGenerator[AnswerEvent, None]:
    """The events of one attempt; however it ends, it is booked."""
    try:
        async with aclosing(attempt.candidate.provider.stream(attempt.request, attempt.caller)) as events:
            while (event := await _next(events, attempt)) is not None:
                await attempt.see(event)
                yield event
    except BaseException:
        attempt.leave()
        raise


async def _next(events: AsyncGenerator[AnswerEvent, None], attempt: Attempt) -> AnswerEvent | None:
    """The provider's next event; None after the last. What it raises is its own fault, and booked as such."""
    try:
        event = await anext(events, None)
        if event is None:
            attempt.check_ended()
        return event
    except Exception as error:
        await attempt.fail(error)
        raise


def is_for_another(error: Exception) -> bool:
    """Whether another route may do better: not with what is wrong in the request itself, unless it is its length."""
    return error_class(error) != "caller" or isinstance(error, ContextLengthError)
