"""`small4 serve` as its own process, and the verbs around it."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from small4.catalog.load import load_catalog
from small4.cli.catalog import MODEL
from small4.cli.serve import offer_of
from small4.cli.servers import Running, note_running, running_servers
from small4.providers.scripted import ScriptedProvider
from tests.cli.conftest import Small4
from tests.cli.serving import Serving, served_nano


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served_nano(tmp_path_factory.mktemp("home")) as serving:
        yield serving


def test_the_opening_says_where_what_who_and_how_much(serving: Serving) -> None:
    said = "\n".join(serving.opening)
    assert "small demonstration model" in said
    assert "context  2,048 tokens" in said
    assert "no key needed from this machine" in said


def test_the_curl_snippet_is_answered(serving: Serving) -> None:
    program = serving.small4("snippet", "curl")
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "126"


def test_each_dialect_is_answered(serving: Serving) -> None:
    question = {"role": "user", "content": "17+48"}
    asked = [
        ("/v1/chat/completions", {"model": "nano", "messages": [question]}),
        ("/mistral/v1/chat/completions", {"model": "nano", "messages": [question]}),
        ("/v1/responses", {"model": "nano", "input": "17+48"}),
        ("/v1/messages", {"model": "nano", "max_tokens": 20, "messages": [question]}),
        ("/v1beta/models/nano:generateContent", {"contents": [{"parts": [{"text": "17+48"}]}]}),
    ]
    for path, body in asked:
        answer = httpx2.post(serving.url + path, json=body)
        assert (answer.status_code, '"65"' in answer.text) == (200, True), f"{path}: {answer.text}"


def test_it_is_ready(serving: Serving) -> None:
    assert httpx2.get(serving.url + "/ready").json() == {"ready": True}


def test_ps_and_logs_know_the_server(serving: Serving) -> None:
    (listed,) = json.loads(serving.small4("ps", "--json"))
    assert (listed["url"], listed["process_id"], listed["model"]) == (serving.url, serving.process.pid, "nano")
    httpx2.get(serving.url + "/v1/models")
    time.sleep(0.2)
    assert json.loads(serving.small4("logs", "-n", "1"))["route"] == "/v1/models"


def test_stop_ends_it_and_its_note(serving: Serving) -> None:
    assert serving.small4("stop") == f"stopped {serving.url}\n"
    assert serving.process.wait(timeout=10) == 0
    assert json.loads(serving.small4("ps", "--json")) == []


def test_a_taken_port_is_told_before_the_model_loads(small4: Small4) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = small4("serve", "--port", str(port))
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_an_open_address_needs_a_key_first(small4: Small4) -> None:
    done = small4("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "small4 keys create" in done.stderr


def test_a_step_may_not_take_no_time(small4: Small4) -> None:
    done = small4("serve", "--port", "0", "--max-step-seconds", "0")
    assert done.returncode == 2
    assert "max_step_seconds is 0.0; it must be above 0" in done.stderr


def test_a_note_that_a_dead_server_left_is_removed(small4: Small4, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(url="http://127.0.0.1:4119", process_id=os.getpid(), model="nano", log=None)
    with note_running(running):
        assert running_servers() == [running]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "kill", lambda pid, sent: pytest.fail("the only server logs to its terminal"))
            assert "logs to its own terminal" in small4("logs").stderr
    assert running_servers() == []
    file = Path(os.environ["XDG_STATE_HOME"]) / "small4" / "server" / "4119-1.json"
    file.write_text('{"url": "http://127.0.0.1:4119", "process_id": 1, "model": "nano", "log": null, "started": 0}')
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, which: sent.append(which))
    done = small4("stop")
    assert (done.returncode, sent, file.exists()) == (2, [], False)
    assert "no server runs" in done.stderr
    assert signal.SIGTERM not in sent


def test_the_next_server_on_a_port_need_not_wait_for_the_note_of_one_that_stops(small4: Small4) -> None:
    stopping = Running(url="http://127.0.0.1:4119", process_id=1, model="nano", log=None, started=1.0)
    following = Running(url="http://127.0.0.1:4119", process_id=2, model="nano", log=None, started=2.0)
    with note_running(following):
        with note_running(stopping):
            assert {running.process_id for running in running_servers()} == {1, 2}
        assert running_servers() == [following]


def test_keys_are_made_listed_and_revoked_and_never_shown_again(small4: Small4) -> None:
    made = small4("keys", "create", "laptop", "--days", "1")
    key = made.stdout.strip()
    assert key.startswith("s4_")
    listed = small4("keys", "list")
    assert "laptop" in listed.stdout
    assert key not in listed.stdout
    (facts,) = json.loads(small4("keys", "list", "--json").stdout)
    assert facts["state"] == "valid"
    assert small4("keys", "revoke", facts["id"]).returncode == 0
    assert json.loads(small4("keys", "list", "--json").stdout)[0]["state"] == "revoked"
    assert "unknown scope 'root'" in small4("keys", "create", "x", "--scope", "root").stderr


@pytest.mark.parametrize("kind", ["python", "js", "curl", "anthropic", "gemini", "mistral", "agent"])
def test_a_snippet_names_server_model_and_key(small4: Small4, kind: str) -> None:
    text = small4("snippet", kind, "--url", "http://10.0.0.1:99/", "--key", "s4_k", "--model", "m").stdout
    for part in ("http://10.0.0.1:99", "s4_k", "m"):
        assert part in text
    assert "99//" not in text


def test_an_unknown_snippet_or_agent_lists_those_there_are(small4: Small4) -> None:
    assert "agent, anthropic, curl" in small4("snippet", "cobol").stderr
    assert "claude, codex, opencode" in small4("launch", "emacs", "--print").stderr


@pytest.mark.parametrize(
    ("agent", "parts"),
    [
        ("claude", ["ANTHROPIC_BASE_URL=http://h:1\n", "CLAUDE_CODE_ATTRIBUTION_HEADER=0\n"]),
        ("codex", ["model_providers.small4.base_url=http://h:1/v1", "export SMALL4_KEY=k\n"]),
        ("opencode", ['"baseURL": "http://h:1/v1"', '"model": "small4/m"']),
    ],
)
def test_launch_prints_what_it_would_run(small4: Small4, agent: str, parts: list[str]) -> None:
    done = small4("launch", agent, "--url", "http://h:1", "--key", "k", "--model", "m", "--print")
    assert done.returncode == 0
    for part in parts:
        assert part in done.stdout
    asked = small4("launch", agent, "--url", "http://h:1")
    assert asked.returncode != 0, "nobody was there to agree"


def test_small4_answers_to_all_names_of_its_card_and_another_model_to_its_own() -> None:
    def names(path: str) -> set[str]:
        offer = offer_of(SimpleNamespace(name=path, provider=ScriptedProvider(), tokenizer=None), ["mine"])
        return {offer.id, *offer.aliases}

    card = load_catalog().find(MODEL)
    assert names("/weights/mistral-small-4") == {"mine", card.id, *card.aliases}
    assert names("nano") == {"mine", "nano"}
