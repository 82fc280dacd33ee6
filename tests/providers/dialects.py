"""One answer in every dialect, as a provider would send it, and what asks for it: made by the writers of `wire`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from small4.chat import (
    AnswerEvent,
    ChatRequest,
    Finish,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.providers.endpoint import DIALECTS, Dialect, endpoint_at
from small4.providers.hosted import HostedProvider
from small4.providers.provider import Caller
from small4.providers.provider_key import ProviderKey
from small4.providers.upstream import Upstream
from small4.server.dialects import Asked, Dialects
from small4.wire.call import Call, Head
from small4.wire.sse import encode
from tests.providers.fault_server import FaultServer, Script
from tests.wire.exchanges import joined

WEATHER = Tool("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
QUESTION = ChatRequest(
    messages=(Message("system", "Be brief."), Message("user", "Häuser in Łódź?")),
    tools=(WEATHER,),
    effort="high",
    sampling=Sampling(temperature=0.7, top_p=0.9),
    max_tokens=300,
)
AGAIN = ChatRequest(
    messages=(
        Message("user", "Weather in Łódź?"),
        Message("assistant", "I look.", (ToolCall("a1B2c3D4e", "weather", '{"city": "Łódź"}'),)),
        Message("tool", "rain", tool_call_id="a1B2c3D4e"),
    ),
    tools=(WEATHER,),
    effort="high",
    sampling=Sampling(temperature=0.7),
    max_tokens=300,
)
USAGE = Usage(21, 17, 5, 8)
TEXT = (
    ReasoningDelta("Let me "),
    ReasoningDelta("see."),
    TextDelta("Tak, "),
    TextDelta("żółte – 😀."),
    Finish("stop", USAGE),
)
CALLS = (
    TextDelta("I ask."),
    ToolCallStart(0, "a1B2c3D4e", "weather"),
    ToolCallDelta(0, '{"city": "Łódź"}'),
    ToolCallStart(1, "f5G6h7I8j", "weather"),
    ToolCallDelta(1, '{"city": "Köln"}'),
    Finish("tool_calls", USAGE),
)
CUT_OFF = (TextDelta("Tak"), Finish("length", USAGE))
KEY = "sk-canary-Zm9vYmFyYmF6cXV4-0123456789"
CALLER = Caller(name="somebody")
_NAMES: dict[Dialect, str] = {name: name for name in DIALECTS}


@dataclass(frozen=True)
class Sent:
    """An answer as bytes."""

    events: list[bytes]  # each a server-sent event, blank line included
    body: bytes


def sent(dialect: Dialect, *events: Any) -> Sent:
    """The events as a provider of the dialect sends them, streamed and whole."""
    known = Dialects(b"a secret of this test's own.....")._by_name[_NAMES[dialect]]
    asked = Asked(owner="nobody", model="m", is_stream=True)

    def call(is_stream: bool) -> Call:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "stream": is_stream}
        if dialect == "openai":
            body["stream_options"] = {"include_usage": True}
        if dialect == "responses":
            body = {"model": "m", "input": "x", "stream": is_stream}
        if dialect == "google":
            body = {"contents": [{"parts": [{"text": "x"}]}]}
            body["generationConfig"] = {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": -1}}
        if dialect == "anthropic":
            body["thinking"] = {"type": "adaptive"}
        return known.parse(json.dumps(body).encode(), asked)

    writer = known.writer(call(True), Head("a1", 1_800_000_000, "m"), asked)
    streamed = writer.start()
    for event in of_answers(events):
        streamed += writer.push(event)
    streamed += writer.finish()
    whole = known.writer(call(False), Head("a1", 1_800_000_000, "m"), asked)
    for event in of_answers(events):
        whole.push(event)
    return Sent([encode(event) for event in streamed], json.dumps(whole.whole()).encode())


def of_answers(events: Any) -> list[AnswerEvent]:
    """The events as of answer 0, where they do not say of which."""
    return [event if isinstance(event, AnswerEvent) else AnswerEvent(0, event) for event in events]


def same(events: Any, others: Any) -> bool:
    """Whether two answers say the same, however they are cut into pieces."""
    return joined(of_answers(events)) == joined(of_answers(others))


def upstream_at(url: str, dialect: Dialect = "openai", *, key: str | None = KEY, **options: Any) -> Upstream:
    endpoint = endpoint_at(url, name="there", dialect=dialect)
    return Upstream(endpoint, None if key is None else ProviderKey(key, endpoint.origin), **options)


@asynccontextmanager
async def between(
    *scripts: Script, dialect: Dialect = "openai", path: str = "", **options: Any
) -> AsyncIterator[tuple[FaultServer, HostedProvider]]:
    """A server that plays these scripts, and a provider that asks it."""
    async with FaultServer(*scripts) as there:
        provider = provider_at(there.url + path, dialect, **options)
        try:
            yield there, provider
        finally:
            await provider.upstream.aclose()


def provider_at(url: str, dialect: Dialect = "openai", *, is_streamed: bool = True, **options: Any) -> HostedProvider:
    return HostedProvider(upstream_at(url, dialect, **options), "m", is_streamed=is_streamed)
