"""The local engine, a hosted provider, and gateways before either are the same to a caller: the same checks for all.

Behind every name is the nano, greedy: in this process, in another live small4 that is asked over HTTP, or behind a
gateway whose first route is down.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from small4.catalog.load import load_catalog
from small4.engine.config import EngineConfig
from small4.gateway.assembly import Assembly, LocalModel
from small4.gateway.keys import ProviderKeys
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.llm import load
from small4.server.app import create_app
from small4.server.keys import KeyStore
from small4.server.models import Offer, routed_offers
from small4.server.run import serving
from tests.gateway.books import rows_of
from tests.gateway.routed import PRICED, Made

WAYS = {  # names of models, and the route that answers
    "engine": None,
    "hosted": None,
    "local": "local",
    "there": "there",
    "mistral-small-4": "there",
}
SUM = [{"role": "user", "content": "17+48+36"}]
CALL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """A live server with all ways to the nano."""
    nano = load("nano", engine=EngineConfig(cache_bytes=2**24, has_prefix_cache=False))
    other = create_app([Offer(id="nano", provider=nano.provider)], KeyStore(home / "other"))
    with serving(other) as there, Ledger(LedgerConfig(url=str(home / "ledger.db"))) as ledger:
        catalog = _catalog(home / "catalog", there)
        keys = ProviderKeys(home / "state", {"THERE_KEY": "x", "DOWN_KEY": "x"}, catalog=catalog)
        local = LocalModel(name="nano", provider=nano.provider)
        gateway = Assembly(catalog, keys, ledger, local=local)
        hosted = gateway.reach.providers["there"]
        plain = [Offer(id="engine", provider=nano.provider), Offer(id="hosted", provider=hosted)]
        app = create_app([*plain, *routed_offers(gateway.models)], KeyStore(home / "state"), gateway=gateway)
        with serving(app) as address:
            yield address


def _catalog(own: Path, there: str) -> Any:
    """Two routes to Small 4: the cheaper one leads nowhere."""
    own.mkdir()
    cheap = Made("down", says={**PRICED, "price.input": "0.01", "price.output": "0.01"})
    (own / "down.toml").write_text(cheap.toml("http://127.0.0.1:1"))
    (own / "there.toml").write_text(Made("there").toml(there).replace('model_id = "m"', 'model_id = "nano"'))
    return load_catalog(own)


def ask(url: str, way: str, path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
    body = {"model": way, "messages": SUM, "temperature": 0, "max_tokens": 120, **fields}
    return httpx2.post(url + path, json=body, timeout=60)


def said(answer: httpx2.Response) -> list[Any]:
    """What is the same wherever an answer comes from: all but ids, times and the model's name."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    choices = [(one["message"], one["finish_reason"]) for one in body["choices"]]
    usage = {name: count for name, count in body["usage"].items() if name.endswith("_tokens")}
    return [choices, usage]


pytestmark = pytest.mark.slow  # the nano thinks in every one of them
CHECKS: dict[str, dict[str, Any]] = {
    "an answer": {"reasoning_effort": "none"},
    "a thought and its answer": {"reasoning_effort": "high"},
    "an end at the limit": {"reasoning_effort": "high", "max_tokens": 9},
    "an end at a text": {"reasoning_effort": "high", "stop": ["1"]},
    "several answers": {"reasoning_effort": "none", "n": 2},
    "an answer in a form": {"reasoning_effort": "none", "response_format": FORM},
}


@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("check", CHECKS)
def test_answer_is_the_engine_s_own(url: str, way: str, check: str) -> None:
    answer = ask(url, way, **CHECKS[check])
    assert said(answer) == said(ask(url, "engine", **CHECKS[check]))
    assert answer.headers.get("x-small4-route") == WAYS[way]


@pytest.mark.parametrize("way", WAYS)
def test_stream_is_the_whole_answer_in_pieces(url: str, way: str) -> None:
    fields = {"reasoning_effort": "high", "stream_options": {"include_usage": True}}
    streamed, whole = ask(url, way, stream=True, **fields), ask(url, way, reasoning_effort="high").json()
    *events, last = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    message = whole["choices"][0]["message"]
    for name in ("content", "reasoning"):
        assert "".join(delta.get(name) or "" for delta in deltas) == message[name]
    assert json.loads(events[-1])["usage"] == whole["usage"]


@pytest.mark.parametrize("way", WAYS)
def test_other_dialects_say_the_same(url: str, way: str) -> None:
    answer = ask(url, way, path="/v1/messages").json()
    (text,) = [block["text"] for block in answer["content"] if block["type"] == "text"]
    assert text == ask(url, way).json()["choices"][0]["message"]["content"]
    assert answer["usage"]["output_tokens"] == ask(url, way).json()["usage"]["completion_tokens"]


@pytest.mark.parametrize("way", WAYS)
def test_mistake_is_told_as_one(url: str, way: str) -> None:
    answer = ask(url, way, messages=[{"role": "user", "content": "1+1 " * 3000}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "2048" in answer.text


@pytest.mark.parametrize("way", [way for way, route in WAYS.items() if route])
def test_what_the_gateway_answers_is_booked_with_what_was_used(url: str, home: Path, way: str) -> None:
    answer = ask(url, way, reasoning_effort="high")
    row = [row for row in rows_of(str(home / "ledger.db")) if row.request_id == answer.headers["x-request-id"]][-1]
    usage = answer.json()["usage"]
    assert (row.route, row.state, row.key) == (WAYS[way], "settled", "local")
    assert (row.prompt_tokens, row.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (row.cost is None) == (way == "local")
