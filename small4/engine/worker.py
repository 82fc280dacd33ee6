"""The thread that steps an engine, and how other threads talk to it.

Submissions and aborts go through inboxes that the thread empties between two steps, so the engine itself is only ever
touched by one thread. The thread lives while there is work: an idle engine costs nothing, and a program can end.

A worker whose thread dies, or is given up by a watchdog because it hangs, stops for good: everyone who waits hears of
it, and what a hung thread still brings later is dropped.

A stream is aborted by whoever drops it, which may be the garbage collector, at any allocation of any thread. So an
abort takes no lock; it needs no wake-up either, since a sequence that has not ended keeps the thread at work.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.handover import Handovers, Inbox
from small4.engine.sequence import Sequence
from small4.errors import EngineStoppedError

T = TypeVar("T")

Deliver = Callable[[Output], None]
_Command = tuple[Callable[[], object], "Future[object]"]


class Worker:
    """Runs one engine for many callers, from any thread; `on_start` hears of every thread that begins to."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
        on_start: Callable[["Worker", threading.Thread], None] = lambda worker, thread: None,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.round_began: float | None = None  # the clock when the round under way began; None between two
        self.stopped: EngineStoppedError | None = None  # why it will never step again
        self._on_start = on_start
        self._lock = threading.Lock()
        self._inbox: deque[_Command] = deque()
        self._taken: list[_Command] = []  # from the inbox, for the round under way
        self._thread: threading.Thread | None = None
        self._dropped: deque[Sequence] = deque()
        self._delivering = threading.Lock()
        self._deliver: dict[Sequence, Deliver] = {}  # whoever has not had a last output
        self._handovers = Handovers()

    @property
    def has_died(self) -> bool:
        """Whether its thread has ended without a word."""
        thread = self._thread
        return thread is not None and not thread.is_alive()

    def stream(self, request: GenerationRequest) -> "Stream":
        """Outputs of all sequences of a request as they come, at last one with a reason for each.

        Raises what is wrong with the request at the call. A stream that is closed or dropped aborts what still runs.
        """
        outputs: SimpleQueue[Output] = SimpleQueue()
        return Stream(self, self.submit(request, outputs.put), outputs)

    async def stream_async(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """`stream` for asyncio; raises what is wrong with the request at the first output."""
        inbox, handover = Inbox(), self._handovers.enter()
        num_open = 0
        try:
            sequences = await self._submit_async(request, partial(handover.put, inbox))
            num_open = len(sequences)
            while num_open:
                for output in await inbox.take():
                    num_open -= output.finish_reason is not None
                    yield output
        finally:
            self._handovers.leave(handover)
            if num_open:
                self.abort(*sequences)

    async def _submit_async(self, request: GenerationRequest, deliver: Deliver) -> list[Sequence]:
        """`submit` for asyncio."""
        asked = self._ask(lambda: self._submit(request, deliver))
        try:
            return await asyncio.wrap_future(asked)
        except BaseException:
            asked.add_done_callback(self._abandon)
            raise

    def submit(self, request: GenerationRequest, deliver: Deliver) -> list[Sequence]:
        """Submit, with `deliver` called from the engine's thread with every output; it must not block."""
        asked = self._ask(lambda: self._submit(request, deliver))
        try:
            return asked.result()
        except BaseException:  # Ctrl-C: what is submitted all the same has nobody to run for
            asked.add_done_callback(self._abandon)
            raise

    def abort(self, *sequences: Sequence) -> None:
        """End sequences soon; the last output of each comes with the reason "aborted"."""
        self._dropped.extend(sequences)

    def stop(self, error: EngineStoppedError) -> None:
        """Never step again, and end everything with this error; from any thread, also while the engine hangs."""
        with self._lock:
            if self.stopped is not None:
                return
            self.stopped = error
            asked = [*self._taken, *self._inbox]
            self._inbox.clear()
        with self._delivering:
            waiting, self._deliver = self._deliver, {}
        for _, future in asked:
            with suppress(InvalidStateError):  # answered already
                future.set_exception(error)
        for sequence, deliver in waiting.items():
            with suppress(Exception):  # a broken receiver has nobody to tell
                deliver(Output(sequence, (), "error", error))
        self._handovers.wake()

    def _ask(self, command: Callable[[], T]) -> "Future[T]":
        """Have the thread run a command between two steps; starts the thread where none is alive."""
        future: Future[T] = Future()
        with self._lock:
            if self.stopped is not None:
                raise self.stopped
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="small4 engine", daemon=True)
                thread.start()  # may fail, and then nothing is asked; it waits for the lock
                self._thread = thread
                self._on_start(self, thread)
            self._inbox.append((command, future))  # type: ignore[arg-type]
        return future

    def _work(self) -> None:
        try:
            while self._begin_round():
                self._round()
        except BaseException as error:  # a bug of ours, or no memory: nothing of this engine can be trusted any more
            stopped = EngineStoppedError("the engine died; it starts again, send the request again")
            stopped.__cause__ = error
            self.stop(stopped)

    def _begin_round(self) -> bool:
        """Take the commands that have come; false where there is nothing to do, which ends the thread."""
        with self._lock:
            self._taken = list(self._inbox)
            self._inbox.clear()
            if self.stopped is None and (self._taken or self.engine.num_running or self.engine.num_waiting):
                return True
            self._thread = None
            return False

    def _round(self) -> None:
        self.round_began = self.clock()
        for command, future in self._taken:
            _answer(command, future)
        while self._dropped:
            self._abort(self._dropped.popleft())
        self._step()
        self._handovers.wake()
        self.round_began = None

    def _step(self) -> None:
        try:
            outputs = self.engine.step()
        except Exception as error:  # a bug of ours outside any one sequence: nobody is left waiting for it
            self.engine.fail_all(error)
            # Among them those that the step had ended before it failed.
            outputs = [Output(sequence, (), "error", error) for sequence in self._deliver]
        for output in outputs:
            self._hand_out(output)

    def _submit(self, request: GenerationRequest, deliver: Deliver) -> list[Sequence]:
        sequences = self.engine.submit(request)
        self._deliver.update((sequence, deliver) for sequence in sequences)
        return sequences

    def _abort(self, sequence: Sequence) -> None:
        if sequence.status != "ended":
            self._hand_out(self.engine.abort(sequence))

    def _abandon(self, asked: "Future[list[Sequence]]") -> None:
        """Abort what was submitted for a caller who has left."""
        if not asked.cancelled() and asked.exception() is None:
            self.abort(*asked.result())

    def _hand_out(self, output: Output) -> None:
        sequence = output.sequence
        with self._delivering:
            deliver = self._deliver.get(sequence)
            if deliver is None:
                return  # it has had its last output: the worker was stopped meanwhile
            if output.finish_reason is not None:
                del self._deliver[sequence]
            try:
                deliver(output)
            except Exception:  # the receiver is broken; its sequence has nobody left to run for
                self._deliver.pop(sequence, None)
                if sequence.status != "ended":
                    self.engine.abort(sequence)


class Stream:
    """An iterator over the outputs of one request."""

    def __init__(self, worker: Worker, sequences: list[Sequence], outputs: "SimpleQueue[Output]") -> None:
        self.worker, self.sequences, self.outputs = worker, sequences, outputs
        self.num_open = len(sequences)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Output:
        if self.num_open <= 0:  # below 0 once another thread has closed it
            raise StopIteration
        output = self.outputs.get()
        self.num_open -= output.finish_reason is not None
        return output

    def close(self) -> None:
        """Abort what still runs."""
        if self.num_open > 0:
            self.num_open = 0
            self.worker.abort(*self.sequences)

    def __del__(self) -> None:
        self.close()


def _answer(command: Callable[[], object], future: "Future[object]") -> None:
    """Run a command for the one who waits for it, if it was not cancelled or ended by a stop meanwhile."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    with suppress(InvalidStateError):  # a stop came while the command ran
        try:
            result = command()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
