"""Who is answered next when more ask than can be: a bounded line, fair between keys.

A place that comes free goes to the waiting key that has the fewest requests being answered; among equals to the one
that has waited since a place last went to it. Within a key the line keeps its order. A key whose own line is full is
told so (429); when the whole line is full, or the wait was too long, it is our capacity that lacks (503).
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from small4.errors import BusyError, RateLimitError
from small4.server.bounds import Bounds

RETRY_SECONDS = 1.0


class Admission:
    """Places for requests that are being answered, and the line before them."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.num_running = self.num_queued = 0
        self._running: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the longest unserved key first

    @asynccontextmanager
    async def place(self, key_id: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        if self.num_running < self.bounds.max_concurrent and not self.num_queued:
            self._take(key_id)
        else:
            await self._wait(key_id)
        try:
            yield
        finally:
            self._leave(key_id)

    async def _wait(self, key_id: str) -> None:
        """Returns holding a place."""
        self._check_room(key_id)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key_id, deque()).append(turn)
        self.num_queued += 1
        try:
            async with asyncio.timeout(self.bounds.queue_seconds):
                await turn
        except BaseException as error:
            self._give_up(key_id, turn)
            if isinstance(error, TimeoutError):
                raise BusyError(f"no place within {self.bounds.queue_seconds:g} seconds; try again later") from None
            raise

    def _check_room(self, key_id: str) -> None:
        if len(self._lines.get(key_id, ())) >= self.bounds.max_queued_per_key:
            limit = self.bounds.max_queued_per_key
            raise RateLimitError(f"{limit} requests of this key wait already, the limit; send fewer", RETRY_SECONDS)
        if self.num_queued >= self.bounds.max_queued:
            raise BusyError(f"{self.num_queued} requests wait already, the limit; try again in a moment")

    def _give_up(self, key_id: str, turn: "asyncio.Future[None]") -> None:
        if turn.done() and not turn.cancelled():
            self._leave(key_id)  # the place came in the same moment
        elif turn in self._lines.get(key_id, ()):
            self._lines[key_id].remove(turn)
            self.num_queued -= 1
            self._forget_if_empty(key_id)

    def _take(self, key_id: str) -> None:
        self.num_running += 1
        self._running[key_id] += 1

    def _leave(self, key_id: str) -> None:
        self.num_running -= 1
        self._running[key_id] -= 1
        if not self._running[key_id]:
            del self._running[key_id]
        self._call_next()

    def _call_next(self) -> None:
        while self.num_queued and self.num_running < self.bounds.max_concurrent:
            key_id = min(self._lines, key=lambda waiting: self._running[waiting])
            turn = self._lines[key_id].popleft()
            self._lines.move_to_end(key_id)
            self._forget_if_empty(key_id)
            self.num_queued -= 1
            if not turn.done():
                self._take(key_id)
                turn.set_result(None)

    def _forget_if_empty(self, key_id: str) -> None:
        if not self._lines[key_id]:
            del self._lines[key_id]
