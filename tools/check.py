"""All that a change has to pass, in the order of cost; each check prints one line on what it did.

    python tools/check.py                 everything, tests last (not run if an earlier check failed)
    python tools/check.py lint imports    only those

Continuous integration runs the same through `make check`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS: dict[str, tuple[str, ...]] = {
    "format": (str(BIN / "ruff"), "format", "--check", "."),
    "lint": (str(BIN / "ruff"), "check", "."),
    "sizes": (sys.executable, "tools/check_sizes.py"),
    "banned": (sys.executable, "tools/check_banned.py"),
    "imports": (str(BIN / "lint-imports"),),
    "types": (str(BIN / "mypy"),),
    "docs": (str(BIN / "mkdocs"), "build", "--strict", "--site-dir"),
}
TESTS = (sys.executable, "-m", "pytest", "-m", "not sdk and not gpu and not network")


def main(names: list[str]) -> int:
    """Run the checks named, or all and then the tests; the exit code is 1 if one failed."""
    unknown = [name for name in names if name not in (*CHECKS, "tests")]
    if unknown:
        print(f"unknown check {unknown[0]}; there are {', '.join(CHECKS)} and tests")
        return 2
    failed = [name for name in CHECKS if (not names or name in names) and not passes(name)]
    if failed:
        print(f"FAILED: {', '.join(failed)}; the tests were not run")
        return 1
    if names and "tests" not in names:
        return 0
    print("tests: all but sdk, gpu and network", flush=True)
    return subprocess.run(TESTS, cwd=ROOT).returncode


def passes(name: str) -> bool:
    """Run one check: its last line of output and its time when it passes, all of its output when it fails."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        command = (*CHECKS[name], scratch) if name == "docs" else CHECKS[name]
        run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.monotonic() - start
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    if run.returncode == 0:
        print(f"{name}: ok ({seconds:.1f} s) {lines[-1] if lines else ''}".rstrip(), flush=True)
        return True
    print(f"{name}: FAILED ({seconds:.1f} s)", *lines, sep="\n  ", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
