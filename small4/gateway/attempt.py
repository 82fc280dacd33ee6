"""One attempt: what it holds and comes to in the ledger, what it says of its route, and its step on the trail.

    held      before the first byte goes to the provider
    settled   before the caller sees the end of the answer
    released  where nothing was used: the provider refused, or was never reached

A caller who leaves cannot be made to wait, so what was used until then is booked with the next commit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import UNKNOWN_PRICES, Prices
from small4.chat import AnswerEvent, ChatRequest, Finish, FinishReason, Usage
from small4.errors import CatalogError, LedgerError, UpstreamError
from small4.gateway.breaker import Pass
from small4.gateway.charge import Charge, charge_of
from small4.gateway.health import Health, Outcome
from small4.gateway.ledger import Ledger
from small4.gateway.ledger_entries import Reservation, Settlement
from small4.gateway.outcome import Verdict, error_class, retry_after, verdict_of
from small4.gateway.trail import Step, Trail, reason_of
from small4.gateway.worst_case import most_cost
from small4.providers.estimate import Tally
from small4.providers.provider import Caller, Provider

# After these the provider may have worked, and may bill it, although nothing of an answer came.
MAY_BE_BILLED = ("timeout", "broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A route that may answer a request."""

    route: str
    provider: Provider
    prices: Prices = UNKNOWN_PRICES
    max_output_tokens: int | None = None  # of one answer; None: the context
    is_local: bool = False  # nobody sends a bill, so an unknown price holds nothing against budgets


@dataclass(frozen=True, slots=True)
class Books:
    """Where attempts leave what they came to."""

    ledger: Ledger
    health: Health
    clock: Callable[[], float] = time.monotonic
    ends_first: bool = True  # the end of an answer is booked before the caller sees it


class Attempt:
    """An attempt that its route's breaker let pass. It ends once: whatever comes after its end changes nothing."""

    def __init__(
        self,
        number: int,
        candidate: Candidate,
        passed: Pass,
        request: ChatRequest,
        caller: Caller,
        trail: Trail,
        books: Books,
    ) -> None:
        self.candidate, self.request, self.caller = candidate, request, caller
        self.number, self.trail, self.books = number, trail, books
        self.has_started = False  # the caller has seen something of the answer
        self._passed = passed
        self._is_over = False
        self._tally = Tally(request)
        self._ends: dict[int, Finish] = {}
        self._held: Decimal | None = None  # dollars
        self._began = books.clock()
        self._first: float | None = None

    async def hold(self) -> None:
        """Hold its worst case against all budgets; where that fails, nothing was begun."""
        try:
            reservation = self._reservation()
            await self.books.ledger.reserve(reservation)
        except BaseException:
            self._is_over = True
            self._record("unknown", None)
            raise
        self._held = reservation.estimate
        self._began = self.books.clock()

    async def see(self, event: AnswerEvent) -> None:
        """Take the next event of the answer before the caller sees it; the last one is settled first."""
        if self._first is None:
            self._first = self._seconds()
        if isinstance(event.event, Finish):
            self._ends[event.index] = event.event
            if len(self._ends) == self.request.num_answers:
                await self._end()
        else:
            self._tally.settle(event)
            self._passed = self.books.health.begin(self.candidate.route, self._passed)
        self.has_started = True
        self.trail.route = self.candidate.route

    def check_ended(self) -> None:
        """Raises if the provider stopped before the end of every answer."""
        if len(self._ends) < self.request.num_answers:
            raise UpstreamError(f"{self.candidate.route} broke off its answer before the end")

    async def fail(self, error: Exception) -> None:
        """The provider raised."""
        if self._is_over:
            return
        self._is_over, kind = True, error_class(error)
        self._note("failed", error)
        self._record(verdict_of(error), error)
        if self.has_started or kind in MAY_BE_BILLED:
            await self.books.ledger.settle(self._settlement_so_far("error", kind))
        else:
            await self.books.ledger.release(self.trail.request_id, self.number, kind)

    def leave(self) -> None:
        """The caller left, or the server stops."""
        if self._is_over:
            return
        self._is_over = True
        self._note("left", None)
        self._record("unknown", None)
        self.books.ledger.book_soon(self._settlement_so_far("aborted", None))

    async def _end(self) -> None:
        """All answers are there."""
        error = next((end.error for end in self._ends.values() if end.error is not None), None)
        usage = total_usage([end.usage for end in self._ends.values()])
        reasons = [end.reason for end in self._ends.values()]
        reason: FinishReason = "error" if "error" in reasons else reasons[0]
        kind = None if error is None else error_class(error)
        settlement = self._settlement_as_told(usage, reason, kind)
        self._is_over = True
        self._note("answered" if error is None else "failed", error)
        self._record(verdict_of(error), error, settlement.usage.completion_tokens)
        if self.books.ends_first:
            await self.books.ledger.settle(settlement)
        else:
            self.books.ledger.book_soon(settlement)

    def _reservation(self) -> Reservation:
        candidate = self.candidate
        estimate = most_cost(
            self.request, candidate.provider.model.context_length, candidate.prices, candidate.max_output_tokens
        )
        if estimate is None and candidate.is_local:
            estimate = Decimal(0)
        return Reservation(
            request_id=self.trail.request_id,
            attempt=self.number,
            route=candidate.route,
            model=candidate.provider.model.name,
            estimate=estimate,
            dialect=self.caller.dialect,
            key=self.caller.name,
            app=self.caller.app,
        )

    def _settlement_as_told(self, usage: Usage, finish: FinishReason, kind: str | None) -> Settlement:
        """As the provider counts; what cannot be is charged as the hold."""
        try:
            return self._settlement(usage, finish, kind, self._charge(usage))
        except (CatalogError, LedgerError):
            return self._settlement(self._tally.so_far(), finish, kind, Charge(self._held, is_estimate=True))

    def _settlement_so_far(self, finish: FinishReason, kind: str | None) -> Settlement:
        usage = self._tally.so_far()
        # A provider that had all the time there is may have written all that it was allowed to.
        is_all = kind == "timeout" and self._first is None
        charge = Charge(self._held, is_estimate=True) if is_all else self._charge(usage)
        return self._settlement(usage, finish, kind, charge)

    def _charge(self, usage: Usage) -> Charge:
        return charge_of(
            usage,
            self.request,
            context_tokens=self.candidate.provider.model.context_length,
            prices=self.candidate.prices,
            answer_bytes=self._tally.num_bytes,
            held=self._held,
        )

    def _settlement(self, usage: Usage, finish: FinishReason, kind: str | None, charge: Charge) -> Settlement:
        return Settlement(
            request_id=self.trail.request_id,
            attempt=self.number,
            usage=usage,
            cost=charge.dollars,
            finish=finish,
            is_estimate=charge.is_estimate,
            error_class=kind,
            first_token_seconds=self._first,
            duration_seconds=self._seconds(),
        )

    def _record(self, verdict: Verdict, error: Exception | None, completion_tokens: int | None = None) -> None:
        outcome = Outcome(
            verdict=verdict,
            error_class=None if error is None else error_class(error),
            asked_seconds=retry_after(error),
            first_token_seconds=self._first,
            duration_seconds=self._seconds(),
            completion_tokens=completion_tokens,
        )
        self.books.health.record(self.candidate.route, self._passed, outcome)

    def _note(self, result: str, error: Exception | None) -> None:
        self.trail.steps.append(
            Step(
                route=self.candidate.route,
                result=result,  # type: ignore[arg-type]
                attempt=self.number,
                error_class=None if error is None else error_class(error),
                reason="" if error is None else reason_of(error),
                has_started=self.has_started,
                first_token_seconds=self._first,
                duration_seconds=self._seconds(),
            )
        )

    def _seconds(self) -> float:
        return max(0.0, self.books.clock() - self._began)


def total_usage(usages: list[Usage]) -> Usage:
    """Answers to one request share their prompt; what they wrote adds up."""
    return Usage(
        prompt_tokens=max(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        cached_tokens=max(usage.cached_tokens for usage in usages),
        is_estimated=any(usage.is_estimated for usage in usages),
    )
