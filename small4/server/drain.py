"""Stopping without cutting anybody off: no new answers, and a grace for those that have begun."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = "the server is stopping; send the request again in a moment"


class Drain:
    """Whether the server is stopping, and who has to know when the grace is over."""

    def __init__(self) -> None:
        self.is_draining = False
        self._watching: set[asyncio.Future[None]] = set()

    @contextmanager
    def watching(self) -> "Iterator[asyncio.Future[None]]":
        """A future that is done when the grace is over."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching.add(over)
        try:
            yield over
        finally:
            self._watching.discard(over)

    def begin(self, grace_seconds: float) -> None:
        """From now on nothing new is answered; what is open has this long. Call it in the event loop."""
        if not self.is_draining:
            self.is_draining = True
            asyncio.get_running_loop().call_later(grace_seconds, self.end)

    def end(self) -> None:
        """The grace is over."""
        self.is_draining = True
        for over in self._watching:
            if not over.done():
                over.set_result(None)
