"""The thread that steps an engine, and how other threads talk to it.

Submissions and aborts go through an inbox that the thread empties between two steps, so the engine itself is only ever
touched by one thread. The thread lives while there is work: an idle engine costs nothing, and a program can end.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.sequence import Sequence

T = TypeVar("T")

Deliver = Callable[[Output], None]


class Worker:
    """Runs one engine for many callers, from any thread."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self.clock = clock
        self.step_began: float | None = None  # the clock when the step under way began, for a watchdog; None while idle
        self._lock = threading.Lock()
        self._inbox: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._thread: threading.Thread | None = None
        self._deliver: dict[int, Deliver] = {}

    def stream(self, request: GenerationRequest) -> "Stream":
        """Outputs of all sequences of a request as they come, at last one with a reason for each.

        Raises what is wrong with the request at the call. A stream that is closed or dropped aborts what still runs.
        """
        outputs: SimpleQueue[Output] = SimpleQueue()
        return Stream(self, self.submit(request, outputs.put), outputs)

    async def stream_async(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """`stream` for asyncio; raises what is wrong with the request at the first output."""
        loop, outputs = asyncio.get_running_loop(), asyncio.Queue[Output]()
        deliver: Deliver = lambda output: _call_in(loop, outputs.put_nowait, output)  # noqa: E731
        sequences = await asyncio.wrap_future(self._ask(lambda: self._submit(request, deliver)))
        num_open = len(sequences)
        try:
            while num_open:
                output = await outputs.get()
                num_open -= output.finish_reason is not None
                yield output
        finally:
            if num_open:
                self.abort(*sequences)

    def submit(self, request: GenerationRequest, deliver: Deliver) -> list[Sequence]:
        """Submit, with `deliver` called from the engine's thread with every output; it must not block."""
        return self._ask(lambda: self._submit(request, deliver)).result()

    def abort(self, *sequences: Sequence) -> None:
        """End sequences soon; the last output of each comes with the reason "aborted"."""

        def abort_each() -> None:
            for sequence in sequences:
                if sequence.status != "ended":
                    self._hand_out(self.engine.abort(sequence))

        self._ask(abort_each)

    def _ask(self, command: Callable[[], T]) -> "Future[T]":
        """Have the thread run a command between two steps; starts the thread where none is alive."""
        future: Future[T] = Future()
        with self._lock:
            self._inbox.append((command, future))  # type: ignore[arg-type]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="small4 engine", daemon=True)
                self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                commands = list(self._inbox)
                self._inbox.clear()
                if not commands and not self.engine.num_running and not self.engine.num_waiting:
                    self._thread = None
                    return
            for command, future in commands:
                try:
                    future.set_result(command())
                except Exception as error:
                    future.set_exception(error)
            self._step()

    def _step(self) -> None:
        self.step_began = self.clock()
        try:
            outputs = self.engine.step()
        except Exception as error:  # a bug of ours outside any one sequence: nobody is left waiting for it
            outputs = self.engine.fail_all(error)
        self.step_began = None
        for output in outputs:
            self._hand_out(output)

    def _submit(self, request: GenerationRequest, deliver: Deliver) -> list[Sequence]:
        sequences = self.engine.submit(request)
        self._deliver.update((sequence.id, deliver) for sequence in sequences)
        return sequences

    def _hand_out(self, output: Output) -> None:
        sequence = output.sequence
        deliver = self._deliver[sequence.id] if output.finish_reason is None else self._deliver.pop(sequence.id)
        try:
            deliver(output)
        except Exception:  # the receiver is broken; its sequence has nobody left to run for
            self._deliver.pop(sequence.id, None)
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
        if not self.num_open:
            raise StopIteration
        output = self.outputs.get()
        self.num_open -= output.finish_reason is not None
        return output

    def close(self) -> None:
        """Abort what still runs."""
        if self.num_open:
            self.num_open = 0
            self.worker.abort(*self.sequences)

    def __del__(self) -> None:
        self.close()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[Output], None], output: Output) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
        loop.call_soon_threadsafe(function, output)
