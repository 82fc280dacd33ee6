"""Requests that schemathesis makes from /openapi.json, right and wrong ones, against a live server.

    python -m benchmarks.openapi
    python -m benchmarks.openapi --examples 1000 --seed 2

Every path is visited with each bound of its fields and what lies beyond, then with so many random requests, then in
sequences that use what came back. No answer may be a fault of the server, or have a status, a type or a shape that the
document does not describe. schemathesis runs in an environment of its own, from requirements/schemathesis.txt.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_results
from small4.server.run import serving
from tests.sdk.environments import python_of
from tests.sdk.live import bare_environment
from tests.server.asgi import Served
from tests.server.numbers import obliging

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
REQUEST_SECONDS = 120  # a busy machine may stop a process for longer than schemathesis waits by itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="random requests for each path and method")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        served = obliging(Path(directory))
        with serving(served.app) as url:
            report = visit(url, arguments.examples, arguments.seed, Path(directory) / "report.json")
        results = summary(report, served)
    show(results)
    print(f"written to {write_results('openapi', results)}")
    sys.exit(bool(results["failures"] or results["errors"]))


def visit(url: str, num_examples: int, seed: int, path: Path) -> dict[str, Any]:
    """What schemathesis reports of its run."""
    program = python_of("schemathesis").with_name("schemathesis")
    options = {
        "--checks": ",".join(CHECKS),
        "--max-examples": str(num_examples),
        "--seed": str(seed),
        "--request-timeout": str(REQUEST_SECONDS),
        "--generation-with-security-parameters": "false",
        "--generation-database": "none",
        "--report": "json",
        "--report-json-path": str(path),
    }
    command = [program, "--no-color", "run", f"{url}/openapi.json", "--continue-on-failure", "--no-shrink"]
    command += [word for option in options.items() for word in option]
    subprocess.run(command, env=bare_environment(), cwd=path.parent, check=False)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def summary(report: dict[str, Any], served: Served) -> dict[str, Any]:
    """What is kept of it, with the statuses from the server's own log."""
    statuses = Counter(line["status"] for line in served.logged() if line["event"] == "request")
    return {
        "schemathesis": report["schemathesis_version"],
        "seed": report["seed"],
        "seconds": report["running_time"],
        "operations": report["operations"]["tested"],
        "cases": report["test_cases"]["generated"],
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "accepted": _accepted(report["valid_rates"]),
        "failures": report["failures"],
        "errors": report["errors"],
    }


def _accepted(rates: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    """How many requests of each phase were honoured."""
    found: Counter[str] = Counter()
    for phases in rates.values():
        for phase, counts in phases.items():
            found[phase] += counts["accepted"]
    return dict(found)


def show(results: dict[str, Any]) -> None:
    names = ["operations", "cases", "statuses", "accepted", "seconds"]
    print_table(["", "found"], [[name, str(results[name])] for name in names])
    for kind in ("failures", "errors"):
        for found in results[kind]:
            print(kind, json.dumps(found)[:2000])


if __name__ == "__main__":
    main()
