"""Work that may take too much time or memory, in a process of its own that ends for it and takes nobody along.

`Child` is the side that asks: it starts `python -m MODULE` and ends it where it does not answer. In that process every
question is answered by a fork of it, which its timer ends, or the system where it asks for too much memory; so what the
process had to load is not loaded again, and nothing that one question leaves behind meets the next.

A question is bytes that both sides agree on. An answer is a line of JSON and, where that has a `size`, as many bytes.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from small4.errors import BusyError

ENDED: Mapping[str, Any] = {"ended": True}  # in place of an answer that took too much

_ROOT = Path(__file__).resolve().parents[1]  # where `small4` is found
# A fork is given processor time, so that a busy machine refuses nothing that an idle one takes; this ends what waits.
_WALL_FACTOR, _GRACE_SECONDS = 3.0, 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    line: Mapping[str, Any]
    data: bytearray


class Child:
    """One process, started when first asked and again after it had to be ended. Safe to call from several threads."""

    def __init__(self, module: str, opening: Callable[[], Iterable[bytes]], start_seconds: float) -> None:
        """`opening` is what the process reads before its first question."""
        self._module, self._opening, self._start_seconds = module, opening, start_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Starts the process if it does not run."""
        with self._lock:
            self._running()

    def ask(self, question: Iterable[bytes], seconds: float) -> Answer | None:
        """The answer; None if it took more than the seconds that its fork was given, or too much memory."""
        with self._lock:
            answer = _ask(self._running(), question, seconds * _WALL_FACTOR + _GRACE_SECONDS)
            if answer is None:
                self._stop()
        return None if answer is None or answer.line == ENDED else answer

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        process = _start(self._module)
        self._process, self._end = process, weakref.finalize(self, _end, process)
        if _ask(process, self._opening(), self._start_seconds) is None:
            self._stop()
            raise BusyError(f"the process {self._module} did not start; is there memory for it? Ask again in a moment")
        return process

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _start(module: str) -> subprocess.Popen[bytes]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _ask(process: subprocess.Popen[bytes], question: Iterable[bytes], seconds: float) -> Answer | None:
    """The answer, or None if the process ended or had to be ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    clock = threading.Timer(seconds, process.kill)
    clock.start()
    try:
        process.stdin.writelines(question)
        process.stdin.flush()
        return _read_answer(process.stdout)
    except BrokenPipeError:
        return None
    finally:
        clock.cancel()


def _read_answer(stream: IO[bytes]) -> Answer | None:
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    fields = dict(json.loads(line))
    data = bytearray(fields.get("size", 0))
    rest = memoryview(data)
    while rest:
        num_read = stream.readinto(rest)  # type: ignore[attr-defined]
        if not num_read:
            return None
        rest = rest[num_read:]
    return Answer(fields, data)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a question that it never read
                continue


def be_ready() -> None:
    """Tell whoever asks that questions may come, and leave it to them when to end.

    Ctrl-C, and the stop of a service, come to all its processes; but what is open then is still to be answered.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    say({"ready": True})


def say(line: Mapping[str, Any], data: bytes | memoryview = b"") -> None:
    """Send an answer, from the process or its fork."""
    head = {**line, "size": len(data)} if data else line
    for piece in (json.dumps(head).encode() + b"\n", data):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]


def say_from_fork(
    answer: Callable[[], tuple[Mapping[str, Any], bytes | memoryview]], seconds: float, num_bytes: int
) -> None:
    """Have a fork find the answer within its processor time and memory and send it; send `ENDED` if it did not."""
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            _limit_memory(num_bytes)
            found = answer()
            signal.setitimer(signal.ITIMER_PROF, 0)
            say(*found)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        sys.exit(1)  # it may have ended in the middle of an answer; who asked learns it from the closed pipe
    if status:
        say(ENDED)


def _limit_memory(num_bytes: int) -> None:
    """Whatever is taken from now on, beside what is mapped already."""
    mapped = Path("/proc/self/statm")
    if mapped.exists():
        num_bytes += int(mapped.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
