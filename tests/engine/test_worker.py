"""The engine's thread: callers from many threads and from asyncio, each with the tokens that it would get alone."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from random import Random

import pytest

from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.worker import Worker
from small4.errors import ContextLengthError
from tests import naive
from tests.engine.tiny import random_prompt, tiny_model

MODEL = tiny_model()
PROMPTS = [random_prompt(Random(i), 3 + 5 * i) for i in range(6)]
WANTED = [naive.generate(MODEL, prompt, max_tokens=10) for prompt in PROMPTS]


@pytest.fixture
def worker() -> Worker:
    return Worker(Engine(MODEL, EngineConfig(block_size=4, cache_bytes=400_000), context_length=256))


def request(number: int, max_tokens: int = 10, **options: object) -> GenerationRequest:
    return GenerationRequest(prompt=PROMPTS[number], max_tokens=max_tokens, **options)  # type: ignore[arg-type]


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def wait_until_idle(worker: Worker) -> None:
    deadline = time.monotonic() + 20
    while worker._thread is not None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert worker._thread is None
    assert worker.engine.scheduler.pool.num_free == worker.engine.cache_plan.num_blocks


def test_many_threads_each_get_their_own_tokens(worker: Worker) -> None:
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda i: tokens_of(list(worker.stream(request(i % 6)))), range(24)))
    assert results == [WANTED[i % 6] for i in range(24)]
    wait_until_idle(worker)


def test_asyncio_callers_each_get_their_own_tokens(worker: Worker) -> None:
    async def ask(number: int) -> list[int]:
        return tokens_of([output async for output in worker.stream_async(request(number))])

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(ask(number) for number in range(6)))

    assert asyncio.run(all_of_them()) == WANTED
    wait_until_idle(worker)


def test_a_bad_request_raises_at_the_call(worker: Worker) -> None:
    with pytest.raises(ContextLengthError):
        worker.stream(request(1, max_tokens=1000))
    wait_until_idle(worker)


def test_leaving_a_stream_early_gives_its_blocks_back(worker: Worker) -> None:
    stream = worker.stream(request(2, max_tokens=200))
    assert next(stream).tokens == WANTED[2][:1]
    stream.close()
    wait_until_idle(worker)


def test_a_stream_that_nobody_began_to_read_gives_its_blocks_back(worker: Worker) -> None:
    stream = worker.stream(request(2, max_tokens=200))
    sequence = stream.sequences[0]
    del stream
    wait_until_idle(worker)
    assert sequence.finish_reason == "aborted"


def test_leaving_an_asyncio_stream_early_gives_its_blocks_back(worker: Worker) -> None:
    async def look_once() -> None:
        stream = worker.stream_async(request(2, max_tokens=200))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(look_once())
    wait_until_idle(worker)


def test_an_aborted_stream_ends_with_that_reason(worker: Worker) -> None:
    outputs: list[Output] = []
    ended = threading.Event()

    def deliver(output: Output) -> None:
        outputs.append(output)
        if output.finish_reason:
            ended.set()

    (sequence,) = worker.submit(request(3, max_tokens=200), deliver)
    worker.abort(sequence)
    assert ended.wait(20)
    assert outputs[-1].finish_reason == "aborted"


def test_a_receiver_that_fails_loses_its_own_sequence_only(worker: Worker) -> None:
    def broken(output: Output) -> None:
        raise ValueError("no room for it here")

    worker.submit(request(3, max_tokens=200), broken)
    assert tokens_of(list(worker.stream(request(1)))) == WANTED[1]
    wait_until_idle(worker)


def test_a_bug_in_the_step_ends_every_stream_and_the_next_request_runs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[object]:
        raise ZeroDivisionError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(worker.engine.scheduler, "schedule", broken)
        outputs = list(worker.stream(request(0)))
        assert outputs[-1].finish_reason == "error"
        assert isinstance(outputs[-1].error, ZeroDivisionError)
        wait_until_idle(worker)
    assert tokens_of(list(worker.stream(request(0)))) == WANTED[0]


def test_the_sequences_of_a_request_come_through_one_stream(worker: Worker) -> None:
    outputs = list(worker.stream(request(4, num_sequences=3)))
    for sequence in {output.sequence for output in outputs}:
        assert tokens_of([output for output in outputs if output.sequence is sequence]) == WANTED[4]
    assert sum(output.finish_reason is not None for output in outputs) == 3


def test_a_caller_that_is_cancelled_while_it_submits_leaves_the_worker_alive(worker: Worker) -> None:
    release = threading.Event()

    def hold(output: Output) -> None:
        release.wait(20)  # the engine's thread is busy, as in a long step

    async def cancel_while_submitting() -> None:
        task = asyncio.ensure_future(anext(worker.stream_async(request(2, max_tokens=200))))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    worker.submit(request(0, max_tokens=1), hold)
    asyncio.run(cancel_while_submitting())
    release.set()
    assert tokens_of(list(worker.stream(request(1)))) == WANTED[1]
    wait_until_idle(worker)


def test_a_stream_can_be_dropped_where_the_lock_is_held(worker: Worker) -> None:
    stream = worker.stream(request(2, max_tokens=200))
    with worker._lock:  # the garbage collector may run at any allocation, also there
        dropping = threading.Thread(target=stream.__del__, daemon=True)
        dropping.start()
        dropping.join(5)
        assert not dropping.is_alive()
    wait_until_idle(worker)


def test_a_stream_closed_by_another_thread_ends_for_its_reader(worker: Worker) -> None:
    stream = worker.stream(request(2, max_tokens=200))
    outputs: list[Output] = []
    reading = threading.Thread(target=lambda: outputs.extend(stream), daemon=True)
    reading.start()
    stream.close()
    reading.join(5)
    assert not reading.is_alive()


def test_a_closed_event_loop_ends_its_sequences(worker: Worker) -> None:
    loop = asyncio.new_event_loop()
    stream = worker.stream_async(request(2, max_tokens=200))
    first = loop.run_until_complete(anext(stream))
    loop.close()
    wait_until_idle(worker)
    assert first.sequence.finish_reason == "aborted"


def test_a_bug_behind_an_ended_sequence_leaves_nobody_waiting(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(worker.engine, "observer", broken)  # comes after the first sequence has ended in the same step
        outputs = SimpleQueue[Output]()
        both = [request(0, max_tokens=1), request(1)]
        worker._ask(lambda: [worker._submit(each, outputs.put) for each in both])  # at once, for the same step
        assert all(isinstance(outputs.get(timeout=20).error, ZeroDivisionError) for _ in both)
        wait_until_idle(worker)


def test_a_thread_that_cannot_start_refuses_and_the_next_request_runs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            worker.stream(request(0))
    stream = worker.stream(request(1))
    assert [sequence.id for sequence in stream.sequences] == [0]
    assert tokens_of(list(stream)) == WANTED[1]
