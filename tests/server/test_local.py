"""The nano behind HTTP: same tokens as in process, and nothing left behind by clients who leave."""

import asyncio
import json
import random

import pytest

from small4.chat import ChatRequest, Message
from small4.engine.config import EngineConfig
from small4.llm import load
from small4.server.bounds import Bounds
from small4.server.models import Offer
from tests.server.asgi import Served, holds


@pytest.fixture(scope="module")
def nano():
    return load("nano", engine=EngineConfig(cache_bytes=2**24, is_plain=True, has_prefix_cache=False))


def served_by(nano, directory, **options) -> Served:
    offers = [Offer(id="nano", provider=nano.provider, tokenizer=nano.tokenizer)]
    return Served(directory, offers=offers, provider=nano.provider, **options)


def asking(number: int, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": f"What is {number} + {number * 3 + 1}?"}]
    return {"model": "nano", "messages": messages, "reasoning_effort": "high", "max_tokens": 20, **fields}


def texts_of(reply) -> tuple[str, str]:
    """Reasoning and text of a streamed answer."""
    deltas = [json.loads(event)["choices"][0]["delta"] for event in reply.events[:-1]]
    return "".join(d.get("reasoning") or "" for d in deltas), "".join(d.get("content") or "" for d in deltas)


def in_process(nano, number: int) -> tuple[str, str]:
    answer = nano.chat([Message("user", f"What is {number} + {number * 3 + 1}?")], effort="high", max_tokens=20)
    return answer.reasoning, answer.text


def test_streams_say_what_the_model_says_in_process_many_at_once(nano, tmp_path):
    served = served_by(nano, tmp_path)

    async def check():
        bodies = [asking(number, stream=True) for number in range(4)]
        return await asyncio.gather(*(served.client.post("/v1/chat/completions", body) for body in bodies))

    replies = asyncio.run(check())
    assert [texts_of(reply) for reply in replies] == [in_process(nano, number) for number in range(4)]


def leave_many(nano, directory, num_leaving: int, num_staying: int) -> None:
    draw = random.Random(3)
    served = served_by(nano, directory, bounds=Bounds(max_concurrent=2000, max_queued_per_key=1024))
    engine = nano.provider.worker.engine
    num_free = engine.scheduler.pool.num_free

    async def leave(number: int) -> None:
        visit = served.client.visit("POST", "/v1/chat/completions", asking(number, stream=draw.random() < 0.8))
        await asyncio.sleep(draw.random() * num_leaving * 0.004)
        visit.leave()
        await visit.task

    async def check() -> list[tuple[str, str]]:
        staying = [
            served.client.visit("POST", "/v1/chat/completions", asking(n, stream=True)) for n in range(num_staying)
        ]
        await asyncio.gather(*(leave(number) for number in range(num_leaving)))
        replies = [await visit.reply() for visit in staying]
        await holds(lambda: not engine.num_running and not engine.num_waiting, seconds=1.0)
        return [texts_of(reply) for reply in replies]

    said = asyncio.run(check())
    assert said == [in_process(nano, number) for number in range(num_staying)]
    assert engine.scheduler.pool.num_free == num_free
    assert (served.service.admission.num_running, served.service.bodies.held_bytes) == (0, 0)


def test_leaving_clients_free_the_cache_and_change_nothing_for_the_others(nano, tmp_path):
    leave_many(nano, tmp_path, num_leaving=16, num_staying=2)


@pytest.mark.slow
def test_a_thousand_leaving_clients_free_the_cache_within_a_second(nano, tmp_path):
    leave_many(nano, tmp_path, num_leaving=1000, num_staying=8)


def test_request_that_is_wrong_for_the_model_is_a_400(nano, tmp_path):
    served = served_by(nano, tmp_path)
    long = [{"role": "user", "content": "12 + 7 = 19. " * 10_000}]
    reply = asyncio.run(served.client.post("/v1/chat/completions", asking(1, messages=long)))
    assert (reply.status, reply.json["error"]["code"]) in ((400, "context_length_exceeded"), (400, None))
    assert "limit" in reply.json["error"]["message"] or "cache" in reply.json["error"]["message"]


class Noting:
    """The provider, and what it was asked."""

    def __init__(self, provider) -> None:
        self.provider, self.model = provider, provider.model
        self.requests: list[ChatRequest] = []

    def stream(self, request, caller):
        self.requests.append(request)
        return self.provider.stream(request, caller)


def test_temperature_that_is_left_open_is_the_one_recommended_for_this_model(nano, tmp_path):
    noting = Noting(nano.provider)
    served = Served(tmp_path, offers=[Offer(id="nano", provider=noting)])
    for fields in ({}, {"temperature": 0.9, "seed": 1}):
        asyncio.run(served.client.post("/v1/chat/completions", asking(1, max_tokens=1, **fields)))
    assert [request.sampling.temperature for request in noting.requests] == [0.0, 0.9]


def test_server_whose_engine_died_is_not_ready_until_it_has_another(nano, tmp_path):
    served = served_by(nano, tmp_path, is_ready=lambda: nano.provider.is_ready)

    def die():
        raise SystemExit

    nano.provider.worker.engine.step = die

    async def check():
        assert (await served.client.get("/ready")).status == 200
        assert (await served.client.post("/v1/chat/completions", asking(1))).status == 503
        assert (await served.client.get("/ready")).status == 503
        await holds(lambda: nano.provider.is_ready)
        assert (await served.client.get("/ready")).status == 200
        assert (await served.client.post("/v1/chat/completions", asking(1))).status == 200

    asyncio.run(check())
