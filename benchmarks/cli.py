"""How long the command line makes one wait: python -m benchmarks.cli [--model nano] [--runs 9]

`help` is `small4 --help` from start to end; `status` is `small4` alone; `first thought` is the time from starting
`small4 run MODEL "17+48+36"` to the first byte of its thought. Wall time is what a person waits and depends on what
else the machine does (its load is in the JSON file); processor time does not. Exits with 1 where the median wall time
passes a limit: 250 ms for help, 4 s for the first thought.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.report import print_table, write_results

HELP_SECONDS = 0.25
FIRST_THOUGHT_SECONDS = 4.0
HEADERS = ["what", "best wall", "median wall", "worst wall", "median processor", "limit"]


@dataclass(frozen=True)
class Timing:
    """Several runs of one command."""

    what: str
    wall_seconds: list[float]
    processor_seconds: list[float]
    limit_seconds: float | None

    @property
    def is_within(self) -> bool:
        return self.limit_seconds is None or statistics.median(self.wall_seconds) <= self.limit_seconds

    def row(self) -> list[str]:
        wall = self.wall_seconds
        figures = [min(wall), statistics.median(wall), max(wall), statistics.median(self.processor_seconds)]
        limit = "-" if self.limit_seconds is None else f"{1000 * self.limit_seconds:.0f} ms"
        return [self.what, *(f"{1000 * figure:.0f} ms" for figure in figures), limit]


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the command line.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    first = ["run", arguments.model, "17+48+36"]
    timings = [
        measure("help", ["--help"], arguments.runs, HELP_SECONDS),
        measure("status", [], arguments.runs, None),
        measure("first thought", first, arguments.runs, FIRST_THOUGHT_SECONDS, until_thought=True),
    ]
    print_table(HEADERS, [timing.row() for timing in timings])
    print(f"written to {write_results('cli', {'timings': [asdict(timing) for timing in timings]})}")
    return 0 if all(timing.is_within for timing in timings) else 1


def measure(what: str, arguments: list[str], runs: int, limit: float | None, *, until_thought: bool = False) -> Timing:
    """Run the command once to warm the file cache, then `runs` times."""
    wall, processor = [], []
    for _ in range(runs + 1):
        start, before = time.monotonic(), children_seconds()
        process = subprocess.Popen(
            [sys.executable, "-m", "small4", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        name = process.stdout.readline() if until_thought else b""
        shown = process.stdout.read(len("thinking:\n  1") if until_thought else -1)
        wall.append(time.monotonic() - start)
        if until_thought:
            process.kill()
        process.communicate()
        if not shown or (process.returncode != 0 and not until_thought):
            raise RuntimeError(f"small4 {' '.join(arguments)} failed: {(name + shown).decode()}")
        processor.append(children_seconds() - before)
    return Timing(what, wall[1:], processor[1:], limit)


def children_seconds() -> float:
    """Processor time of all finished child processes."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
