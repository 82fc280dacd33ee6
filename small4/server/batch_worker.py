"""Answers the lines of batches, several at once.

A line for which there is no room now is asked again later, and later still, for as long as its batch lasts; meanwhile
it holds no place that another could use. A line during which the server or its engine ends is asked again a few times
only: it may be what ended them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import ParamSpec

from small4.errors import AuthenticationError, Small4Error
from small4.server.batch_answer import LineAnswer
from small4.server.batch_run import Run
from small4.server.bounds import Bounds
from small4.server.drain import Drain
from small4.server.keys import Identity
from small4.server.log import Log
from small4.wire.openai_batch import Endpoint

P = ParamSpec("P")

Answer = Callable[[Identity, Endpoint, bytes], Awaitable[LineAnswer]]


class LineWorker:
    """Asks the lines of all batches of a server; `identify` gives the caller that a key's id stands for now."""

    def __init__(
        self, bounds: Bounds, answer: Answer, identify: Callable[[str], Identity], drain: Drain, log: Log
    ) -> None:
        self._bounds, self._answer, self._identify, self._drain, self._log = bounds, answer, identify, drain, log
        self._places = asyncio.Semaphore(bounds.max_batch_concurrent)

    async def answer_all(self, run: Run) -> None:
        """Answer all lines that are left; returns before that only where the server stops."""
        left = iter(run.left)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._bounds.max_batch_concurrent):
                group.create_task(self._answer_some(run, left))

    async def _answer_some(self, run: Run, left: Iterator[int]) -> None:
        for index in left:
            waits = pauses(self._bounds)
            while not await self._has_ended(run, index):
                if self._drain.is_draining:
                    return
                await asyncio.sleep(next(waits))

    async def _has_ended(self, run: Run, index: int) -> bool:
        """Ask a line once; False where it has no answer for lack of room."""
        async with self._places:
            if self._drain.is_draining:
                return False
            try:
                custom_id, body = await asyncio.to_thread(run.lines.request, index)
            except Small4Error as error:
                custom = await asyncio.to_thread(run.lines.custom_id, index)
                return await self._fail(run, index, custom, "invalid_request", str(error))
            if run.journal.num_bytes > self._bounds.max_batch_answers_bytes:
                message = (
                    f"the answers of this batch have {self._bounds.max_batch_answers_bytes} bytes already, the limit"
                )
                return await self._fail(run, index, custom_id, "too_large", message)
            if (num_begun := run.journal.num_begun[index]) >= self._bounds.max_batch_attempts:
                message = f"the server or its engine ended {num_begun} times while it answered this line"
                return await self._fail(run, index, custom_id, "server_error", message)
            return await self._ask(run, index, custom_id, body)

    async def _fail(self, run: Run, index: int, custom_id: str | None, code: str, message: str) -> bool:
        await self._noted(run, run.fail, index, custom_id, code, message)
        return True

    async def _ask(self, run: Run, index: int, custom_id: str, body: bytes) -> bool:
        await self._noted(run, run.journal.begin, index)
        try:
            answer = await self._answer(self._caller(run.owner), run.batch.endpoint, body)
        except BaseException:
            with suppress(OSError):
                run.journal.leave(index)
            raise
        if not answer.may_be_asked_again:
            await self._noted(run, run.end, index, custom_id, answer)
            return True
        if not answer.has_ended_engine:
            await self._noted(run, run.journal.leave, index)
        return False

    def _caller(self, owner: str) -> Identity:
        """Whoever the batch is of, as long as their key opens it."""
        identity = self._identify(owner)
        if "batch" not in identity.scopes:
            raise AuthenticationError("the key of this work does not have the scope batch")
        return identity

    async def _noted(self, run: Run, note: Callable[P, None], *what: P.args, **named: P.kwargs) -> None:
        """Have something written into the journal, however often the disk does not take it."""
        waits = pauses(self._bounds)
        while True:
            try:
                return note(*what, **named)
            except OSError as error:
                self._log.fault(run.batch.id, error)
            await asyncio.sleep(next(waits))


def pauses(bounds: Bounds) -> Iterator[float]:
    """Seconds to wait before each attempt after the first."""
    pause = bounds.batch_retry_seconds
    while True:
        yield min(pause, bounds.max_batch_retry_seconds)
        pause = min(2 * pause, bounds.max_batch_retry_seconds)
