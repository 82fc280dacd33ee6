"""One hosted provider, whatever API it speaks: what it is asked, what its answers become, and how they are cut."""

import asyncio
import gzip
import json
import logging
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from small4.chat import AnswerEvent, Finish, JsonSchema, NamedTool, ReasoningDelta, Sampling, TextDelta, Usage
from small4.errors import ConfigError, ConnectionsBusyError, FieldError, RequestError, UpstreamError
from small4.providers.endpoint import DIALECTS, Dialect
from small4.providers.hosted import HostedProvider
from small4.providers.provider import Provider, collect
from small4.providers.scripted import ScriptedProvider
from small4.providers.upstream import UpstreamBounds
from small4.server.run import serving
from tests.providers.dialects import (
    AGAIN,
    CALLER,
    CALLS,
    CUT_OFF,
    KEY,
    QUESTION,
    TEXT,
    USAGE,
    between,
    provider_at,
    same,
    sent,
)
from tests.providers.fault_server import EVENTS, LAST_CHUNK, Close, Wait, chunk, head, stream, whole
from tests.providers.in_process import Pieces
from tests.server.asgi import Served

# Where another small4 takes each dialect.
PATHS: dict[Dialect, str] = {
    "openai": "/v1",
    "responses": "/v1",
    "anthropic": "/anthropic/v1",
    "google": "/google/v1beta",
    "mistral": "/mistral/v1",
}
ANSWERS = (TEXT, CALLS, CUT_OFF)
GOOD = sent("openai", *TEXT)
TWO = (
    AnswerEvent(0, TextDelta("a")),
    AnswerEvent(1, TextDelta("b")),
    AnswerEvent(0, Finish("stop", replace(USAGE, reasoning_tokens=0))),
    AnswerEvent(1, Finish("length", Usage(USAGE.prompt_tokens, cached_tokens=USAGE.cached_tokens))),
)


async def answer(provider: Provider, request: Any = QUESTION) -> list[AnswerEvent]:
    return [event async for event in provider.stream(request, CALLER)]


def asked(script: Any, dialect: Dialect = "openai", request: Any = QUESTION, **options: Any) -> list[AnswerEvent]:
    """What a provider with this script answers."""

    async def run() -> list[AnswerEvent]:
        async with between(script, dialect=dialect, **options) as (_, provider):
            return await answer(provider, request)

    return asyncio.run(run())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_answer_is_the_same_through_every_dialect(dialect: Dialect, is_streamed: bool) -> None:
    for events in ANSWERS:
        told = sent(dialect, *events)
        script = [stream(told.events) if is_streamed else whole(told.body)]
        assert same(asked(script, dialect, is_streamed=is_streamed), events)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_small4_is_a_provider_in_every_dialect(dialect: Dialect, tmp_path: Any) -> None:
    inner = ScriptedProvider(*(events for events in ANSWERS for _ in range(4)))
    served = Served(tmp_path, provider=inner)
    key, _ = served.store.create("test")

    async def ask(url: str) -> None:
        for events in ANSWERS:
            for is_streamed in (True, False):
                for request in (QUESTION, AGAIN):
                    provider = provider_at(url + PATHS[dialect], dialect, key=key, is_streamed=is_streamed)
                    provider.model_id = "scripted"
                    assert same(await answer(provider, request), events), (events, is_streamed)
                    assert inner.requests[-1][0] == request
                    await provider.upstream.aclose()

    with serving(served.app) as url:
        asyncio.run(ask(url))
    served.log.close()


@pytest.mark.parametrize("dialect", ["openai", "mistral", "google"])
def test_several_answers_to_one_request_keep_apart(dialect: Dialect) -> None:
    request = replace(QUESTION, num_answers=2)
    assert same(asked([stream(_two(dialect))], dialect, request), TWO)


def _two(dialect: Dialect) -> list[bytes]:
    """Two answers, after the documents: the count of both stands once, at the end."""
    if dialect == "google":
        usage = (
            '{"promptTokenCount": 21, "candidatesTokenCount": 17, "cachedContentTokenCount": 8, "totalTokenCount": 38}'
        )
        rows = [
            '{"candidates": [{"index": 0, "content": {"parts": [{"text": "a"}]}}, '
            '{"index": 1, "content": {"parts": [{"text": "b"}]}}]}',
            '{"candidates": [{"index": 0, "finishReason": "STOP"}, {"index": 1, "finishReason": "MAX_TOKENS"}], '
            f'"usageMetadata": {usage}}}',
        ]
    else:
        usage = '{"prompt_tokens": 21, "completion_tokens": 17, "prompt_tokens_details": {"cached_tokens": 8}}'
        rows = [
            '{"choices": [{"index": 0, "delta": {"content": "a"}}]}',
            '{"choices": [{"index": 1, "delta": {"content": "b"}}]}',
            '{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
            f'{{"choices": [{{"index": 1, "delta": {{}}, "finish_reason": "length"}}], "usage": {usage}}}',
            "[DONE]",
        ]
    return [f"data: {row}\n\n".encode() for row in rows]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_key_and_the_model_stand_where_the_dialect_has_them(dialect: Dialect) -> None:
    async def run() -> None:
        script = [stream(sent(dialect, *TEXT).events)]
        async with between(script, dialect=dialect, path="/base/v7") as (there, provider):
            await answer(provider)
            (request,) = there.asked
            assert request.method == "POST"
            assert request.target.startswith("/base/v7/")
            assert request.raw.count(KEY.encode()) == 1
            named = request.target if dialect == "google" else request.json["model"]
            assert "m" in named
            assert request.headers["user-agent"] == "small4"
            assert b"somebody" not in request.raw  # who asks is nobody's business there

    asyncio.run(run())


def test_without_a_key_none_is_sent() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events)], key=None) as (there, provider):
            await answer(provider)
            assert "authorization" not in there.asked[0].headers

    asyncio.run(run())


def test_what_the_dialect_cannot_say_is_refused_before_anybody_is_asked() -> None:
    async def run() -> None:
        async with between([stream([])], dialect="anthropic") as (there, provider):
            odd = replace(QUESTION, sampling=Sampling(repetition_penalty=1.2))
            with pytest.raises(FieldError, match="repetition_penalty"):
                await answer(provider, odd)
            broken = replace(QUESTION, stop=("\ud800",))
            with pytest.raises(RequestError, match="Unicode"):
                await answer(provider, broken)
            assert there.asked == []

    asyncio.run(run())


def test_schema_and_tool_choice_arrive() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events)]) as (there, provider):
            wanted = replace(
                QUESTION, response_format=JsonSchema({"type": "object"}), tool_choice=NamedTool("weather"), stop=("X",)
            )
            await answer(provider, wanted)
            body = there.asked[0].json
            assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
            assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
            assert (body["stop"], body["reasoning_effort"], body["top_p"]) == (["X"], "high", 0.9)

    asyncio.run(run())


def test_a_marketplace_is_held_to_one_provider() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events)]) as (there, provider):
            held = HostedProvider(provider.upstream, "m", held_to="venice")
            await answer(held)
            assert there.asked[0].json["provider"] == {"only": ["venice"], "allow_fallbacks": False}
        async with between([stream([])], dialect="mistral") as (_, provider):
            with pytest.raises(ConfigError, match="venice"):
                HostedProvider(provider.upstream, "m", held_to="venice")

    asyncio.run(run())


def test_a_provider_that_adds_a_prompt_of_its_own_is_told_not_to() -> None:
    bodies: list[bytes] = []

    class Recorder(Pieces):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            bodies.append(request.read())
            return await super().handle_async_request(request)

    for url in ("https://api.venice.ai/api/v1", "https://api.example.org/v1"):
        asyncio.run(answer(provider_at(url, transport=Recorder(GOOD.events))))
    venice, other = map(json.loads, bodies)
    assert venice.pop("venice_parameters") == {"include_venice_system_prompt": False}
    assert venice == other


# --- what is tolerated ---

TOLERATED = {
    "comments": [b": OPENROUTER PROCESSING\n\n", *GOOD.events[:2], b": again\n", *GOOD.events[2:]],
    "CR LF": [event.replace(b"\n", b"\r\n") for event in GOOD.events],
    "CR": [event.replace(b"\n", b"\r") for event in GOOD.events],
    "a byte order mark": [b"\xef\xbb\xbf", *GOOD.events],
    "no blank after the colon": [event.replace(b"data: ", b"data:") for event in GOOD.events],
    "names, ids and retries": [b"event: x\nid: 7\nretry: 10\n" + event for event in GOOD.events],
    "events of nothing": [GOOD.events[0], b"data:\n\n", b"data: \n\n", *GOOD.events[1:]],
    "one piece": [b"".join(GOOD.events)],
    "byte by byte": [bytes([byte]) for byte in b"".join(GOOD.events)],
    "something behind the end": [*GOOD.events, b"data: more\n\n"],
}


@pytest.mark.parametrize("name", TOLERATED)
def test_a_stream_may_be_written_in_many_ways(name: str) -> None:
    assert same(asked([stream(TOLERATED[name])]), TEXT)


def test_data_over_several_lines_is_one_event() -> None:
    event = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
    assert same(asked([stream([event, b"data: [DONE]\n\n"])])[:1], [TextDelta("a")])


def test_a_whole_answer_to_a_request_for_a_stream_is_taken_and_so_is_the_reverse() -> None:
    assert same(asked([whole(GOOD.body)]), TEXT)
    assert same(asked([stream(GOOD.events)], is_streamed=False), TEXT)


def test_an_answer_that_came_compressed_is_unpacked() -> None:
    data = gzip.compress(b"".join(GOOD.events))
    script = [head(200, EVENTS, Content_Encoding="gzip") + chunk(data[:30]) + chunk(data[30:]) + LAST_CHUNK]
    assert same(asked(script), TEXT)
    assert same(asked([whole(gzip.compress(GOOD.body), Content_Encoding="gzip")]), TEXT)


def test_an_empty_finish_reason_is_none_yet() -> None:
    rows = [
        '{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": ""}]}',
        '{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
        "[DONE]",
    ]
    events = asked([stream(f"data: {row}\n\n".encode() for row in rows)])
    assert [type(event.event) for event in events] == [TextDelta, Finish]


# --- cuts ---


async def cut(dialect: Dialect, data: bytes, end: int) -> str:
    provider = provider_at("http://127.0.0.1", dialect, transport=Pieces([data[: end // 2], data[end // 2 : end]]))
    events: list[AnswerEvent] = []
    try:
        async for event in provider.stream(QUESTION, CALLER):
            events.append(event)
    except UpstreamError:
        return "false end" if any(isinstance(event.event, Finish) for event in events) else "error"
    return "whole" if same(events, TEXT) else "false end"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_cut_anywhere_is_an_error_and_never_a_false_end(dialect: Dialect) -> None:
    data = b"".join(sent(dialect, *TEXT).events)
    step = max(1, len(data) // 150)

    async def run() -> list[str]:
        ends = [*range(0, len(data) - 60, step), *range(len(data) - 60, len(data) + 1)]
        return [await cut(dialect, data, end) for end in ends]

    outcomes = asyncio.run(run())
    first = outcomes.index("whole")
    assert first > len(outcomes) - 30  # an end that has been told may lack the bytes behind it
    assert set(outcomes[:first]) == {"error"}
    assert set(outcomes[first:]) == {"whole"}


# --- usage ---


def _uncounted(*rows: str) -> list[AnswerEvent]:
    return asked([stream(f"data: {row}\n\n".encode() for row in (*rows, "[DONE]"))])


def test_usage_that_is_not_told_is_estimated_and_says_so() -> None:
    finish = _uncounted(
        '{"choices": [{"index": 0, "delta": {"reasoning": "12345678"}}]}',
        '{"choices": [{"index": 0, "delta": {"content": "123456789"}, "finish_reason": "stop"}]}',
    )[-1].event
    assert isinstance(finish, Finish)
    assert finish.usage.is_estimated
    assert (finish.usage.completion_tokens, finish.usage.reasoning_tokens) == (5, 2)
    assert 15 < finish.usage.prompt_tokens < 60


def test_the_half_of_a_usage_that_is_told_is_kept() -> None:
    finish = _uncounted(
        '{"choices": [{"index": 0, "delta": {"content": "1234"}, "finish_reason": "stop"}], '
        '"usage": {"prompt_tokens": 77}}'
    )[-1].event
    assert isinstance(finish, Finish)
    assert finish.usage == Usage(77, 1, is_estimated=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_usage_that_is_told_is_no_estimate(dialect: Dialect) -> None:
    finish = asked([stream(sent(dialect, *TEXT).events)], dialect)[-1].event
    assert isinstance(finish, Finish)
    assert finish.usage == USAGE
    assert not finish.usage.is_estimated


def test_the_server_s_log_marks_an_estimate(tmp_path: Any) -> None:
    row = '{"choices": [{"index": 0, "delta": {"content": "1234"}, "finish_reason": "stop"}]}'

    async def run() -> list[dict[str, Any]]:
        async with between([stream([f"data: {row}\n\n".encode(), b"data: [DONE]\n\n"])]) as (_, provider):
            served = Served(tmp_path, provider=provider)
            body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
            assert (await served.client.post("/v1/chat/completions", body)).status == 200
            return served.logged()

    (line,) = [line for line in asyncio.run(run()) if line.get("model")]
    assert (line["estimate"], line["completion_tokens"]) == (True, 1)


# --- connections ---


def test_connections_are_used_again() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events)]) as (there, provider):
            for _ in range(5):
                await collect(provider.stream(QUESTION, CALLER))
            assert (len(there.asked), there.num_connections) == (5, 1)

    asyncio.run(run())


def test_a_connection_that_the_provider_closed_after_its_answer_is_not_used_again() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events), Close()]) as (there, provider):
            for _ in range(5):
                assert same(await answer(provider), TEXT)
                await asyncio.sleep(0.01)  # for the news of it to come
            assert there.num_connections == 5

    asyncio.run(run())


def test_leaving_an_answer_closes_its_connection_and_the_next_one_is_answered() -> None:
    async def run() -> None:
        half = [head(200, EVENTS) + b"".join(map(chunk, GOOD.events[:3])), Wait(60.0)]
        async with between(half, [stream(GOOD.events)]) as (there, provider):
            async with aclosing(provider.stream(QUESTION, CALLER)) as events:
                assert isinstance((await anext(events)).event, ReasoningDelta)
            assert same(await answer(provider), TEXT)
            assert there.num_connections == 2

    asyncio.run(run())


def test_a_provider_that_does_not_close_after_its_last_event_keeps_nobody_waiting() -> None:
    async def run() -> None:
        script = [head(200, EVENTS) + b"".join(map(chunk, GOOD.events)), Wait(60.0)]
        async with between(script) as (_, provider), asyncio.timeout(5):
            assert same(await answer(provider), TEXT)

    asyncio.run(run())


def test_our_own_limit_of_connections_is_no_fault_of_the_provider_s() -> None:
    async def run() -> None:
        half = [head(200, EVENTS) + b"".join(map(chunk, GOOD.events[:3])), Wait(60.0)]
        bounds = UpstreamBounds(max_connections=1, connect_seconds=0.05)
        async with between(half, bounds=bounds) as (there, provider):
            async with aclosing(provider.stream(QUESTION, CALLER)) as events:
                await anext(events)
                with pytest.raises(ConnectionsBusyError, match="there: all 1 connections"):
                    await answer(provider)
            assert len(there.asked) == 1

    asyncio.run(run())


def test_no_setting_of_the_environment_changes_where_a_request_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert same(asked([stream(GOOD.events)]), TEXT)


def test_cookies_are_not_kept() -> None:
    async def run() -> None:
        async with between([stream(GOOD.events, Set_Cookie="track=1; Path=/")]) as (there, provider):
            await answer(provider)
            await answer(provider)
            assert not any("cookie" in request.headers for request in there.asked)

    asyncio.run(run())


def test_no_log_of_any_library_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked([stream(GOOD.events)])
    with pytest.raises(UpstreamError):
        asked([whole({"error": {"message": KEY}}, 500)])
    assert caplog.records
    assert KEY[:12] not in caplog.text
