"""The ledger: one row for every attempt, what it cost, and what budgets have left.

    await ledger.reserve(Reservation(...))      # before the first byte goes to a provider; raises BudgetError
    await ledger.settle(Settlement(...))        # what it came to
    await ledger.release(request_id, attempt)   # or: it used nothing

Each returns once its row is committed; from then on neither a crash nor a kill loses it. Of the other files, read
`ledger_writer` (one thread, many rows in a commit), `ledger_page` (what a commit does) and `ledger_database`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

from small4.errors import LedgerUnavailableError
from small4.gateway.budgets import Budget
from small4.gateway.ledger_database import Database
from small4.gateway.ledger_entries import Begun, Release, Reservation, Settlement
from small4.gateway.ledger_writer import LedgerWriter, WriterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """Where the ledger lies, and what it holds requests to."""

    url: str = field(repr=False)  # path of a file, sqlite:///PATH or postgresql+DRIVER://...; may hold a password
    budgets: tuple[Budget, ...] = ()
    writer: WriterConfig = field(default_factory=WriterConfig)


class Ledger:
    """An open ledger. On SQLite no other process may have it open for writing."""

    def __init__(self, config: LedgerConfig, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._patience = config.writer.patience_seconds
        self._database = Database(config.url)
        self._writer = LedgerWriter(self._database, config.writer)
        self.set_budgets(config.budgets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be booked at the moment, so that nothing that costs money may begin."""
        return self._writer.is_failing

    @property
    def journal(self) -> Literal["wal", "rollback"]:
        """`rollback` where the SQLite library is too old for more; it is slower, not less safe."""
        return self._database.journal

    @property
    def num_recovered(self) -> int:
        """Attempts of processes that died, settled by their estimates when the ledger was opened."""
        return self._database.num_recovered

    @property
    def num_commits(self) -> int:
        """Transactions so far, each with the rows of one or of many requests."""
        return self._writer.num_commits

    def set_budgets(self, budgets: Iterable[Budget]) -> None:
        """Hold reservations to these from now on; what was spent before counts."""
        self._writer.budgets = tuple(budgets)

    async def reserve(self, reservation: Reservation) -> None:
        """Hold the estimate against every budget that applies.

        Raises `BudgetError` if one would be passed, `UnpricedError` if the estimate is unknown and a budget applies,
        `LedgerUnavailableError` or `BusyError` if it cannot be written: the attempt may not begin then.
        """
        answer = self._writer.submit(Begun(reservation, int(self._clock() * 1e6)))
        # Given up, it may be in a commit already; entries keep their order, so the release finds what it frees.
        try:
            async with asyncio.timeout(self._patience):
                await answer
        except TimeoutError:
            self.book_soon(Release(reservation.request_id, reservation.attempt, "ledger"))
            raise LedgerUnavailableError(f"the ledger was not written in {self._patience} s; try again") from None
        except asyncio.CancelledError:
            self.book_soon(Release(reservation.request_id, reservation.attempt, "left"))
            raise

    async def settle(self, settlement: Settlement) -> None:
        """Book what an attempt came to, and free what was held beyond that; a second time changes nothing.

        Where the database fails or is slow, it returns after `patience_seconds`, and the entry is booked later.
        """
        await self._booked(settlement)

    async def release(self, request_id: str, attempt: int = 0, error_class: str | None = None) -> None:
        """Free what was held for an attempt that used nothing; as patient as `settle`."""
        await self._booked(Release(request_id, attempt, error_class))

    def book_soon(self, entry: Settlement | Release) -> None:
        """The same without waiting, for whoever is being cancelled: it is booked with the next commit."""
        with suppress(LedgerUnavailableError):  # closed: the next opening finds the attempt
            self._writer.submit(entry).add_done_callback(_forget)

    async def _booked(self, entry: Settlement | Release) -> None:
        answer = self._writer.submit(entry)
        answer.add_done_callback(_forget)
        done, _ = await asyncio.wait({answer}, timeout=self._patience)
        for future in done:
            future.result()

    def close(self, seconds: float = 10.0) -> None:
        """Commit what waits, for at most so long, and let go of the database."""
        self._writer.close(seconds)
        self._database.close()


def _forget(answer: asyncio.Future[None]) -> None:
    if not answer.cancelled():
        answer.exception()
