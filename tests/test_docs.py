"""What README and docs tell holds: code blocks run, commands work, links lead somewhere, the site needs no net.

A fenced block is taken by its language. `python` runs, all blocks of a page in one namespace. In `console`, every line
that begins with `$ ` is a command, what follows it up to the next one is its output; in `sh`, every line is a command.
A comment on the line above a block says how it differs:

    <!-- test: output -->          the block after the commands is compared: output must be equal
    <!-- test: parse -->           the commands are not run; verbs and options must exist (always so for LONG_VERBS)
    <!-- test: skip, because ... -->  not looked at
"""

import functools
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- test: (\w+)[^>]*-->\s*\Z")
# Commands that tests let stand without running them: they need the net or change the machine.
LONG_VERBS = {"train", "eval", "pull", "rm"}  # only parsed, always
LET_STAND = {"git", "cd", "pip", "pipx", "uvx", "nvidia-smi"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, with the line it begins at."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command line and the output that the page shows for it."""

    text: str
    output: str
    block: Block


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, fence.group(1), fence.group(2), mark.group(1) if mark else ""))
    return found


def commands_of(block: Block) -> list[Command]:
    if block.language == "sh":
        joined = block.text.replace("\\\n", "")
        lines = [line.split("  #")[0].strip() for line in joined.splitlines() if not line.startswith("#")]
        return [Command(line, "", block) for line in lines if line]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [Command(*(part + "\n").split("\n", 1), block) for part in parts]


BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.mark != "skip"]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python"})
COMMANDS = [command for block in BLOCKS if block.language in ("console", "sh") for command in commands_of(block)]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            script = tmp_path / f"{page.stem}.py"
            script.write_text("\n" * block.line + block.text)  # errors then show the page's own line
            namespace = runpy.run_path(str(script), namespace)


def each_command() -> list[Any]:
    """Those of the README and of the page on the command line by default, those of all pages where slow tests run."""
    return [
        pytest.param(
            command,
            marks=() if command.block.page.name in ("README.md", "cli.md") else pytest.mark.slow,
            id=f"{command.block.name} {command.text}",
        )
        for command in COMMANDS
    ]


@pytest.mark.parametrize("command", each_command())
def test_command_of_a_page_works(command: Command, tmp_path: Path) -> None:
    program, *arguments = shlex.split(command.text, comments=True)
    if program == "make":
        plan = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert plan.returncode == 0, plan.stderr
    elif program == "small4" and (command.block.mark == "parse" or LONG_VERBS & set(arguments[:1])):
        assert_parses(arguments)
    elif program == "small4":
        run = small4(*arguments, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        if command.block.mark == "output":
            assert run.stdout.strip() == command.output.strip()
    elif program in ("python", "python3"):
        assert (ROOT / arguments[0]).is_file(), f"{command.block.name}: no such script: {arguments[0]}"
    else:
        assert program in LET_STAND, f"{command.block.name}: unknown command {program}"


def small4(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command, in an empty directory, without terminal and input."""
    script = Path(sys.executable).parent / "small4"
    start = [str(script)] if script.exists() else [sys.executable, "-m", "small4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        [*start, *arguments], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def assert_parses(arguments: list[str]) -> None:
    """The verb exists and its help names every option that is used."""
    verb = [argument for argument in arguments[:1] if not argument.startswith("-")]
    help_text = help_of(*verb)
    if verb and "COMMAND [ARGS]" in help_text:  # a verb with verbs of its own
        verb = arguments[:2]
        help_text = help_of(*verb)
    for option in (argument.split("=")[0] for argument in arguments if re.match("--?[a-zA-Z]", argument)):
        assert re.search(rf"(?<![\w-]){re.escape(option)}\b", help_text), (
            f"small4 {' '.join(verb)} has no option {option}"
        )


@functools.cache
def help_of(*verb: str) -> str:
    """What `small4 VERB --help` prints."""
    run = small4(*verb, "--help", cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_a_page_outside_the_site_lead_to_files(name: str) -> None:
    page = ROOT / name
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_fence_of_a_page_closes() -> None:
    odd = [page.name for page in PAGES if len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) % 2]
    assert odd == []


def test_site_loads_nothing_from_the_net(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    loads = re.compile(
        r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//"""
    )
    imports = re.compile(r"""url\(["']?(?:https?:)?//|@import ["'](?:https?:)?//""")
    pages = {page: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    styles = {style: style.read_text(encoding="utf-8") for style in tmp_path.rglob("*.css")}
    assert pages
    assert [
        str(page) for page, text in pages.items() if loads.search(re.sub(r'<link rel="canonical"[^>]*>', "", text))
    ] == []
    assert [str(style) for style, text in styles.items() if imports.search(text)] == []
