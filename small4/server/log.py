"""Log lines as JSON, one per event, written by a thread of their own: a full pipe stops no request.

Prompts, answers and keys are in none. Of an error that is our own fault the line has its type and where it arose, not
what it said: that may quote a prompt.
"""

import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

MAX_FIELD = 2048  # characters
MAX_WAITING = 10_000  # lines; more are dropped and counted
MAX_FRAMES = 20
CLOSE_SECONDS = 5.0


class Log:
    """Takes lines from anywhere without waiting; `close` writes what is left."""

    def __init__(self, stream: TextIO | None = None, max_waiting: int = MAX_WAITING) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lines: queue.Queue[str | None] = queue.Queue(max_waiting)
        self._num_dropped = 0
        self._num_unsure = 0  # lines given to the stream since it last wrote all that it had
        self._thread = threading.Thread(target=self._write, name="small4 log", daemon=True)
        self._thread.start()

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """One line."""
        try:
            self._lines.put_nowait(line_of(event, {**fields, **self._dropped()}))
        except queue.Full:
            self._num_dropped += 1

    def fault(self, request_id: str, error: BaseException) -> None:
        """A line on an error that is ours."""
        frames = [f"{frame.name} {frame.filename.rpartition('small4')[2]}:{frame.lineno}" for frame in _frames(error)]
        self.write("fault", {"request_id": request_id, "type": type(error).__name__, "frames": frames})

    def close(self) -> None:
        """Write what waits, and end; a stream that takes nothing is not waited for longer than a moment."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def _dropped(self) -> dict[str, int]:
        num_dropped, self._num_dropped = self._num_dropped, 0
        return {"lines_dropped": num_dropped} if num_dropped else {}

    def _write(self) -> None:
        with suppress(ValueError):  # the stream was closed: nobody reads it any more
            while (line := self._lines.get()) is not None:
                self._put(line)
            self._flush()

    def _put(self, line: str) -> None:
        """While the stream takes nothing, as a full disk, lines gather in its buffers as far as these hold them."""
        self._num_unsure += 1
        with self._counting():
            self._stream.write(line)
        if self._lines.empty():
            self._flush()

    def _flush(self) -> None:
        with self._counting():
            self._stream.flush()
            self._num_unsure = 0

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Where the stream fails, what it had not written for sure counts as dropped."""
        try:
            yield
        except OSError:
            self._num_dropped += self._num_unsure
            self._num_unsure = 0


def line_of(event: str, fields: Mapping[str, Any]) -> str:
    """The line: ASCII only, so that no character of a value can end it or speak to a terminal."""
    moment = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03d}Z"
    short = {name: _shortened(value) for name, value in fields.items()}
    return json.dumps({"time": stamp, "event": event, **short}) + "\n"


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_FIELD:
        return value[:MAX_FIELD] + "..."
    return value


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
