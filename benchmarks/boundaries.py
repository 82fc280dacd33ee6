"""Every number of every dialect at and beyond its bounds: what the server answers, and how long the refusals take.

    python -m benchmarks.boundaries

Sends each body of `tests/server/numbers.py` to every path that takes it, in process and through the whole application,
one after the other. The lines are 50 ms for the slowest refusal and 1 MiB of memory for all requests of a path.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_results
from benchmarks.server import memory_bytes
from small4.server.run import pass_over_loaded
from tests.server.asgi import Served
from tests.server.numbers import body_of, cases_of, obliging

MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the requests of one path."""

    path: str
    num_cases: int
    num_honoured: int
    num_refused: int
    num_wrong: int  # answered in another way than the bounds say, or without the name of the field
    slowest_refusal_seconds: float
    slowest_refusal: str  # its field and what stood there
    slowest_processor_seconds: float  # of a refusal: what a neighbour's load changes least
    added_bytes: int  # of resident memory


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        rows = asyncio.run(measure(obliging(Path(directory))))
    print_table(*table_of(rows))
    total = {
        "num_cases": sum(row.num_cases for row in rows),
        "num_wrong": sum(row.num_wrong for row in rows),
        "slowest_refusal_ms": max(row.slowest_refusal_seconds for row in rows) * 1000,
        "slowest_processor_ms": max(row.slowest_processor_seconds for row in rows) * 1000,
    }
    print(total)
    print(f"written to {write_results('boundaries', {**total, 'paths': [asdict(row) for row in rows]})}")
    sys.exit(bool(total["num_wrong"]))


async def measure(served: Served) -> list[Row]:
    """One row for each path that takes numbers; the first path is visited twice, since its first time warms all up."""
    document = (await served.client.get("/openapi.json")).json
    posts = [path.replace("{call}", MODEL) for path, methods in document["paths"].items() if "post" in methods]
    paths = [path for path in posts if body_of(path) is not None]
    await visit(served, paths[0])
    pass_over_loaded()  # as `small4 serve` does
    rows = [await visit(served, path) for path in paths]
    await served.app.state.batches.close()
    return rows


async def visit(served: Served, path: str) -> Row:
    """All cases of a path."""
    cases = list(await cases_of(served, path))
    before = memory_bytes(os.getpid())
    num_honoured = num_wrong = 0
    slowest, slowest_case, slowest_processor = 0.0, "", 0.0
    for case in cases:
        began, began_processor = time.perf_counter(), time.process_time()
        reply = await served.client.post(path, case.data)
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
        num_honoured += reply.status == 200
        num_wrong += not case.is_answered_well(reply)
        if reply.status == 200:
            continue
        slowest_processor = max(slowest_processor, processor_seconds)
        if seconds > slowest:
            slowest, slowest_case = seconds, f"{case.field}: {case.text[:20]}"
    return Row(
        path=path,
        num_cases=len(cases),
        num_honoured=num_honoured,
        num_refused=len(cases) - num_honoured,
        num_wrong=num_wrong,
        slowest_refusal_seconds=slowest,
        slowest_refusal=slowest_case,
        slowest_processor_seconds=slowest_processor,
        added_bytes=memory_bytes(os.getpid()) - before,
    )


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    headers = ["path", "cases", "honoured", "refused", "wrong", "slowest refusal", "processor", "memory"]
    return headers, [_cells(row) for row in rows]


def _cells(row: Row) -> list[str]:
    counts: list[Any] = [row.num_cases, row.num_honoured, row.num_refused, row.num_wrong]
    times = [f"{seconds * 1000:.1f} ms" for seconds in (row.slowest_refusal_seconds, row.slowest_processor_seconds)]
    return [row.path, *map(str, counts), *times, f"{row.added_bytes / 2**10:.0f} KiB"]


if __name__ == "__main__":
    main()
