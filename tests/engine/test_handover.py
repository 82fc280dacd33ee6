"""From the engine's thread into event loops: in order, to the right stream, and with one wake-up for all of a step."""

import asyncio
from functools import partial

import pytest

from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.handover import Handovers, Inbox
from small4.engine.sampler import Draw
from small4.engine.worker import Worker
from tests.engine.tiny import tiny_model

MODEL = tiny_model()


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts how often another thread woke it."""

    num_wakes = 0

    def call_soon_threadsafe(self, *arguments, **named):
        self.num_wakes += 1
        return super().call_soon_threadsafe(*arguments, **named)


def output_of(token_id: int) -> Output:
    return Output(None, (Draw(token_id),))  # type: ignore[arg-type]


def test_all_streams_of_a_loop_are_woken_once_a_step():
    worker = Worker(Engine(MODEL, EngineConfig(block_size=4, cache_bytes=400_000), context_length=256))
    requests = [GenerationRequest(prompt=[5, 6, 7 + number], max_tokens=20) for number in range(8)]

    async def read(request: GenerationRequest) -> int:
        return sum([len(output.draws) async for output in worker.stream_async(request)])

    async def read_all() -> list[int]:
        return await asyncio.gather(*(read(request) for request in requests))

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(read_all()) == [20] * 8
        num_submits = 8  # each answers its caller by a wake-up of its own
        assert runner.get_loop().num_wakes <= worker.engine.num_steps + num_submits


def test_outputs_arrive_in_order_each_in_its_inbox():
    async def check() -> None:
        handover, inboxes = Handovers().enter(), (Inbox(), Inbox())
        for number in range(6):
            handover.put(inboxes[number % 2], output_of(number))
        await asyncio.to_thread(handover.wake)
        taken = [[output.tokens[0] for output in await inbox.take()] for inbox in inboxes]
        assert taken == [[0, 2, 4], [1, 3, 5]]

    asyncio.run(check())


def test_a_reader_that_waits_hears_of_the_first_output():
    async def check() -> None:
        handover, inbox = Handovers().enter(), Inbox()
        reading = asyncio.ensure_future(inbox.take())
        await asyncio.sleep(0)
        handover.put(inbox, output_of(3))
        await asyncio.to_thread(handover.wake)
        assert [output.tokens for output in await reading] == [[3]]

    asyncio.run(check())


def test_a_reader_that_is_cancelled_loses_nothing():
    async def check() -> None:
        inbox = Inbox()
        reading = asyncio.ensure_future(inbox.take())
        await asyncio.sleep(0)
        inbox.put(output_of(3))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert [output.tokens for output in await inbox.take()] == [[3]]

    asyncio.run(check())


def test_nothing_is_kept_of_a_loop_that_reads_no_more():
    handovers = Handovers()

    async def come(leaves: bool) -> None:
        handover = handovers.enter()
        if leaves:
            handovers.leave(handover)

    for leaves in (True, False):
        asyncio.run(come(leaves))
    handovers.wake()
    assert not handovers._by_loop


def test_a_closed_loop_takes_nothing():
    async def come():
        return Handovers().enter()

    put = partial(asyncio.run(come()).put, Inbox())
    with pytest.raises(RuntimeError, match="closed"):
        put(output_of(1))
