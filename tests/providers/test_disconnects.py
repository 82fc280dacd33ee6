"""A thousand callers who leave at any moment cost the others nothing, and their blocks come back."""

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from random import Random

import pytest

import small4
from small4.answer import Answer
from small4.chat import ChatRequest, Message, Sampling
from small4.engine.config import EngineConfig
from small4.providers.local import LocalProvider
from small4.providers.provider import Caller, collect

REQUESTS = [
    ChatRequest(
        messages=(Message("user", f"{17 + i}+48+36"),),
        effort="high",
        num_answers=1 + i % 3,
        sampling=Sampling(temperature=0.7, seed=i),
    )
    for i in range(20)
]
SECONDS = 10.0  # over which all callers come


def texts(answers: list[Answer]) -> list[tuple[str, str, str]]:
    return [(answer.reasoning, answer.text, answer.finish_reason) for answer in answers]


async def close_somewhere(provider: LocalProvider, rng: Random) -> None:
    """Read some events, then close the stream."""
    num_events = rng.randrange(40)
    async with aclosing(provider.stream(rng.choice(REQUESTS), Caller(name=str(rng.randrange(7))))) as events:
        async for _ in events:
            num_events -= 1
            if num_events < 0:
                return


async def cancel_somewhere(provider: LocalProvider, rng: Random) -> None:
    """Be cancelled at any moment, also before the engine has heard of the request."""
    stream = provider.stream(rng.choice(REQUESTS), Caller(name=str(rng.randrange(7))))
    with suppress(TimeoutError):
        await asyncio.wait_for(collect(stream), rng.random() * 0.3)


async def later(rng: Random, coroutine: Awaitable[object]) -> object:
    await asyncio.sleep(rng.random() * SECONDS)
    return await coroutine


@pytest.mark.slow
def test_a_thousand_who_leave_give_their_blocks_back_and_change_no_other_answer() -> None:
    rng = Random(3)
    provider = small4.load("nano", engine=EngineConfig(cache_bytes=2**22, max_running=16)).provider

    async def ask(request: ChatRequest) -> list[tuple[str, str, str]]:
        return texts(await collect(provider.stream(request, Caller(name="who stays"))))

    async def all_together() -> None:
        alone = [await ask(request) for request in REQUESTS]
        leaving = [leave(provider, rng) for leave in (close_somewhere, cancel_somewhere) for _ in range(500)]
        staying = [ask(REQUESTS[i % 20]) for i in range(60)]
        done = await asyncio.gather(*(later(rng, each) for each in [*leaving, *staying]))
        assert done[len(leaving) :] == [alone[i % 20] for i in range(60)]
        await asyncio.sleep(1.0)
        engine = provider.worker.engine
        assert engine.num_running == engine.num_waiting == 0
        assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks

    asyncio.run(all_together())
