"""Who is answered next when more ask than can be: a bounded line, fair between keys.

A place that comes free goes to the waiting key that has the fewest requests being answered; among equals to the one
that has waited since a place last went to it. Within a key the line keeps its order. Batches come after everybody else,
and wait as long as it takes. A key whose own line is full is
told so (429); when the whole line is full, or the wait was too long, it is our capacity that lacks (503).
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from small4.errors import BusyError, RateLimitError
from small4.providers.provider import Priority
from small4.server.bounds import Bounds

RETRY_SECONDS = 1.0

Line = tuple[Priority, str]  # the requests of one key that may, or may not, wait for everybody else's


class Admission:
    """Places for requests that are being answered, and the line before them."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.num_running = self.num_queued = 0
        self._running: Counter[Line] = Counter()
        self._lines: OrderedDict[Line, deque[asyncio.Future[None]]] = OrderedDict()  # the longest unserved first

    @asynccontextmanager
    async def place(self, key_id: str, priority: Priority = "interactive") -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        line = (priority, key_id)
        if self.num_running < self.bounds.max_concurrent and not self.num_queued:
            self._take(line)
        else:
            await self._wait(line)
        try:
            yield
        finally:
            self._leave(line)

    async def _wait(self, line: Line) -> None:
        """Returns holding a place."""
        is_patient = line[0] == "batch"  # it is few, by a bound of its own
        if not is_patient:
            self._check_room(line)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(line, deque()).append(turn)
        self.num_queued += 1
        try:
            async with asyncio.timeout(None if is_patient else self.bounds.queue_seconds):
                await turn
        except BaseException as error:
            self._give_up(line, turn)
            if isinstance(error, TimeoutError):
                raise BusyError(f"no place within {self.bounds.queue_seconds:g} seconds; try again later") from None
            raise

    def _check_room(self, line: Line) -> None:
        if len(self._lines.get(line, ())) >= self.bounds.max_queued_per_key:
            limit = self.bounds.max_queued_per_key
            raise RateLimitError(f"{limit} requests of this key wait already, the limit; send fewer", RETRY_SECONDS)
        if self.num_queued >= self.bounds.max_queued:
            raise BusyError(f"{self.num_queued} requests wait already, the limit; try again in a moment")

    def _give_up(self, line: Line, turn: "asyncio.Future[None]") -> None:
        if turn.done() and not turn.cancelled():
            self._leave(line)  # the place came in the same moment
        elif turn in self._lines.get(line, ()):
            self._lines[line].remove(turn)
            self.num_queued -= 1
            self._forget_if_empty(line)

    def _take(self, line: Line) -> None:
        self.num_running += 1
        self._running[line] += 1

    def _leave(self, line: Line) -> None:
        self.num_running -= 1
        self._running[line] -= 1
        if not self._running[line]:
            del self._running[line]
        self._call_next()

    def _call_next(self) -> None:
        while self.num_queued and self.num_running < self.bounds.max_concurrent:
            line = min(self._lines, key=lambda waiting: (waiting[0] == "batch", self._running[waiting]))
            turn = self._lines[line].popleft()
            self._lines.move_to_end(line)
            self._forget_if_empty(line)
            self.num_queued -= 1
            if not turn.done():
                self._take(line)
                turn.set_result(None)

    def _forget_if_empty(self, line: Line) -> None:
        if not self._lines[line]:
            del self._lines[line]
