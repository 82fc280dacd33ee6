"""How a benchmark reports: one table on the screen, one JSON file with machine, versions and commit."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, ["-" * width for width in widths], *rows):
        first, *others = (cell.ljust if i == 0 else cell.rjust for i, cell in enumerate(row))
        print("  ".join([first(widths[0]), *(pad(width) for pad, width in zip(others, widths[1:], strict=True))]))


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances(), **results}, indent=1) + "\n", encoding="utf-8")
    return path


def circumstances() -> dict[str, Any]:
    """Where and with what a figure was taken."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or ("unknown" if found.returncode else "")


def _processor() -> str:
    return next((line.split(":", 1)[1].strip() for line in processor_lines("model name")), platform.processor())


def processor_lines(*fields: str) -> list[str]:
    """What the system tells of its first processor under these fields; nothing where it tells nothing."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return []
    return [line for line in first if line.split(":")[0].strip() in fields]
