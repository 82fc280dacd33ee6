"""Batches: files of requests that are answered beside live traffic, whenever there is room, and after a restart too.

Each key has one batch worked on at a time, its oldest; the lines of all of them share a few places. What has been done
stands in the batch's journal, and nowhere else; while the disk takes nothing, a batch waits with what it has.

Of several servers of a state directory one works on its batches: that which holds its lock.
"""

import asyncio
import os
import secrets
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from msgspec import structs

from small4.errors import AuthenticationError, BusyError, ConflictError, FieldError, Small4Error
from small4.gateway.private_files import make_private, try_lock
from small4.server.batch_journal import Journal
from small4.server.batch_lines import BatchLines
from small4.server.batch_run import Run
from small4.server.batch_store import BatchStore, StoredBatch
from small4.server.batch_worker import Answer, LineWorker, pauses
from small4.server.bounds import Bounds
from small4.server.drain import Drain
from small4.server.file_store import FileStore, new_file_id
from small4.server.keys import Identity
from small4.server.log import Log
from small4.wire.openai_batch import (
    BatchError,
    BatchErrors,
    BatchFields,
    BatchObject,
    Ending,
)

P = ParamSpec("P")
T = TypeVar("T")

NUM_THREADS = 2
TIDY_SECONDS = 600.0  # between two looks for what has expired


class Batches:
    """All batches of a directory and their files; `identify` gives the caller that a key's id stands for now."""

    def __init__(
        self,
        directory: Path,
        bounds: Bounds,
        answer: Answer,
        identify: Callable[[str], Identity],
        drain: Drain,
        log: Log,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.files = FileStore(directory / "files", bounds, clock)
        self.store = BatchStore(directory / "batches", bounds, clock)
        self._directory, self._bounds, self._clock = directory, bounds, clock
        self._worker, self._log = LineWorker(bounds, answer, identify, drain, log), log
        self._threads = ThreadPoolExecutor(NUM_THREADS, "small4 batch")
        self._let_go: Callable[[], object] | None = None  # of the directory
        self._workers: dict[str, asyncio.Task[None]] = {}  # by owner
        self._at_work: dict[str, str] = {}  # by owner, the batch
        self._answering: dict[str, asyncio.Task[None]] = {}  # by batch
        self._tidying: asyncio.Task[None] | None = None

    def exist(self) -> bool:
        """Whether anybody ever sent a file."""
        return self._directory.exists()

    def open(self) -> None:
        """Take the directory, once, and go on with what stands there unfinished; raises while another server has it."""
        if self._let_go is not None:
            return
        make_private(self._directory)
        lock = _locked(self._directory / "lock")
        try:
            damaged = [*self.files.open(), *self.store.open()]
        except BaseException:
            os.close(lock)
            raise
        self._let_go = weakref.finalize(self, os.close, lock)
        for path in damaged:
            self._log.write("damaged", {"file": path.name})
        self._tidying = asyncio.create_task(self._tidy())
        for owner in {stored.owner for stored in self.store.unfinished()}:
            self._work_for(owner)

    async def close(self) -> None:
        """Stop where it stands, and give the directory up."""
        tasks = [*self._workers.values(), *filter(None, [self._tidying])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._let_go is not None:
            self._let_go()
            self._let_go = None

    def create(self, owner: str, fields: BatchFields) -> BatchObject:
        """A new batch, which is begun at once or when its owner's others have ended."""
        if self.files.find(owner, fields.input_file_id).purpose != "batch":
            raise FieldError("this file has another purpose than batch", "input_file_id")
        now = self._clock()
        batch = BatchObject(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=fields.endpoint,
            input_file_id=fields.input_file_id,
            created_at=int(now),
            expires_at=int(now + self._bounds.batch_seconds),
            metadata=fields.metadata,
        )
        after = fields.output_expires_after
        stored = StoredBatch(
            owner=owner,
            output_id=new_file_id(),
            error_id=new_file_id(),
            output_seconds=None if after is None else after.seconds,
            batch=batch,
        )
        self.store.add(stored)
        self._work_for(owner)
        return batch

    def cancel(self, owner: str, batch_id: str) -> BatchObject:
        """End a batch with what it has."""
        stored = self.store.find(owner, batch_id)
        batch = stored.batch
        if batch.status in ("validating", "in_progress"):
            batch.status, batch.cancelling_at = "cancelling", int(self._clock())
            if batch_id in self._answering:
                self._answering[batch_id].cancel()
            self.store.save(stored)
            if batch_id != self._at_work.get(owner) and not self.store.journal(batch_id).exists():
                self._end(stored, "cancelled")  # its turn may be a day away
            self._work_for(owner)
        elif batch.status not in ("cancelling", "cancelled"):
            raise ConflictError(f"this batch is {batch.status}; it cannot be cancelled any more")
        return stored.batch

    def delete_file(self, owner: str, file_id: str) -> None:
        """Remove a caller's file, unless a batch of theirs still reads it."""
        self.files.find(owner, file_id)
        if file_id in self._in_use():
            raise ConflictError("a batch still reads this file; cancel that first")
        self.files.delete(file_id)

    def _in_use(self) -> set[str]:
        unfinished = self.store.unfinished()
        return {name for found in unfinished for name in (found.batch.input_file_id, found.output_id, found.error_id)}

    async def _tidy(self) -> None:
        while True:
            for batch_id in self.store.old():
                self._tidied(self.store.delete, batch_id)
            in_use = self._in_use()
            for file_id in self.files.old():
                if file_id not in in_use:
                    self._tidied(self.files.delete, file_id)
            await asyncio.sleep(TIDY_SECONDS)

    def _tidied(self, delete: Callable[[str], None], name: str) -> None:
        """What cannot be deleted now may be the next time."""
        try:
            delete(name)
        except OSError as error:
            self._log.fault(name, error)

    def _work_for(self, owner: str) -> None:
        """See to it that somebody works on this owner's batches."""
        worker = self._workers.get(owner)
        if worker is None or worker.done():
            self._workers[owner] = asyncio.create_task(self._work(owner))

    async def _work(self, owner: str) -> None:
        while stored := next((found for found in self.store.own(owner) if not found.has_ended), None):
            self._at_work[owner] = stored.batch.id
            if not await self._see_through(stored):
                return  # the server stops; the next one goes on

    async def _see_through(self, stored: StoredBatch) -> bool:
        """Work on a batch until it has ended, or the server stops; while the disk fails, again and again."""
        waits = pauses(self._bounds)
        while True:
            try:
                return await self._run(stored)
            except OSError as error:  # what was answered stands in the journal
                self._log.fault(stored.batch.id, error)
            await asyncio.sleep(next(waits))

    async def _run(self, stored: StoredBatch) -> bool:
        """Work on a batch until it has ended, failed, or the server stops."""
        try:
            return await self._go_on(stored)
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, OSError):
                raise cause from None
            await self._fail(stored, cause)
            return True

    async def _go_on(self, stored: StoredBatch) -> bool:
        batch = stored.batch
        if batch.status == "cancelling" and not self.store.journal(batch.id).exists():
            self._end(stored, "cancelled")
            return True
        if not self.files.path(batch.input_file_id).exists():
            raise FieldError("the file of this batch is gone", "input_file_id")
        lines = await self._aside(BatchLines, self.files.path(batch.input_file_id), batch.endpoint, self._bounds)
        journal = await self._aside(Journal, self.store.journal(batch.id))
        try:
            if batch.status == "validating":
                batch.status, batch.in_progress_at = "in_progress", int(self._clock())
                self.store.save(stored)
            run = Run(stored, lines, journal)
            ending = await self._answer_all(run)
            if ending is not None:
                await self._finish(run, ending)
            return ending is not None
        finally:
            journal.close()

    async def _answer_all(self, run: Run) -> Ending | None:
        """How the batch ends; None: the server stops first."""
        batch = run.batch
        run.count()
        if batch.status in ("in_progress", "finalizing"):
            answering = asyncio.create_task(self._worker.answer_all(run))
            self._answering[batch.id] = answering
            try:
                await asyncio.wait({answering}, timeout=max(0.0, batch.expires_at - self._clock()))
            finally:
                del self._answering[batch.id]
                answering.cancel()
                with suppress(asyncio.CancelledError):
                    await answering
        if batch.status == "cancelling":  # it may have become that in the meantime
            return "cancelled"
        if run.is_done:
            return "completed"
        return "expired" if self._clock() >= batch.expires_at else None

    async def _finish(self, run: Run, ending: Ending) -> None:
        """Make files of the journal, which may have been begun before, and close the batch."""
        stored, batch = run.stored, run.batch
        if ending == "completed":
            batch.status, batch.finalizing_at = "finalizing", batch.finalizing_at or int(self._clock())
            self.store.save(stored)
        if ending == "expired":
            await self._aside(run.expire)
        await self._write_output(stored, run.journal)
        self._end(stored, ending)

    async def _write_output(self, stored: StoredBatch, journal: Journal) -> None:
        batch, seconds, owner = stored.batch, stored.output_seconds, stored.owner
        if await self.files.write(owner, stored.output_id, journal.lines("answered"), seconds, self._threads):
            batch.output_file_id = stored.output_id
        if await self.files.write(owner, stored.error_id, journal.lines("failed"), seconds, self._threads):
            batch.error_file_id = stored.error_id

    async def _aside(self, work: Callable[P, T], *what: P.args, **named: P.kwargs) -> T:
        """Do what may read or write a gigabyte where no live request waits for its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *what, **named))

    def _end(self, stored: StoredBatch, ending: Ending) -> None:
        ended = structs.replace(stored.batch, status=ending, **{f"{ending}_at": int(self._clock())})
        self.store.save(structs.replace(stored, batch=ended))
        stored.batch = ended
        self.store.journal(ended.id).unlink(missing_ok=True)

    async def _fail(self, stored: StoredBatch, cause: Exception) -> None:
        """End a batch that cannot be worked on: its file is none, its key was closed, or the fault is ours."""
        if isinstance(cause, Small4Error):
            found = BatchError(
                "invalid_api_key" if isinstance(cause, AuthenticationError) else "invalid_file", str(cause)
            )
        else:
            self._log.fault(stored.batch.id, cause)
            found = BatchError("server_error", "the server could not go on with this batch; its log has the reason")
        stored.batch.errors = BatchErrors([found])
        journal = await self._aside(Journal, self.store.journal(stored.batch.id))
        await self._write_output(stored, journal)
        self._end(stored, "failed")


def _locked(path: Path) -> int:
    """A handle that holds a lock on this file until it is closed; raises if another has it."""
    handle = try_lock(path)
    if handle is None:
        raise BusyError("another server of this state directory has its files and batches; ask that one")
    return handle


def _cause(error: Exception) -> Exception:
    """The first of several that were raised at once."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
