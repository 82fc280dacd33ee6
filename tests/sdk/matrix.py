"""Which SDK does what against a live server: `python -m tests.sdk.matrix` runs every case and writes the pages of it.

docs/sdk-matrix.md      a column for each SDK and version, a row for each thing that a client does
docs/sdk/SCRIPT.md      the cases of one script, to which the cells of the matrix lead
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from tests.sdk.environments import versions_of
from tests.sdk.live import SCRIPTS, Outcome, live_server, run_script

ROOT = Path(__file__).parents[2]
PAGE, PAGES = ROOT / "docs" / "sdk-matrix.md", ROOT / "docs" / "sdk"
EXPECTED = Path(__file__).with_name("langchain") / "expected.toml"
COMMAND = "python -m tests.sdk.matrix"

ROWS = {
    "plain": "an answer in one piece",
    "asynchronous": "the SDK's asynchronous client",
    "stream": "an answer as it is written, to its end",
    "tools": "a forced tool call, its result, and the next turn",
    "tools_streamed": "a tool call as it is written",
    "parallel": "two calls in one answer",
    "schema": "an answer held to a JSON schema, parsed by the SDK",
    "image": "an image in the question",
    "effort": "reasoning, and reasoning handed back",
    "usage": "tokens counted, cached ones too",
    "bad_key": "a wrong key is the SDK's own error",
    "unknown_model": "so is a model that is not served",
    "context_overflow": "so is a prompt that does not fit",
    "wrong_field": "so is a value out of range, which is named",
    "fault": "so is an engine that fails inside a stream",
    "models": "the list of models, and one of them",
    "count_tokens": "tokens of a prompt counted beforehand",
    "stop_string": "an answer ends before a given text",
    "length_stop": "an answer ends at a number of tokens",
    "several_and_seed": "several answers; the same seed, the same text",
    "logprobs": "log-probabilities of tokens",
    "text_completion": "text continued without a chat",
    "kept": "responses that are kept, gone on from, and deleted",
}


@dataclass(frozen=True)
class Column:
    """One script in one environment."""

    script: str
    environment: str

    @property
    def package(self) -> str:
        return SCRIPTS[self.script].package

    @property
    def version(self) -> str:
        return versions_of(self.environment)[self.package]


COLUMNS = [
    Column(script, environment)
    for script in SCRIPTS
    for environment in ("sdk-new", "sdk-old")
    if SCRIPTS[script].package in versions_of(environment)
]


@cache
def cases_of(script: str) -> Mapping[str, str]:
    """The source of every case of a script by its row, in the script's order."""
    source = SCRIPTS[script].path.read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list:
            found[node.name] = ast.get_source_segment(source, node) or ""
    return found


def matrix_page(outcomes: Mapping[Column, Mapping[str, Outcome]], head: str) -> str:
    """The page of the matrix; `head` tells of the run."""
    titles = [f"{column.package} {column.version}<br>{SCRIPTS[column.script].api}" for column in COLUMNS]
    lines = [*_OPENING, "", head, "", f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    for row, meaning in ROWS.items():
        cells = [_cell(column, row, outcomes[column]) for column in COLUMNS]
        lines.append(f"| {meaning} | {' | '.join(cells)} |")
    lines += [
        "",
        "What an API lacks:",
        "",
        *(f"- {script.package}, {script.api}: {script.lacks}." for script in SCRIPTS.values() if script.lacks),
        "",
        *langchain_lines(),
    ]
    return "\n".join(lines) + "\n"


def langchain_lines() -> list[str]:
    """What the matrix page says of LangChain's tests."""
    lists = tomllib.loads(EXPECTED.read_text(encoding="utf-8"))
    versions = [f"{package} {version}" for package, version in versions_of("sdk-langchain").items()]
    lines = [
        "## LangChain",
        "",
        "LangChain's own standard tests of a chat model, through its clients for OpenAI and Anthropic, against the",
        f"live nano ({', '.join(versions)}).",
        "`pytest -m sdk tests/sdk/test_langchain.py` runs them. Those for images, audio and PDF are skipped, as the",
        "nano takes none, and so is the one that replays recordings. All others pass but these, which have to fail:",
        "",
        "| test | through | reason |",
        "|---|---|---|",
    ]
    for suite, reasons in lists.items():
        client = suite.removesuffix("_suite")
        lines += [f"| `{name}` | {client} | {reason} |" for name, reason in reasons.items()]
    return lines


_OPENING = (
    "# The official SDKs, tried",
    "",
    f"Written by `{COMMAND}`: every SDK, in an environment of its own from a hashed lock, against a",
    "live server on the nano. What the nano cannot do on demand (two calls at once, images, a fault) is answered by",
    "a script behind the same server. Calls and schemas are forced, as the nano was never taught to call anything.",
    "Each cell leads to its test; `pytest -m sdk tests/sdk` runs them. A dash: the API has no such thing.",
)


def _cell(column: Column, row: str, outcomes: Mapping[str, Outcome]) -> str:
    if row not in outcomes:
        return "-"
    word = "**fails**" if outcomes[row].error else "passes"
    return f"[{word}](sdk/{column.script}.md#{row})"


def script_page(script: str) -> str:
    """The page that shows the cases of a script."""
    facts = SCRIPTS[script]
    lines = [
        f"# {facts.package}: {facts.api}",
        "",
        f"The cases of `tests/sdk/scripts/{script}.py` in the [matrix](../sdk-matrix.md), written by `{COMMAND}`.",
        "`URL` and `KEY` are the server's; the constants and what `raises` does are in `cases.py` beside it.",
        "",
        "<!-- test: skip, because tests/sdk runs it -->",
        *("```python", _preamble(script), "```"),
    ]
    for row, source in cases_of(script).items():
        lines += ["", f"## {row}", "", f"{ROWS[row][0].upper()}{ROWS[row][1:]}.", ""]
        lines += ["<!-- test: skip, because tests/sdk runs it -->", "```python", source, "```"]
    return "\n".join(lines) + "\n"


def _preamble(script: str) -> str:
    """What stands above the first case."""
    source = SCRIPTS[script].path.read_text(encoding="utf-8")
    docstring = ast.parse(source).body[0]
    assert docstring.end_lineno is not None
    above = "\n".join(source.splitlines()[docstring.end_lineno :]).split("\n@case")[0]
    return above.strip()


def pages() -> Iterator[tuple[Path, str]]:
    """Every page of a script, and what should stand in it."""
    for script in SCRIPTS:
        yield PAGES / f"{script}.md", script_page(script)


def main() -> int:
    """Run everything and write the pages; 1 if a case failed."""
    with live_server() as server:
        outcomes = {column: run_script(column.environment, column.script, server) for column in COLUMNS}
    failed = [(column, row) for column, rows in outcomes.items() for row, outcome in rows.items() if outcome.error]
    num_cases = sum(map(len, outcomes.values()))
    passed = f"{num_cases - len(failed)} of {num_cases} cases passed"
    head = f"{passed} on {datetime.now(UTC):%Y-%m-%d}."
    PAGES.mkdir(exist_ok=True)
    PAGE.write_text(matrix_page(outcomes, head), encoding="utf-8")
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
    for column, row in failed:
        print(f"{column.environment} {column.script} {row}\n{outcomes[column][row].error}")
    print(head)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
