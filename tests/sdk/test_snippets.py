"""Every program that `small4 snippet` prints, run as a user would run it against `small4 serve`."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from small4.cli.snippet import NO_KEY, SNIPPETS, URL, snippet
from tests.cli.serving import ROOT, Serving, served_nano
from tests.sdk.environments import node_modules_of, python_of, versions_of
from tests.sdk.live import bare_environment

ANSWERS = {"python": "126", "anthropic": "126", "gemini": "126", "mistral": "65", "js": "126", "curl": '"126"'}
PACKAGES = {"python": "openai", "anthropic": "anthropic", "gemini": "google-genai", "mistral": "mistralai"}
NOT_PROGRAMS = {"agent"}  # a text for a coding agent
IN_PYTHON = [
    (environment, kind)
    for environment in ("sdk-new", "sdk-old")
    for kind, package in PACKAGES.items()
    if package in versions_of(environment)
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served_nano(tmp_path_factory.mktemp("home")) as serving:
        yield serving


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, env=bare_environment(), capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "kind"), IN_PYTHON)
def test_a_python_snippet_prints_the_answer(serving: Serving, environment: str, kind: str) -> None:
    program = serving.small4("snippet", kind)
    assert output_of(python_of(environment), "-c", program).strip() == ANSWERS[kind]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed here")
def test_the_javascript_snippet_prints_the_answer(serving: Serving, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules_of("sdk-js"))
    program = tmp_path / "snippet.mjs"
    program.write_text(serving.small4("snippet", "js"), encoding="utf-8")
    assert output_of("node", program).strip() == ANSWERS["js"]


@pytest.mark.slow
def test_the_curl_snippet_prints_the_answer(serving: Serving) -> None:
    assert ANSWERS["curl"] in output_of("bash", "-c", serving.small4("snippet", "curl"))


def test_every_snippet_is_run_or_no_program() -> None:
    assert {file.stem for file in SNIPPETS.glob("*.txt")} == set(ANSWERS) | NOT_PROGRAMS


def test_the_readme_shows_a_snippet_that_is_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- test: skip, because tests/sdk runs it -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert shown == [snippet("python", URL, "nano", NO_KEY)]
