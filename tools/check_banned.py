"""Refuses code that can run data, and text that ties the repository to one machine.

In `small4/`: modules and calls that execute what they read (docs/decisions/0004-nothing-runs-data.md). In every
tracked text file: host names of package registries, which belong into each machine's own configuration, and absolute
paths of somebody's machine. Both are spelled here so that this file passes its own check.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tracked import ROOT, tracked_files

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "imp", "code"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "input"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("os.system", "os.popen", "importlib.import_module"),
}
KEYWORDS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False, "shell": True}

HOSTS = tuple(
    f"{left}.{right}"
    for left, right in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download.pytorch", "org"),
        ("npmjs", "org"),
        ("crates", "io"),
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w.~}>)/-])/(?:work|opt|root|home/\w+|Users/\w+)/[\w.]")


def main() -> int:
    """Print every fault and one line of figures; 1 if there is a fault."""
    faults = []
    num_code = num_text = 0
    for path in tracked_files():
        text = read_text(path)
        if text is None:
            continue
        num_text += 1
        name = path.relative_to(ROOT)
        faults += [f"{name}:{line}: {what}" for line, what in text_faults(text)]
        if path.suffix == ".py" and name.parts[0] == "small4":
            num_code += 1
            faults += [f"{name}:{line}: {what}" for line, what in code_faults(ast.parse(text))]
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{num_code} files of code without banned names, {num_text} of text without hosts and machine paths")
    return 1 if faults else 0


def read_text(path: Path) -> str | None:
    """The file's text, or None if it is not text."""
    data = path.read_bytes()
    if b"\0" in data[:8192]:
        return None
    return data.decode("utf-8", errors="replace")


def text_faults(text: str) -> Iterator[tuple[int, str]]:
    """Line number and fault for every registry host and machine path."""
    for number, line in enumerate(text.splitlines(), 1):
        for host in HOSTS:
            if host in line:
                yield number, f"registry host {host}; leave it to the machine's own configuration"
        if found := MACHINE_PATHS.search(line):
            yield number, f"path of a machine, {found.group().strip()}...; make it relative"


def code_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line number and fault for every banned import, name, call and keyword."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, f"import of {a.name}") for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, f"import of {name}") for name in names if name in CALLS)
            if module.split(".")[0] in MODULES:
                yield node.lineno, f"import of {module}"
        elif isinstance(node, ast.Name | ast.Attribute) and dotted(node) in CALLS:
            yield node.lineno, f"use of {dotted(node)}"
        elif isinstance(node, ast.keyword) and is_banned_keyword(node):
            yield node.value.lineno, f"argument {node.arg}"


def is_banned_keyword(node: ast.keyword) -> bool:
    """Whether `node` hands one of KEYWORDS the value that opens the door."""
    return node.arg in KEYWORDS and isinstance(node.value, ast.Constant) and node.value.value is KEYWORDS[node.arg]


def dotted(node: ast.AST) -> str:
    """`a.b.c` for such an expression, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
