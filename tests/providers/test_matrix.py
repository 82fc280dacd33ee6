"""Any client's API through any provider's: what arrives there, and what comes back, is as if nobody stood between.

The definition is the same request to a small4 that serves the model itself. Beside it goes the same request to a small4
whose model is hosted, in every dialect and both forms, by another small4, which records what it was asked.
"""

import asyncio
import io
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from small4.chat import (
    ChatRequest,
    Finish,
    ImagePart,
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    ReasoningDelta,
    Sampling,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import FieldError
from small4.providers.endpoint import DIALECTS, Dialect, endpoint_at
from small4.providers.hosted import HostedProvider
from small4.providers.provider_key import ProviderKey
from small4.providers.spoken import SPOKEN
from small4.providers.upstream import Upstream
from small4.wire.call import Call
from small4.wire.sse import EventReader
from tests.providers.dialects import same
from tests.server.asgi import Reply, Served

# Where a small4 takes each dialect: the path before that of the dialect itself.
MOUNTS: dict[Dialect, str] = {
    "openai": "/openai/v1",
    "responses": "/v1",
    "anthropic": "/anthropic/v1",
    "google": "/google/v1beta",
    "mistral": "/mistral/v1",
}
HEADERS: dict[Dialect, dict[str, str]] = {"anthropic": {"anthropic-version": "2023-06-01"}}


def _png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(data, "PNG")
    return data.getvalue()


ADD = Tool("add", "Adds two numbers.", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
NOW = Tool("now", "Tells the time.", {"type": "object", "properties": {}})
PLAIN = ChatRequest(messages=(Message("user", "Cześć, 17+48?"),), sampling=Sampling(temperature=0.5), max_tokens=200)
USAGE = Usage(31, 12, 0, 4)
SAID = (TextDelta("Sześć"), TextDelta("dziesiąt pięć 😀"), Finish("stop", USAGE))
CALLED = (ToolCallStart(0, "a1B2c3D4e", "add"), ToolCallDelta(0, '{"a": 7}'), Finish("tool_calls", USAGE))


@dataclass(frozen=True)
class Feature:
    request: ChatRequest
    answer: tuple[Any, ...] = SAID


FEATURES: dict[str, Feature] = {
    "text": Feature(PLAIN),
    "system": Feature(replace(PLAIN, messages=(Message("system", "Be brief."), *PLAIN.messages))),
    "conversation": Feature(
        replace(PLAIN, messages=(*PLAIN.messages, Message("assistant", "65."), Message("user", "And 48+36?")))
    ),
    "thinking": Feature(
        replace(PLAIN, effort="high"),
        (ReasoningDelta("7+8=15, "), ReasoningDelta("so 65"), TextDelta("65"), Finish("stop", Usage(31, 12, 8, 4))),
    ),
    "one call": Feature(replace(PLAIN, tools=(ADD,)), CALLED),
    "two calls": Feature(
        replace(PLAIN, tools=(ADD, NOW)),
        (
            TextDelta("I look."),
            ToolCallStart(0, "a1B2c3D4e", "add"),
            ToolCallDelta(0, '{"a": '),
            ToolCallDelta(0, "7}"),
            ToolCallStart(1, "f5G6h7I8j", "now"),
            ToolCallDelta(1, "{}"),
            Finish("tool_calls", USAGE),
        ),
    ),
    "forced call": Feature(replace(PLAIN, tools=(ADD, NOW), tool_choice=NamedTool("add")), CALLED),
    "tool result": Feature(
        replace(
            PLAIN,
            tools=(ADD,),
            messages=(
                *PLAIN.messages,
                Message("assistant", "", (ToolCall("a1B2c3D4e", "add", '{"a": 7}'),)),
                Message("tool", "sześć", tool_call_id="a1B2c3D4e"),
            ),
        )
    ),
    "schema": Feature(
        replace(PLAIN, response_format=JsonSchema({"type": "object", "properties": {"sum": {"type": "integer"}}})),
        (TextDelta('{"sum": 65}'), Finish("stop", USAGE)),
    ),
    "JSON": Feature(replace(PLAIN, response_format=JsonObject()), (TextDelta("{}"), Finish("stop", USAGE))),
    "image": Feature(replace(PLAIN, messages=(Message("user", (TextPart("What?"), ImagePart(_png()))),))),
    "stop string": Feature(replace(PLAIN, stop=("END",)), (TextDelta("65"), Finish("stop", USAGE))),
    "cut off": Feature(PLAIN, (TextDelta("Sześć"), Finish("length", USAGE))),
    "sampling": Feature(replace(PLAIN, sampling=Sampling(temperature=0.5, top_p=0.9))),
}
# What one of the two dialects has no word for; all else must pass.
UNSAID = {("responses", "stop string"), ("anthropic", "JSON")}


@dataclass
class World:
    """A small4 that serves a model itself, and one that serves what another hosts."""

    provider: Dialect  # between the two
    direct: Served
    hosted: Served
    there: Served

    def say(self, feature: Feature) -> None:
        for served in (self.direct, self.there):
            served.provider.say(feature.answer)


def world(directory: Path, dialect: Dialect, is_streamed: bool) -> World:
    there = Served(directory / "there")
    key, _ = there.store.create("test")
    endpoint = endpoint_at(f"http://localhost{MOUNTS[dialect]}", dialect=dialect)
    transport = httpx2.ASGITransport(there.app, client=("127.0.0.1", 50_000))
    upstream = Upstream(endpoint, key=ProviderKey(key, endpoint.origin), transport=transport)
    provider = HostedProvider(upstream, "scripted", is_streamed=is_streamed)
    return World(dialect, Served(directory / "here"), Served(directory / "here", provider=provider), there)


async def ask(served: Served, dialect: Dialect, request: ChatRequest, is_stream: bool) -> Reply:
    spoken = SPOKEN[dialect]
    call = Call(request=request, model="scripted", is_stream=is_stream)
    target = MOUNTS[dialect] + spoken.path(call)
    return await served.client.post(target, spoken.format_request(call), headers=HEADERS.get(dialect, {}))


def read(dialect: Dialect, reply: Reply, is_stream: bool) -> list[Any]:
    """What a client understands."""
    assert reply.status == 200, reply.body
    reader = SPOKEN[dialect].reader(1)
    if not is_stream:
        return reader.whole(reply.body)
    events = [event for line in EventReader().feed(reply.body) for event in reader.feed(line)]
    return events + reader.finish()


async def cell(here: World, client: Dialect, name: str, is_stream: bool) -> str:
    """What becomes of one client's request."""
    request = FEATURES[name].request
    try:
        direct = await ask(here.direct, client, request, is_stream)
    except FieldError:
        return "the client cannot say it"
    num_asked = len(here.there.provider.requests)
    hosted = await ask(here.hosted, client, request, is_stream)
    if hosted.status in (400, 422):  # Mistral's for a field
        assert "leave it out" in hosted.body.decode()
        assert len(here.there.provider.requests) == num_asked
        return "the provider cannot be told"
    assert same(read(client, hosted, is_stream), read(client, direct, is_stream)), (hosted.body, direct.body)
    arrived, meant = here.there.provider.requests[-1][0], here.direct.provider.requests[-1][0]
    if here.provider == "google" and isinstance(meant.tool_choice, NamedTool):
        # A call that Google's API forces has arguments that fit its schema, asked for or not.
        arrived, meant = (
            replace(each, tools=[replace(tool, strict=True) for tool in each.tools]) for each in (arrived, meant)
        )
    assert arrived == meant
    return "same"


def strict(request: ChatRequest) -> ChatRequest:
    return replace(request, tools=tuple(replace(tool, strict=True) for tool in request.tools))


async def cells(directory: Path, *, in_all_forms: bool) -> Counter[str]:
    seen: Counter[str] = Counter()
    for provider, is_hosted_stream in product(DIALECTS, (True, False)):
        here = world(directory, provider, is_hosted_stream)
        for number, (name, client) in enumerate(product(FEATURES, DIALECTS)):
            here.say(FEATURES[name])
            for is_stream in (True, False):
                # One of the four forms of every other cell, or all of them.
                if in_all_forms or (is_hosted_stream, is_stream) == FORMS.get((number + DIALECTS.index(provider)) % 8):
                    told = await cell(here, client, name, is_stream)
                    assert told == expected(client, provider, name), (client, provider, name)
                    seen[told] += 1
    return seen


FORMS = dict(zip((0, 3, 4, 7), product((True, False), repeat=2), strict=True))


def expected(client: Dialect, provider: Dialect, name: str) -> str:
    if (client, name) in UNSAID:
        return "the client cannot say it"
    return "the provider cannot be told" if (provider, name) in UNSAID else "same"


def test_every_feature_of_every_client_arrives_through_every_provider_s_dialect(tmp_path: Path) -> None:
    assert asyncio.run(cells(tmp_path, in_all_forms=False)).total() == 25 * len(FEATURES) // 2


@pytest.mark.slow
def test_and_in_every_combination_of_streams_and_whole_answers(tmp_path: Path) -> None:
    assert asyncio.run(cells(tmp_path, in_all_forms=True)).total() == 4 * 25 * len(FEATURES)
