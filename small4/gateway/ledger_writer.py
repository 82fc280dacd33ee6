"""The thread that writes the ledger: whatever has gathered while one commit was on its way goes into the next.

So one wait for the disk serves many requests, and a request alone waits for one. Entries keep their order, and each is
answered after the commit that holds it, never before. While the database fails, entries wait: reservations for a few
seconds, then they are refused; the ends of attempts until it works again.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from small4.errors import BusyError, ConfigError, LedgerError, LedgerUnavailableError, Small4Error
from small4.gateway.budgets import Budget
from small4.gateway.ledger_database import Database
from small4.gateway.ledger_entries import Begun, Entry, Release
from small4.gateway.ledger_page import write_page

MAX_PAGE = 10_000  # each entry is two of a statement's variables, and SQLite takes 32,766


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterConfig:
    """How much waits for the disk, and for how long."""

    max_page: int = 256  # entries in one commit
    max_waiting: int = 10_000  # entries before reservations are refused
    patience_seconds: float = 5.0  # for which anybody waits for a database that fails, or is slow
    retry_seconds: float = 0.1  # between two tries

    def __post_init__(self) -> None:
        if not 1 <= self.max_page <= MAX_PAGE:
            raise ConfigError(f"max_page is {self.max_page}; a commit takes 1 to {MAX_PAGE} entries")


@dataclass(frozen=True, slots=True)
class _Waiting:
    entry: Entry
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[None]
    since: float

    @property
    def is_given_up(self) -> bool:
        """Whether it is a reservation that nobody waits for any more; a release follows it."""
        return isinstance(self.entry, Begun) and self.answer.cancelled()


class LedgerWriter:
    """Takes entries from any event loop."""

    def __init__(self, database: Database, config: WriterConfig) -> None:
        self.budgets: tuple[Budget, ...] = ()  # what reservations are held against from the next page on
        self.num_commits = 0
        self._database = database
        self._config = config
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._failing_since: float | None = None
        self._writing_since: float | None = None
        self._is_closed = False
        self._closing_deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="small4 ledger", daemon=True)
        self._thread.start()

    @property
    def is_failing(self) -> bool:
        """Whether the current commit has failed, or not come to its end, for longer than anybody is asked to wait."""
        oldest = [since for since in (self._failing_since, self._writing_since) if since is not None]
        return bool(oldest) and time.monotonic() - min(oldest) > self._config.patience_seconds

    def submit(self, entry: Entry) -> asyncio.Future[None]:
        """Hand over an entry; the future is done once it is committed, or has the reason why it never will be."""
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed; nothing more can be booked")
        if isinstance(entry, Begun):
            if self.is_failing:
                raise LedgerUnavailableError("the ledger cannot be written at the moment; try again")
            if self._queue.qsize() >= self._config.max_waiting:
                raise BusyError(f"{self._config.max_waiting} requests wait for the ledger, the limit; try again")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(entry, loop, loop.create_future(), time.monotonic())
        self._queue.put(waiting)
        return waiting.answer

    def close(self, seconds: float) -> None:
        """Commit what waits, for at most so long, and end the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._closing_deadline = time.monotonic() + seconds
            self._queue.put(None)
        self._thread.join(seconds + 1.0)

    def _run(self) -> None:
        while page := self._gather():
            self._writing_since = time.monotonic()
            self._commit([waiting for waiting in page if not waiting.is_given_up])
            self._writing_since = None

    def _gather(self) -> list[_Waiting]:
        """Wait for an entry, and take all that came with it; nothing at the end."""
        first = self._queue.get()
        if first is None:
            return []
        return [first, *self._take(self._config.max_page - 1)]

    def _take(self, limit: int) -> list[_Waiting]:
        taken: list[_Waiting] = []
        while len(taken) < limit:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is None:
                self._queue.put(None)  # the end stays the end; nothing is put behind it
                break
            taken.append(waiting)
        return taken

    def _commit(self, page: list[_Waiting]) -> None:
        is_retry = False
        while page:
            try:
                replies = self._write([waiting.entry for waiting in page], is_retry)
            except LedgerUnavailableError as error:
                page, is_retry = self._wait(page, error), True
            except Exception as error:
                # One entry must not take the others with it.
                if len(page) == 1:
                    _answer(page, [_fault(error)])
                    return
                for waiting in page:
                    self._commit([waiting])
                return
            else:
                self._failing_since = None
                _answer(page, replies)
                return

    def _write(self, entries: list[Entry], is_retry: bool) -> list[Small4Error | None]:
        budgets, owner = self.budgets, self._database.owner
        replies = self._database.transact(
            lambda connection: write_page(connection, entries, budgets, owner, is_retry=is_retry)
        )
        self.num_commits += 1
        return replies

    def _wait(self, page: list[_Waiting], error: LedgerUnavailableError) -> list[_Waiting]:
        """The page after a pause: reservations that ran out of patience are answered. The others stay in the queue."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now > self._closing_deadline:
            page = [*page, *self._take(self._queue.qsize())]
            _answer(page, [error] * len(page))
            return []
        time.sleep(self._config.retry_seconds)
        return [self._without_patience(waiting, now, error) for waiting in page]

    def _without_patience(self, waiting: _Waiting, now: float, error: LedgerUnavailableError) -> _Waiting:
        entry = waiting.entry
        if not isinstance(entry, Begun) or now - waiting.since <= self._config.patience_seconds:
            return waiting
        _answer([waiting], [error])
        # Whether the failed commit came through nobody knows: what it may hold is given back.
        release = Release(entry.reservation.request_id, entry.reservation.attempt, "ledger")
        return _Waiting(release, waiting.loop, waiting.answer, waiting.since)


def _fault(error: Exception) -> Small4Error:
    fault = LedgerError("an entry could not be booked; this is a fault of small4's")
    fault.__cause__ = error
    return fault


def _answer(page: list[_Waiting], replies: Sequence[Small4Error | None]) -> None:
    """Wake all who wait, with one call for each of their event loops."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Small4Error | None]]] = {}
    for waiting, reply in zip(page, replies, strict=True):
        by_loop.setdefault(waiting.loop, []).append((waiting.answer, reply))
    for loop, answers in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[tuple[asyncio.Future[None], Small4Error | None]]) -> None:
    for answer, reply in answers:
        if answer.done():  # whoever waited was cancelled, or ran out of patience
            continue
        if reply is None:
            answer.set_result(None)
        else:
            answer.set_exception(reply)
