"""The scripted provider replays what it was given, and streams gather into answers."""

import asyncio
from contextlib import aclosing

import pytest

from small4.answer import Answer
from small4.chat import AnswerEvent, ChatRequest, Finish, Message, TextDelta, Usage
from small4.errors import BusyError, RequestError
from small4.providers.provider import Caller, Provider, collect
from small4.providers.scripted import HELLO, Pause, ScriptedProvider

REQUEST = ChatRequest(messages=(Message("user", "What do you say?"),))
CALLER = Caller(name="somebody")
TWO = (
    AnswerEvent(1, TextDelta("b")),
    AnswerEvent(0, TextDelta("a")),
    AnswerEvent(1, Finish("stop", Usage(4, 1))),
    AnswerEvent(0, Finish("length", Usage(4, 1))),
)


def test_a_script_is_replayed_and_the_last_one_again_and_again() -> None:
    provider = ScriptedProvider(TWO, HELLO)

    async def ask() -> list[list[Answer]]:
        return [await collect(provider.stream(REQUEST, CALLER)) for _ in range(3)]

    two, *hellos = asyncio.run(ask())
    assert two == [Answer("a", "", (), "length", Usage(4, 1)), Answer("b", "", (), "stop", Usage(4, 1))]
    assert hellos == [[Answer("Hello!", "", (), "stop", Usage(5, 3))]] * 2
    assert provider.requests == [(REQUEST, CALLER)] * 3


def test_an_exception_is_raised_where_it_stands() -> None:
    async def ask() -> None:
        provider: Provider = ScriptedProvider((TextDelta("a"), BusyError("later")))
        events = provider.stream(REQUEST, CALLER)
        assert await anext(events) == AnswerEvent(0, TextDelta("a"))
        with pytest.raises(BusyError):
            await anext(events)

    asyncio.run(ask())


@pytest.mark.parametrize("at_event", [True, False])
def test_a_stream_that_is_left_is_counted(at_event: bool) -> None:
    provider = ScriptedProvider((TextDelta("a"), Pause(60.0), *HELLO))

    async def leave() -> None:
        async with aclosing(provider.stream(REQUEST, CALLER)) as events:
            await anext(events)
            assert (provider.num_open, provider.num_left) == (1, 0)
            if not at_event:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.01)

    asyncio.run(leave())
    assert (provider.num_open, provider.num_left) == (0, 1)


def test_a_stream_without_finish_is_no_answer() -> None:
    with pytest.raises(RequestError, match="without a Finish"):
        asyncio.run(collect(ScriptedProvider((TextDelta("a"),)).stream(REQUEST, CALLER)))


def test_its_tokens_are_words() -> None:
    assert asyncio.run(ScriptedProvider().count_tokens(REQUEST)) == 4
