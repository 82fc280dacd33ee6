"""What a provider tells of its tokens is taken as far as it can be true, and what it does not tell is estimated."""

import pytest

from small4.chat import AnswerEvent, ChatRequest, Finish, Message, TextDelta, Usage
from small4.providers.estimate import Tally

QUESTION = ChatRequest(messages=(Message("user", "Say hello."),))  # 10 bytes and the marks: 7 tokens


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        (Usage(5, 9, 3, 2), Usage(5, 9, 3, 2)),
        (Usage(5, 9, reasoning_tokens=340), Usage(5, 349, 340, 0, is_estimated=True)),  # thoughts counted apart
        (Usage(5, 9, cached_tokens=500), Usage(505, 9, 0, 500, is_estimated=True)),
        (Usage(0, 9, cached_tokens=500, is_estimated=True), Usage(500, 9, 0, 500, is_estimated=True)),
        (Usage(5, 0, reasoning_tokens=40, is_estimated=True), Usage(5, 42, 40, 0, is_estimated=True)),
        (Usage(-3, 9), Usage(7, 9, is_estimated=True)),
        (Usage(5, 2**50), Usage(5, 2, is_estimated=True)),
    ],
)
def test_parts_never_exceed_their_whole(told: Usage, taken: Usage) -> None:
    tally = Tally(QUESTION)
    tally.settle(AnswerEvent(0, TextDelta("Hello.")))
    assert tally.settle(AnswerEvent(0, Finish("stop", told))).event == Finish("stop", taken)
