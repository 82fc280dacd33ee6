"""Refuses a Python file over 600 lines, a function over 100 lines, and an `__init__.py` that holds code.

Files are meant to have 80-300 lines and functions 10; at 400 a file asks to be split, which is told but passes.
"""

import ast
import sys
from pathlib import Path
from statistics import median

from tracked import ROOT, tracked_files

MAX_FILE_LINES = 600
ASK_FILE_LINES = 400
MAX_FUNCTION_LINES = 100


def main() -> int:
    """Print every fault and one line of figures; 1 if there is a fault."""
    paths = [path for path in tracked_files() if path.suffix == ".py"]
    faults = []
    function_lines = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        faults += file_faults(name, text)
        for function, lines in functions(text):
            function_lines.append(lines)
            if lines > MAX_FUNCTION_LINES:
                faults.append(f"{name}: {function} has {lines} lines, the limit is {MAX_FUNCTION_LINES}; split it")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(paths)} files, {len(function_lines)} functions, median {median(function_lines or [0]):.0f} lines")
    return 1 if faults else 0


def file_faults(name: Path, text: str) -> list[str]:
    """What is wrong with a file as a whole; prints a hint where it asks to be split."""
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        return [f"{name}: {lines} lines, the limit is {MAX_FILE_LINES}; split it"]
    if lines > ASK_FILE_LINES:
        print(f"{name}: {lines} lines, asks to be split at {ASK_FILE_LINES}")
    if name.name == "__init__.py" and name.as_posix() != "small4/__init__.py" and text.strip():
        return [f"{name}: not empty; put the code into a module named after what it does"]
    return []


def functions(text: str) -> list[tuple[str, int]]:
    """Name and number of lines of every function, nested ones too."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


if __name__ == "__main__":
    sys.exit(main())
