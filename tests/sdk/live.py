"""A live server, and the scripts of cases that SDKs run against it, each in an environment of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.sdk.environments import python_of

ROOT = Path(__file__).parents[2]
SCRIPT_SECONDS = 300


@dataclass(frozen=True)
class Script:
    """A script of cases: which package it uses, for which of its APIs, and what that API has not."""

    name: str
    package: str
    api: str
    lacks: str = ""

    @property
    def path(self) -> Path:
        return Path(__file__).with_name("scripts") / f"{self.name}.py"


SCRIPTS = {
    script.name: script
    for script in (
        Script("openai_chat", "openai", "chat completions", "tokens are counted with the answer, nothing is kept"),
        Script(
            "openai_responses", "openai", "responses", "no stop strings, no several answers, no seed; models as above"
        ),
        Script("anthropic_messages", "anthropic", "messages", "no several answers, no seed, no log-probabilities"),
        Script("google_generate", "google-genai", "generateContent"),
        Script("mistral_chat", "mistralai", "chat, fill in the middle", "tokens are counted with the answer"),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What became of a case; `error` is its traceback."""

    seconds: float
    error: str | None


@dataclass(frozen=True)
class Server:
    url: str
    key: str


@contextmanager
def live_server() -> Iterator[Server]:
    """The server of `serve.py` as a process, for as long as the block lasts."""
    with TemporaryDirectory() as directory:
        program = [sys.executable, "-m", "tests.sdk.serve", directory]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(program, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield Server(*process.stdout.readline().split())
            finally:
                process.terminate()


def run_script(environment: str, script: str, server: Server) -> Mapping[str, Outcome]:
    """Run all cases of a script with an environment's own Python; what became of each."""
    command = [python_of(environment), SCRIPTS[script].path, server.url, server.key]
    done = subprocess.run(command, env=bare_environment(), capture_output=True, text=True, timeout=SCRIPT_SECONDS)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["row"]: Outcome(line["seconds"], line["error"]) for line in lines}


def bare_environment() -> dict[str, str]:
    """The environment variables without those that would lead to packages of ours, or an SDK elsewhere."""
    leading = ("PYTHON", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "MISTRAL_", "LANGCHAIN_", "LANGSMITH_")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(leading)}
