"""One live server for all tests that run an SDK against it."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pytest

from tests.sdk.live import Outcome, Server, live_server, run_script

Outcomes = Callable[[str, str], Mapping[str, Outcome]]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with live_server() as server:
        yield server


@pytest.fixture(scope="session")
def outcomes(server: Server) -> Outcomes:
    """What became of the cases of an environment and a script, which is run when first asked for."""
    return cache(lambda environment, script: run_script(environment, script, server))
