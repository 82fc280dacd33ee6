"""How outputs get from an engine's thread into event loops: one wake-up of a loop for all that a step brought it.

A wake-up is a system call in the engine's thread and a turn in the loop's, and both want the one interpreter: a wake-up
for every sequence of a step costs more than the sequences' tokens do.
"""

import asyncio
from collections import deque
from contextlib import suppress

from small4.engine.engine import Output


class Inbox:
    """Outputs that have arrived for one stream; lives in its event loop."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, output: Output) -> None:
        self._outputs.append(output)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def take(self) -> list[Output]:
        """All that has arrived, at least one, in order; for one reader."""
        if not self._outputs:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        outputs, self._outputs = self._outputs, []
        return outputs


class Handover:
    """Outputs on their way to one event loop, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.num_streams = 0
        self._leaving: deque[tuple[Inbox, Output]] = deque()

    def put(self, inbox: Inbox, output: Output) -> None:
        """It arrives after the next `wake`; raises where the loop is closed, which ends the sequence."""
        if self.loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._leaving.append((inbox, output))

    def wake(self) -> None:
        """Wake the loop if anything waits for it."""
        if self._leaving:
            with suppress(RuntimeError):  # closed in this moment, as the next output finds
                self.loop.call_soon_threadsafe(self._arrive)

    def _arrive(self) -> None:
        while self._leaving:
            inbox, output = self._leaving.popleft()
            inbox.put(output)


class Handovers:
    """Those of the loops that read streams of one engine."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, Handover] = {}

    def enter(self) -> Handover:
        """The running loop's, for one stream more."""
        loop = asyncio.get_running_loop()
        handover = self._by_loop.setdefault(loop, Handover(loop))
        handover.num_streams += 1
        return handover

    def leave(self, handover: Handover) -> None:
        """That stream is over; call it in the same loop."""
        handover.num_streams -= 1
        if not handover.num_streams:
            self._by_loop.pop(handover.loop, None)

    def wake(self) -> None:
        """Wake every loop that something waits for; from any thread."""
        for handover in list(self._by_loop.values()):
            if handover.loop.is_closed():  # with streams that nobody closed
                self._by_loop.pop(handover.loop, None)
            handover.wake()
