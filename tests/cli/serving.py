"""`small4 serve` as its own process, for tests that ask it from outside."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Serving:
    process: subprocess.Popen[str]
    url: str
    opening: list[str]
    environment: dict[str, str]

    def small4(self, *arguments: str) -> str:
        """What another verb prints, as another process of the same user."""
        program = [sys.executable, "-m", "small4", *arguments]
        return subprocess.run(program, env=self.environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def served_nano(home: Path) -> Iterator[Serving]:
    """The nano, served to a user whose state directory is `home`, for as long as the block lasts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(home)}
    program = [sys.executable, "-m", "small4", "serve", "--port", "0", "--cache", "16M"]
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True, cwd=home)
    assert process.stdout is not None
    try:
        opening: list[str] = []
        while not opening or not opening[-1].startswith("Ctrl-C"):
            line = process.stdout.readline()
            assert line, "the server ended before it listened"
            opening.append(line.strip())
        yield Serving(process, opening[0].split()[3], opening, environment)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
