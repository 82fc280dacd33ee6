"""Whatever a hosted provider does wrong becomes the right error, and its client sees a well-formed end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from small4.chat import AnswerEvent, Finish, ReasoningDelta, TextDelta
from small4.errors import RateLimitError, Small4Error, UpstreamError
from small4.providers.hosted import HostedProvider
from small4.providers.upstream import UpstreamBounds
from small4.server.models import Offer
from small4.wire.problem import problem_of
from tests.providers.dialects import CALLER, KEY, QUESTION, provider_at
from tests.providers.fault_server import FaultServer
from tests.providers.faults import FAULTS, UNREACHABLE, Fault
from tests.server.asgi import CHAT, Reply, Served

PATIENT = UpstreamBounds(max_line_bytes=2**17, max_event_bytes=2**18, max_body_bytes=2**20)
# One at a time: all other limits stay as they are. The whole has to be long enough for what comes before.
SECONDS = {"first_byte_seconds": 0.1, "idle_seconds": 0.1, "error_seconds": 0.1, "total_seconds": 1.5}
LONGEST_SECONDS = 20.0  # for an episode on a busy machine


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: for whoever asked the provider, and for clients of a server before it."""

    events: list[AnswerEvent]
    error: Exception | None
    streamed: Reply
    whole: Reply


@dataclass(frozen=True)
class Outcomes:
    """Of all faults, and what the server keeps of them."""

    by_name: dict[str, Outcome]
    log: list[dict[str, Any]]
    metrics: str


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """One server before a provider for each fault: the timed ones side by side, then the others, a few at a time."""

    async def run() -> Outcomes:
        async with AsyncExitStack() as leaving:
            providers = {name: await leaving.enter_async_context(faulty(fault)) for name, fault in ALL.items()}
            offers = [Offer(id=model_of(name), provider=provider) for name, provider in providers.items()]
            served, few = Served(tmp_path_factory.mktemp("state"), offers=offers), asyncio.Semaphore(4)

            async def one(name: str) -> tuple[str, Outcome]:
                return name, await outcome(served, name, providers[name])

            async def in_turn(name: str) -> tuple[str, Outcome]:
                async with few:
                    return await one(name)

            found = dict(await asyncio.gather(*(one(name) for name in ALL if ALL[name].limit is not None)))
            found |= dict(await asyncio.gather(*(in_turn(name) for name in ALL if name not in found)))
            return Outcomes(found, served.logged(), served.service.metrics.page().decode())

    return asyncio.run(run())


@asynccontextmanager
async def faulty(fault: Fault) -> AsyncIterator[HostedProvider]:
    """A provider with this fault."""
    bounds = PATIENT
    if fault.limit is not None:  # a head that comes byte by byte has the time to connect beside that
        bounds = replace(PATIENT, connect_seconds=1.0, **{fault.limit: SECONDS[fault.limit]})
    async with FaultServer(fault.script) as there:
        url = there.url if fault is not UNREACHABLE else "http://127.0.0.1:1"
        provider = provider_at(url, bounds=bounds, is_streamed=fault.is_streamed)
        yield provider
        await provider.upstream.aclose()


def model_of(name: str) -> str:
    return name.replace(" ", "-")


async def outcome(served: Served, name: str, provider: HostedProvider) -> Outcome:
    body = {**CHAT, "model": model_of(name)}
    async with asyncio.timeout(LONGEST_SECONDS):
        (events, error), streamed, whole = await asyncio.gather(
            ask(provider),
            served.client.post("/v1/chat/completions", {**body, "stream": True}),
            served.client.post("/v1/chat/completions", body),
        )
    return Outcome(events, error, streamed, whole)


async def ask(provider: Any) -> tuple[list[AnswerEvent], Exception | None]:
    events: list[AnswerEvent] = []
    try:
        async for event in provider.stream(QUESTION, CALLER):
            events.append(event)
    except Small4Error as error:
        return events, error
    return events, None


ALL = {**FAULTS, "nobody there": UNREACHABLE}


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= 40


@pytest.mark.parametrize("name", ALL)
def test_a_fault_becomes_its_error(name: str, outcomes: Outcomes) -> None:
    fault, found = ALL[name], outcomes.by_name[name]
    assert type(found.error) is fault.error, found
    assert fault.says in str(found.error)
    assert str(found.error).startswith("there: ")
    assert not any(isinstance(event.event, Finish) for event in found.events), "a false end"
    said = [event for event in found.events if isinstance(event.event, TextDelta | ReasoningDelta)]
    assert bool(said) == fault.has_text
    if fault.retry_after_seconds is not None:
        assert isinstance(found.error, RateLimitError | UpstreamError)
        assert found.error.retry_after_seconds == fault.retry_after_seconds


@pytest.mark.parametrize("name", ALL)
def test_a_client_sees_a_well_formed_end(name: str, outcomes: Outcomes) -> None:
    fault, found = ALL[name], outcomes.by_name[name]
    assert found.error is not None
    problem = problem_of(found.error)
    assert found.whole.status == problem.status
    assert found.whole.json["error"]["message"]
    if fault.retry_after_seconds is not None:
        assert found.whole.headers["retry-after-ms"] == str(round(fault.retry_after_seconds * 1000))
    if not fault.has_text:
        assert found.streamed.status == problem.status
        assert found.streamed.json["error"] == found.whole.json["error"]
        return
    assert found.streamed.status == 200
    events = found.streamed.events
    assert "[DONE]" not in events
    assert [bool(json.loads(event).get("error")) for event in events] == [False] * (len(events) - 1) + [True]


@pytest.mark.parametrize("name", ALL)
def test_no_fault_shows_the_key(name: str, outcomes: Outcomes) -> None:
    found = outcomes.by_name[name]
    shown = [
        str(found.error),
        repr(found.error),
        repr(vars(found.error)),
        found.streamed.body,
        found.whole.body,
    ]
    assert not any(KEY[start : start + 8] in str(text) for text in shown for start in range(len(KEY) - 8))
    assert found.error is not None
    assert found.error.__cause__ is None
    assert found.error.__context__ is None


def test_neither_the_log_nor_the_metrics_hold_a_piece_of_the_key(outcomes: Outcomes) -> None:
    assert len([line for line in outcomes.log if line.get("route") == "/v1/chat/completions"]) == 2 * len(ALL)
    kept = json.dumps(outcomes.log) + outcomes.metrics
    assert not any(KEY[start : start + 8] in kept for start in range(len(KEY) - 8))


@pytest.mark.parametrize("limit", SECONDS)
def test_limits_of_time_hold(limit: str) -> None:
    async def seconds() -> float:
        script = next(fault.script for fault in ALL.values() if fault.limit == limit)
        async with FaultServer(script) as there:
            provider = provider_at(there.url, bounds=replace(PATIENT, connect_seconds=1.0, **{limit: 0.05}))
            began = time.monotonic()
            await ask(provider)
            return time.monotonic() - began

    assert 0.04 < asyncio.run(seconds()) < 5.0
