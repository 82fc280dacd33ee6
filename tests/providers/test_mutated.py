"""Whatever bytes a provider sends, in any dialect, streamed or whole: an answer or an `UpstreamError`."""

import asyncio
import random
import re

import httpx2
import pytest

from small4.chat import Finish
from small4.errors import UpstreamError
from small4.providers.endpoint import DIALECTS, Dialect
from tests.providers.dialects import CALLER, CALLS, CUT_OFF, QUESTION, TEXT, provider_at, sent
from tests.providers.fault_server import EVENTS, JSON
from tests.providers.in_process import Pieces

VALUE = re.compile(rb'(?<=[:\[,])\s*("(?:[^"\\]|\\.)*"|[-\d.]+|null|true|false|\[\]|\{\})')
ODD = [
    *(b"null", b"true", b"-1", b"1e999", b"0.5", b"99999999999999999999", b"[]", b"{}", b"[null]", b'[[[["x"]]]]'),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'{"error": 1}', b'{"error": {"message": [], "code": "7"}}'),
]


def mutated(dice: random.Random, data: bytes) -> bytes:
    """The bytes with up to three faults: others in their place, some gone or doubled, or a value of another kind."""
    for _ in range(dice.randint(1, 3)):
        place, length = dice.randrange(len(data) or 1), dice.randint(1, 120)
        values = list(VALUE.finditer(data))
        match dice.choice(["byte", "cut", "double", "value", "value", "value"]):
            case "byte":
                data = data[:place] + bytes([dice.randrange(256)]) + data[place + 1 :]
            case "cut":
                data = data[:place] + data[place + length :]
            case "double":
                data = data[: place + length] + data[place:]
            case "value" if values:
                value = dice.choice(values)
                data = data[: value.start(1)] + dice.choice(ODD) + data[value.end(1) :]
    return data


async def outcome(dialect: Dialect, data: bytes, kind: str, cut: int) -> str:
    transport: httpx2.AsyncBaseTransport = Pieces([data[:cut], data[cut:]], kind)
    provider = provider_at("http://127.0.0.1", dialect, transport=transport)
    ended = False
    try:
        async for event in provider.stream(QUESTION, CALLER):
            assert not ended, "an event after the end"
            ended = isinstance(event.event, Finish)
    except UpstreamError:
        assert not ended, "an error after the end"
        return "error"
    assert ended
    return "answer"


async def episodes(num_episodes: int, seed: int) -> set[str]:
    dice = random.Random(seed)
    good = [(dialect, sent(dialect, *events)) for dialect in DIALECTS for events in (TEXT, CALLS, CUT_OFF)]
    seen = set()
    for _ in range(num_episodes):
        dialect, told = dice.choice(good)
        kind = dice.choice([EVENTS, EVENTS, JSON])
        data = mutated(dice, b"".join(told.events) if kind == EVENTS else told.body)
        seen.add(await outcome(dialect, data, kind, dice.randint(0, len(data))))
    return seen


def test_mutated_answers_are_answers_or_errors() -> None:
    assert asyncio.run(episodes(600, seed=1)) == {"answer", "error"}


@pytest.mark.slow
def test_a_hundred_thousand_mutated_answers_are_answers_or_errors() -> None:
    assert asyncio.run(episodes(100_000, seed=2)) == {"answer", "error"}
