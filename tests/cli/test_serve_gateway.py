"""`small4 serve --gateway` as its own process, before a provider that is a real HTTP server."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Small4
from tests.cli.serving import ROOT, Serving
from tests.gateway.routed import Made
from tests.providers.fault_server import FaultServer, Script

CHAT = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
SETTINGS = """
[gateway]
routes = ["lab"]

[[budgets]]
scope = "key"
dollars = 0.00005
"""


@contextmanager
def in_thread(script: Script) -> Iterator[FaultServer]:
    """A provider in a thread of its own."""
    there, loop, is_up, ends = FaultServer(script), asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def run() -> None:
        async with there:
            is_up.set()
            await ends.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    is_up.wait()
    try:
        yield there
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join()
        loop.close()


@contextmanager
def served_gateway(home: Path, made: Made, *options: str) -> Iterator[Serving]:
    """The gateway of a user whose own catalogue, key and small4.toml are in `home`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(home), made.variable: made.key}
    environment |= {"XDG_CONFIG_HOME": str(home / "config")}
    program = [sys.executable, "-m", "small4", "serve", "--port", "0", *options]
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True, cwd=home)
    assert process.stdout is not None
    try:
        opening: list[str] = []
        while not opening or not opening[-1].startswith("Ctrl-C"):
            line = process.stdout.readline()
            assert line, "the server ended before it listened"
            opening.append(line.strip())
        yield Serving(process, opening[0].split()[3], opening, environment)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_settings_keys_budgets_and_usage_of_a_served_gateway(tmp_path: Path) -> None:
    made = Made("lab")
    config = tmp_path / "config" / "small4"
    (config / "catalog").mkdir(parents=True)
    (config / "small4.toml").write_text(SETTINGS)
    with in_thread(made.script) as there:
        (config / "catalog" / "lab.toml").write_text(made.toml(there.url))
        with served_gateway(tmp_path, made) as serving:
            assert serving.opening[1].startswith("routes   lab")
            assert "budgets  $0.00005 a day (key)" in serving.opening
            first = httpx2.post(serving.url + "/v1/chat/completions", json=CHAT)
            assert (first.status_code, first.headers["x-small4-route"]) == (200, "lab")
            told = httpx2.get(f"{serving.url}/v1/small4/requests/{first.headers['x-request-id']}").json()
            assert told["attempts"][0]["result"] == "answered"
            statuses = [httpx2.post(serving.url + "/v1/chat/completions", json=CHAT).status_code for _ in range(5)]
            assert statuses[-1] == 429
            (line,) = json.loads(serving.small4("usage", "--by", "route", "--json"))
            assert (line["name"], line["num_attempts"]) == ("lab", len(there.asked))
        said = "\n".join(serving.opening) + "".join(file.read_text() for file in tmp_path.rglob("*.log"))
        assert "canary" not in said
        assert made.key in there.asked[0].headers["authorization"]


def test_gateway_without_any_route_says_what_to_do(small4: Small4, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    done = small4("serve", "--gateway", "--port", "0")
    assert done.returncode == 2
    assert "small4 keys set mistral" in done.stderr


def test_policy_of_a_key_that_is_not_there_is_an_error(small4: Small4, tmp_path: Path) -> None:
    file = tmp_path / "small4.toml"
    file.write_text("[policies.0123456789ab]\nzdr = true\n")
    done = small4("serve", "--config", str(file), "--port", "0")
    assert done.returncode == 2
    assert "there is no key '0123456789ab'" in done.stderr
