"""LangChain's standard tests for chat models, through two of its clients, against the live nano.

`tests/sdk/langchain` holds what its own environment's pytest runs: a suite for each client, and in `expected.toml` the
tests that the nano fails, by name and with the reason.
"""

import subprocess
from pathlib import Path

import pytest

from tests.sdk.environments import python_of
from tests.sdk.live import Server, bare_environment

PLACE = Path(__file__).with_name("langchain")
OPTIONS = (
    "-c",
    "pytest.ini",
    "--rootdir=.",
    "--confcutdir=.",
    "-p",
    "expected",
    "-p",
    "no:cacheprovider",
    "-q",
    "-rfE",
)
SUITE_SECONDS = 550


@pytest.mark.sdk
@pytest.mark.parametrize("suite", ["openai_suite", "anthropic_suite"])
def test_the_standard_suite_passes_but_for_what_is_listed(server: Server, suite: str) -> None:
    command = [python_of("sdk-langchain"), "-m", "pytest", *OPTIONS, f"{suite}.py"]
    environment = bare_environment() | {"SMALL4_URL": server.url, "SMALL4_KEY": server.key}
    done = subprocess.run(command, cwd=PLACE, env=environment, capture_output=True, text=True, timeout=SUITE_SECONDS)
    assert done.returncode == 0, done.stdout
