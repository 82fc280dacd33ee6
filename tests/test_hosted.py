"""`Hosted` against live small4 servers: chat from a script with a provider's model, as with one of this machine."""

import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from small4 import Hosted
from small4.chat import AnswerEvent, ChatRequest, Finish, Message, ReasoningDelta, TextDelta, Tool, ToolCall, Usage
from small4.errors import ConfigError, EffortError, RequestError, UpstreamError, UpstreamKeyError
from small4.gateway.keys import ProviderKeys
from small4.hosted import MAX_WAITING
from small4.providers.endpoint import endpoint_at
from small4.providers.provider import Caller
from small4.providers.scripted import Pause, ScriptedProvider
from small4.server.models import Offer
from small4.server.run import serving
from tests.server.asgi import Served

SUM = (ReasoningDelta("65"), TextDelta("1"), TextDelta("26"), Finish("stop", Usage(12, 9, 6)))
CALL = Tool("add", "Adds.", {"type": "object"})


@dataclass
class There:
    """A small4 server that replays one script, its key, and a place for the keys of whoever calls it."""

    url: str
    key: str
    provider: ScriptedProvider
    keys: ProviderKeys


def serve(directory: Path, *scripts: Any, names: tuple[str, ...] = ("mistral-small-4",)) -> Any:
    provider = ScriptedProvider(*scripts)
    offers = [Offer(id=name, provider=provider, created=1_800_000_000) for name in names]
    served = Served(directory / "there", provider=provider, offers=offers)
    key, _ = served.store.create("test")
    return serving(served.app), key, provider


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    running, key, provider = serve(tmp_path, SUM)
    with running as url:
        yield There(url, key, provider, ProviderKeys(tmp_path / "here", {}))


def test_a_question_is_answered_by_another_small4_found_by_its_url(there: There) -> None:
    with Hosted(there.url, key=there.key, keys=there.keys) as model:
        answer = model.chat("17+48+36+25", effort="high", max_tokens=90, stop="X", temperature=0.3)
        assert (answer.text, answer.reasoning, answer.usage) == ("126", "65", Usage(12, 9, 6))
        assert model.name == f"mistral-small-4 at {there.url}/v1"
        assert model.context_length == there.provider.model.context_length  # as its list of models tells
        assert [found.id for found in model.models()] == ["mistral-small-4"]
    asked, _ = there.provider.requests[-1]
    assert (asked.effort, asked.max_tokens, asked.stop, asked.sampling.temperature) == ("high", 90, ("X",), 0.3)


def test_the_kept_key_is_used_and_no_other_provider_s(there: There) -> None:
    there.keys.set(endpoint_at(there.url, name="there"), there.key)
    with Hosted("there", keys=there.keys) as model:
        assert model.chat("Hi").text == "126"
    other = endpoint_at("http://127.0.0.1:1", name="other")
    there.keys.set(other, there.key)
    there.keys.remove("there")
    with pytest.raises(UpstreamKeyError, match="HTTP 401"):
        Hosted(there.url, keys=there.keys)


@pytest.mark.parametrize(
    ("dialect", "path"), [("anthropic", "/anthropic/v1"), ("google", "/google/v1beta"), ("mistral", "/mistral/v1")]
)
def test_any_dialect_may_be_spoken(there: There, dialect: Any, path: str) -> None:
    with Hosted(there.url + path, key=there.key, dialect=dialect, keys=there.keys) as model:
        assert model.chat("17+48+36+25", effort="high").text == "126"


def test_tools_and_several_answers(tmp_path: Path) -> None:
    from small4.chat import ToolCallDelta, ToolCallStart

    calling = (ToolCallStart(0, "a1B2c3D4e", "add"), ToolCallDelta(0, "{}"), Finish("tool_calls", Usage(3, 2)))
    running, key, provider = serve(tmp_path, calling, SUM)
    with running as url, Hosted(url, key=key, keys=ProviderKeys(tmp_path, {})) as model:
        assert model.chat("1+1", tools=[CALL]).tool_calls == (ToolCall("a1B2c3D4e", "add", "{}"),)
        assert provider.requests[-1][0].tools == (CALL,)
        with pytest.raises(UpstreamError, match="before its end"):  # the script answers once, two were asked for
            model.answers("1+1", 2)
        with pytest.raises(RequestError, match="of one answer"):
            next(model.stream(ChatRequest(messages=(Message("user", "x"),), num_answers=2)))
        with pytest.raises(EffortError):
            model.chat("x", effort="much")  # type: ignore[arg-type]


def test_many_threads_may_ask_at_once(there: There) -> None:
    with Hosted(there.url, key=there.key, keys=there.keys) as model:
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(model.chat("Hi").text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == ["126"] * 8


def test_leaving_a_stream_ends_the_answer_there(tmp_path: Path) -> None:
    running, key, provider = serve(tmp_path, (TextDelta("a"), Pause(60.0), *SUM))
    with running as url, Hosted(url, key=key, keys=ProviderKeys(tmp_path, {})) as model:
        stream = model.stream(ChatRequest(messages=(Message("user", "x"),)))
        assert next(stream) == TextDelta("a")
        stream.close()
        deadline = time.monotonic() + 5
        while provider.num_left == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (provider.num_left, provider.num_open) == (1, 0)


def test_closing_ends_open_answers_and_takes_no_more(tmp_path: Path) -> None:
    running, key, _ = serve(tmp_path, (TextDelta("a"), Pause(60.0), *SUM))
    with running as url:
        model = Hosted(url, key=key, keys=ProviderKeys(tmp_path, {}))
        stream = model.stream(ChatRequest(messages=(Message("user", "x"),)))
        assert next(stream) == TextDelta("a")
        model.close()
        with pytest.raises(RequestError, match="closed"):
            next(stream)
        with pytest.raises(ConfigError, match="closed"):
            model.chat("x")
        model.close()


def test_a_provider_of_many_models_is_not_guessed_at(tmp_path: Path) -> None:
    running, key, _ = serve(tmp_path, SUM, names=("one", "two"))
    with running as url:
        with pytest.raises(ConfigError, match="name one of them: one, two"):
            Hosted(url, key=key, keys=ProviderKeys(tmp_path, {}))
        with Hosted(url, "two", key=key, keys=ProviderKeys(tmp_path, {})) as model:
            assert model.chat("x").text == "126"
        refused = pytest.raises(UpstreamError, match="'three' is not served here")
        with Hosted(url, "three", key=key, keys=ProviderKeys(tmp_path, {})) as model, refused:
            model.chat("x")


def test_a_known_provider_needs_no_list_but_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MISTRAL_API_KEY"):
        Hosted("mistral", keys=ProviderKeys(tmp_path, {}))
    with Hosted("mistral", keys=ProviderKeys(tmp_path, {"MISTRAL_API_KEY": "sk-0123456789"})) as model:
        assert model.name == "mistral-small-2603 at https://api.mistral.ai/v1"  # nobody has been asked yet


def test_it_needs_no_torch() -> None:
    program = "import sys, small4; small4.Hosted; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class Counting(ScriptedProvider):
    """Counts what was taken from it."""

    num_given = 0

    async def stream(self, request: ChatRequest, caller: Caller) -> AsyncGenerator[AnswerEvent, None]:
        async for event in super().stream(request, caller):
            self.num_given += 1
            yield event


def test_an_answer_that_is_read_slowly_waits_at_its_provider_and_comes_whole(tmp_path: Path) -> None:
    texts = [f"{number} " for number in range(2000)]
    with Hosted("http://127.0.0.1:1", "m", keys=ProviderKeys(tmp_path, {})) as model:
        model.provider = provider = Counting([*map(TextDelta, texts), Finish("stop", Usage(1, 2000))])
        events = model.stream(ChatRequest(messages=(Message("user", "Count."),)))
        first = next(events)
        time.sleep(0.05)
        assert provider.num_given <= MAX_WAITING + 1
        rest = list(events)
    assert [event.text for event in (first, *rest) if isinstance(event, TextDelta)] == texts
    assert isinstance(rest[-1], Finish)


def test_an_answer_that_nobody_reads_any_more_is_left(tmp_path: Path) -> None:
    with Hosted("http://127.0.0.1:1", "m", keys=ProviderKeys(tmp_path, {})) as model:
        model.provider = provider = Counting([TextDelta("on ")] * 2000)
        events = model.stream(ChatRequest(messages=(Message("user", "On and on."),)))
        next(events)
        events.close()
        deadline = time.monotonic() + 5
        while provider.num_open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (provider.num_open, provider.num_left) == (0, 1)
