"""Asks the helper process whether a grammar compiles within the limits; replaces a helper that does not answer."""

import json
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

from small4.errors import GrammarError
from small4.grammar.limits import GrammarLimits
from small4.grammar.vocabulary import Vocabulary

_ROOT = Path(__file__).resolve().parents[2]  # where `small4` is found
_GRACE_SECONDS = 2.0  # the helper's own alarm comes first


class Trial:
    """One helper, started when first asked and again after it had to be ended. Safe to call from several threads."""

    def __init__(self, vocabulary: Vocabulary, limits: GrammarLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Starts the helper if it does not run, which takes seconds with a large vocabulary."""
        with self._lock:
            self._running()

    def check(self, grammar: str) -> str | None:
        """What llguidance finds wrong with a grammar; raises a `GrammarError` if it takes too much time or memory."""
        with self._lock:
            answer = _ask(self._running(), [json.dumps(grammar)], self._limits.compile_seconds + _GRACE_SECONDS)
            if answer is None:
                self._stop()
        if answer is None or "ended" in answer:
            raise GrammarError(
                f"the constraint takes more than {self._limits.compile_seconds:g} s or "
                f"{self._limits.compile_bytes // 2**20} MiB to compile; simplify it"
            )
        return None if answer["error"] is None else str(answer["error"])

    def close(self) -> None:
        """Ends the helper; the next check starts another."""
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int | None:
        """Of the helper that runs now."""
        return None if self._process is None else self._process.pid

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "small4.grammar.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            encoding="utf-8",
        )
        self._process, self._end = process, weakref.finalize(self, _end, process)
        opening = [json.dumps(asdict(self._limits)), self._vocabulary.to_json()]
        if _ask(process, opening, self._limits.start_seconds) is None:
            self._stop()
            raise GrammarError("the helper that compiles constraints did not start; is there memory for a process?")
        return process

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _ask(process: subprocess.Popen[str], lines: list[str], seconds: float) -> dict[str, Any] | None:
    """The helper's answer, or None if it ended or had to be ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    clock = threading.Timer(seconds, process.kill)
    clock.start()
    try:
        process.stdin.writelines(f"{line}\n" for line in lines)
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    finally:
        clock.cancel()
    return dict(json.loads(line)) if line.endswith("\n") else None


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a line that it never read
                continue
