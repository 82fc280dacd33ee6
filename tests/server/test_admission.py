"""The line before the models: bounded, and fair between keys."""

import asyncio

import pytest

from small4.errors import BusyError, RateLimitError
from small4.server.admission import Admission
from small4.server.bounds import Bounds


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Requests that take a place, note it, and stay until they are told to go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task] = {}
        self.go: dict[str, asyncio.Event] = {}

    def ask(self, name: str, key: str) -> None:
        self.go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, key))

    async def _stay(self, name: str, key: str) -> None:
        async with self.admission.place(key):
            self.served.append(name)
            await self.go[name].wait()

    async def leave(self, name: str) -> None:
        self.go[name].set()
        await self.tasks[name]
        await settle()


def test_no_more_run_at_once_than_allowed_and_the_next_follows():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=2)))
        for name in "abc":
            crowd.ask(name, "key")
        await settle()
        assert crowd.served == ["a", "b"]
        await crowd.leave("a")
        assert crowd.served == ["a", "b", "c"]
        await crowd.leave("b")
        await crowd.leave("c")
        assert (crowd.admission.num_running, crowd.admission.num_queued) == (0, 0)

    asyncio.run(check())


def test_greedy_key_does_not_hold_back_another():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=2)))
        for number in range(6):
            crowd.ask(f"greedy {number}", "greedy")
        await settle()
        crowd.ask("modest", "modest")
        await settle()
        await crowd.leave("greedy 0")
        assert crowd.served[-1] == "modest"
        await crowd.leave("greedy 1")
        assert crowd.served[-1] == "greedy 2"
        for task in crowd.tasks.values():
            task.cancel()
        await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
        assert (crowd.admission.num_running, crowd.admission.num_queued) == (0, 0)

    asyncio.run(check())


def test_keys_with_equal_shares_take_turns():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=1)))
        crowd.ask("first", "x")
        for number in range(3):
            for key in "abc":
                crowd.ask(f"{key}{number}", key)
        await settle()
        served = ["first"]
        for _ in range(9):
            await crowd.leave(served[-1])
            served.append(crowd.served[-1])
        assert served[1:] == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
        await crowd.leave("c2")

    asyncio.run(check())


def test_full_line_is_busy_and_a_key_with_a_full_line_is_told_so():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=1, max_queued=3, max_queued_per_key=2)))
        for number in range(3):
            crowd.ask(f"a{number}", "a")
        await settle()
        with pytest.raises(RateLimitError):
            async with crowd.admission.place("a"):
                pass
        crowd.ask("b", "b")
        await settle()
        with pytest.raises(BusyError):
            async with crowd.admission.place("c"):
                pass
        for task in crowd.tasks.values():
            task.cancel()

    asyncio.run(check())


def test_who_waited_too_long_is_refused_and_leaves_the_line():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=1, queue_seconds=0.01)))
        crowd.ask("a", "a")
        await settle()
        with pytest.raises(BusyError, match="no place"):
            async with crowd.admission.place("b"):
                pass
        assert crowd.admission.num_queued == 0
        await crowd.leave("a")
        assert crowd.admission.num_running == 0

    asyncio.run(check())


def test_who_leaves_the_line_in_the_moment_of_its_turn_gives_the_place_on():
    async def check():
        crowd = Crowd(Admission(Bounds(max_concurrent=1)))
        for name in "abc":
            crowd.ask(name, name)
        await settle()
        crowd.go["a"].set()
        await asyncio.sleep(0)  # a has left, b was called, and has not run since
        crowd.tasks["b"].cancel()
        await settle()
        assert crowd.served == ["a", "c"]
        await crowd.leave("c")
        assert crowd.admission.num_running == 0

    asyncio.run(check())
