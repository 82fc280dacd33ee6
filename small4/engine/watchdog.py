"""Keeps an engine at work: one that died or hangs is given up, and the next caller gets a fresh one.

    dead   its thread ended by an exception that no sequence is to blame for
    hung   one round of its thread (inboxes and a step) takes longer than a limit

Whoever waited for the old engine gets an `EngineStoppedError`. A hung thread cannot be ended; it is left to itself, and
what it still brings is dropped. It also keeps its cache, so the fresh engine needs memory for a second one.
"""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from small4.engine.engine import Engine
from small4.engine.worker import Worker
from small4.errors import EngineStoppedError

LOOK_SECONDS = 5.0  # between two looks at a busy worker


class Watchdog:
    """Makes workers, watches each while it is busy, and replaces the one that stopped."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        limit_seconds: float | None = None,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_restarts = 0
        self._make_engine = make_engine
        self._limit_seconds = limit_seconds
        self._look_seconds = look_seconds
        self._clock = clock
        self._making = threading.Lock()
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The worker that works now; the first one, and one after a stop, is made here."""
        with self._making:
            if self._worker is not None and self._worker.stopped is not None:
                self._worker = None
                self.num_restarts += 1
                gc.collect()  # the old one hangs in a ring with its error, and another may need its memory
            if self._worker is None:
                self._worker = Worker(self._make_engine(), self._clock, self._start_watching)
            return self._worker

    @property
    def is_ready(self) -> bool:
        """Whether a request would run now: no round hangs, and no engine has to be made again.

        Where one has, to ask sees to it: a server that nobody sends requests because it is not ready must become so.
        """
        worker = self._worker
        if worker is None and not self.num_restarts:
            return True  # the first request makes it
        if worker is None or worker.stopped is not None:
            if not self._making.locked():
                threading.Thread(target=self._make_again, name="small4 restart", daemon=True).start()
            return False
        return not is_over(self._limit_seconds, worker.round_began, self._clock())

    def _make_again(self) -> None:
        with suppress(Exception):  # told to whoever sends the next request
            self.worker  # noqa: B018

    def _start_watching(self, worker: Worker, thread: threading.Thread) -> None:
        threading.Thread(target=self._watch, args=(worker, thread), name="small4 watchdog", daemon=True).start()

    def _watch(self, worker: Worker, thread: threading.Thread) -> None:
        """Look after a worker as long as its thread lives."""
        patience = Patience(self._limit_seconds)
        while thread.is_alive():
            thread.join(self._look_seconds)
            if patience.is_over(worker.round_began, self._clock()):
                worker.stop(
                    EngineStoppedError(
                        f"a step of the engine took more than {self._limit_seconds:g} s (max_step_seconds) and was "
                        "given up; the engine starts again, send the request again"
                    )
                )
                return
        if worker.has_died:
            worker.stop(EngineStoppedError("the engine died; it starts again, send the request again"))


class Patience:
    """Tells a hung round by looks at it: two in a row must find the same one over the limit.

    A machine that was asleep wakes in a round that began long ago; that one gets the time between two looks to end.
    """

    def __init__(self, limit_seconds: float | None) -> None:
        self.limit_seconds = limit_seconds
        self._late: float | None = None  # when the round began that the last look found over the limit

    def is_over(self, began: float | None, now: float) -> bool:
        """Whether the round that began then hangs, at a look now."""
        if not is_over(self.limit_seconds, began, now):
            self._late = None
            return False
        was_late, self._late = self._late == began, began
        return was_late


def is_over(limit_seconds: float | None, began: float | None, now: float) -> bool:
    """Whether a round that began then has taken longer than the limit."""
    return limit_seconds is not None and began is not None and now - began > limit_seconds
