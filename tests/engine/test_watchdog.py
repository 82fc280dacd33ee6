"""Engines that hang or die on demand: whoever waits hears of it, and the next caller has a fresh engine."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest, Output
from small4.engine.watchdog import Patience, Watchdog
from small4.errors import EngineStoppedError, MemoryBudgetError
from tests import naive
from tests.engine.tiny import random_prompt, tiny_model

MODEL = tiny_model()
PROMPT = random_prompt(Random(1), 9)
WANTED = naive.generate(MODEL, PROMPT, max_tokens=10)
REQUEST = GenerationRequest(prompt=PROMPT, max_tokens=10)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Faulty(Engine):
    """An engine that does what it is told at its next steps."""

    def __init__(self) -> None:
        super().__init__(MODEL, EngineConfig(block_size=4, cache_bytes=400_000), context_length=256)
        self.error: BaseException | None = None  # to be raised
        self.hangs = threading.Event()  # set while it hangs
        self.release: threading.Event | None = None  # hang until this is set

    def step(self) -> list[Output]:
        if self.error is not None:
            raise self.error
        if self.release is not None:
            self.hangs.set()
            assert self.release.wait(30)
        return super().step()


class Made:
    """A watchdog, its clock, and the engines that it made."""

    def __init__(self, limit_seconds: float | None = 120.0) -> None:
        self.clock = Clock()
        self.engines: list[Faulty] = []
        self.dog = Watchdog(self.make, limit_seconds=limit_seconds, look_seconds=0.005, clock=self.clock)
        self.release = threading.Event()

    def make(self) -> Faulty:
        self.engines.append(Faulty())
        return self.engines[-1]

    def hang(self, seconds: float) -> None:
        """Once the engine hangs, let this time pass."""
        assert self.engines[-1].hangs.wait(20)
        self.clock.now += seconds


@pytest.fixture
def made() -> Iterator[Made]:
    made = Made()
    made.dog.worker.engine.release = made.release  # type: ignore[attr-defined]
    yield made
    made.release.set()


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def test_a_hung_engine_is_given_up_and_the_next_caller_has_a_fresh_one(made: Made) -> None:
    stream = made.dog.worker.stream(GenerationRequest(prompt=PROMPT, max_tokens=10, num_sequences=2))
    made.hang(121.0)
    outputs = list(stream)
    assert [output.finish_reason for output in outputs] == ["error", "error"]
    assert all(isinstance(output.error, EngineStoppedError) for output in outputs)
    assert "more than 120 s (max_step_seconds)" in str(outputs[0].error)
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED
    assert (len(made.engines), made.dog.num_restarts) == (2, 1)


def test_what_a_given_up_engine_brings_late_is_dropped(made: Made) -> None:
    brought: list[Output] = []
    stopped = threading.Event()

    def deliver(output: Output) -> None:
        brought.append(output)
        stopped.set()

    worker = made.dog.worker
    worker.submit(REQUEST, deliver)
    made.hang(121.0)
    assert stopped.wait(20)
    made.release.set()
    wait_for(lambda: made.engines[0].num_steps > 0 and not threads("small4 engine"))
    assert [output.finish_reason for output in brought] == ["error"]


def test_a_caller_whose_request_was_not_taken_yet_hears_of_it(made: Made) -> None:
    async def ask() -> list[Output]:
        return [output async for output in made.dog.worker.stream_async(REQUEST)]

    async def ask_two() -> tuple[object, object]:
        first = asyncio.ensure_future(ask())
        await asyncio.to_thread(made.engines[0].hangs.wait, 20)
        second = asyncio.ensure_future(ask())
        await asyncio.sleep(0.01)
        made.clock.now += 121.0
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(ask_two())
    assert isinstance(first, list)
    assert isinstance(first[-1].error, EngineStoppedError)
    assert isinstance(second, EngineStoppedError)


def test_a_step_within_the_limit_is_left_alone(made: Made) -> None:
    stream = made.dog.worker.stream(REQUEST)
    made.hang(119.0)
    time.sleep(0.05)  # ten looks
    made.release.set()
    assert tokens_of(list(stream)) == WANTED
    assert made.dog.num_restarts == 0


def test_without_a_limit_nothing_counts_as_hung() -> None:
    made = Made(limit_seconds=None)
    made.dog.worker.engine.release = made.release  # type: ignore[attr-defined]
    stream = made.dog.worker.stream(REQUEST)
    made.hang(1e9)
    time.sleep(0.05)
    made.release.set()
    assert tokens_of(list(stream)) == WANTED


def test_a_round_that_two_looks_find_over_the_limit_hangs() -> None:
    patience = Patience(120.0)
    assert not patience.is_over(0.0, 130.0)  # the machine may have been asleep
    assert patience.is_over(0.0, 135.0)


def test_a_round_that_ends_after_a_sleep_does_not_hang() -> None:
    patience = Patience(120.0)
    assert not patience.is_over(0.0, 130.0)
    assert not patience.is_over(131.0, 135.0)
    assert not patience.is_over(131.0, 260.0)
    assert not patience.is_over(None, 270.0)
    assert not patience.is_over(131.0, 280.0)


@pytest.mark.parametrize("limit_seconds", [120.0, None])
def test_a_dead_engine_is_replaced(limit_seconds: float | None) -> None:
    made = Made(limit_seconds)
    cause = SystemExit("the thread ends here")
    made.dog.worker.engine.error = cause  # type: ignore[attr-defined]
    [output] = made.dog.worker.stream(REQUEST)
    assert isinstance(output.error, EngineStoppedError)
    assert output.error.__cause__ is cause
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED
    assert made.dog.num_restarts == 1


def test_an_engine_that_fails_while_it_ends_its_sequences_is_replaced(made: Made) -> None:
    def fail_all(error: Exception) -> list[Output]:
        raise KeyError("a bug of ours")

    engine = made.engines[0]
    engine.error, engine.fail_all = ZeroDivisionError("another"), fail_all  # type: ignore[method-assign]
    [output] = made.dog.worker.stream(REQUEST)
    assert isinstance(output.error, EngineStoppedError)
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_without_a_word_is_noticed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = made.dog.worker
    stop = worker.stop

    def fail_once(error: EngineStoppedError) -> None:
        monkeypatch.setattr(worker, "stop", stop)
        raise MemoryError

    monkeypatch.setattr(worker, "stop", fail_once)
    made.engines[0].error = SystemExit()
    [output] = worker.stream(REQUEST)
    assert isinstance(output.error, EngineStoppedError)
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED


def test_a_worker_that_is_stopped_refuses(made: Made) -> None:
    worker = made.dog.worker
    worker.stop(EngineStoppedError("enough"))
    with pytest.raises(EngineStoppedError, match="enough"):
        worker.stream(REQUEST)


def test_an_engine_that_cannot_be_made_again_is_tried_at_the_next_request() -> None:
    made = Made()
    made.dog.worker.engine.error = SystemExit()  # type: ignore[attr-defined]
    list(made.dog.worker.stream(REQUEST))

    def no_memory() -> Engine:
        raise MemoryBudgetError("nothing is free")

    made.dog._make_engine = no_memory
    with pytest.raises(MemoryBudgetError):
        made.dog.worker  # noqa: B018
    made.dog._make_engine = made.make
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED


def test_a_hung_engine_is_not_ready_and_to_ask_has_it_replaced(made: Made) -> None:
    dog = made.dog
    assert dog.is_ready
    stream = dog.worker.stream(REQUEST)
    made.hang(119.0)
    assert dog.is_ready
    made.clock.now += 2.0
    assert not dog.is_ready
    [output] = stream
    assert isinstance(output.error, EngineStoppedError)
    assert not dog.is_ready
    wait_for(lambda: dog.is_ready)
    assert (len(made.engines), dog.num_restarts) == (2, 1)
    assert tokens_of(list(dog.worker.stream(REQUEST))) == WANTED


def test_an_engine_that_is_being_made_again_is_not_ready_and_is_made_once() -> None:
    made, may_end, num_making = Made(), threading.Event(), []

    def make() -> Engine:
        num_making.append(1)
        assert may_end.wait(20)
        return made.make()

    made.dog.worker.engine.error = SystemExit()  # type: ignore[attr-defined]
    list(made.dog.worker.stream(REQUEST))
    made.dog._make_engine = make
    assert not any(made.dog.is_ready for _ in range(20))
    wait_for(lambda: bool(num_making))
    assert not any(made.dog.is_ready for _ in range(20))
    may_end.set()
    wait_for(lambda: made.dog.is_ready)
    assert len(num_making) == 1


def test_an_engine_that_cannot_be_made_is_not_ready_until_it_can_be() -> None:
    made = Made()
    made.dog.worker.engine.error = SystemExit()  # type: ignore[attr-defined]
    list(made.dog.worker.stream(REQUEST))
    num_tried = []

    def no_memory() -> Engine:
        num_tried.append(1)
        raise MemoryBudgetError("nothing is free")

    made.dog._make_engine = no_memory
    wait_for(lambda: not made.dog.is_ready and len(num_tried) > 2)
    made.dog._make_engine = made.make
    wait_for(lambda: made.dog.is_ready)


def test_before_its_first_request_an_engine_is_ready() -> None:
    assert Watchdog(Faulty).is_ready


def test_an_idle_engine_has_no_thread_and_nobody_watches_it() -> None:
    made = Made()
    assert tokens_of(list(made.dog.worker.stream(REQUEST))) == WANTED
    wait_for(lambda: not threads("small4 engine") and not threads("small4 watchdog"))


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()
