"""A stream of events becomes one answer."""

import pytest

from small4.answer import Answer, Gathering, collect
from small4.chat import ChatEvent, Finish, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, ToolCallStart, Usage
from small4.errors import RequestError

EVENTS: tuple[ChatEvent, ...] = (
    ReasoningDelta("a"),
    ReasoningDelta("b"),
    TextDelta("c"),
    ToolCallStart(0, "id0", "add"),
    ToolCallDelta(0, '{"x": '),
    ToolCallStart(1, "id1", "stop"),
    ToolCallDelta(0, "1}"),
    Finish("tool_calls", Usage(3, 9, 2)),
)


def test_events_gather_into_text_reasoning_and_calls() -> None:
    calls = (ToolCall("id0", "add", '{"x": 1}'), ToolCall("id1", "stop", ""))
    assert collect(EVENTS) == Answer("c", "ab", calls, "tool_calls", Usage(3, 9, 2))


def test_a_stream_without_finish_is_an_error() -> None:
    with pytest.raises(RequestError, match="without a Finish"):
        collect([TextDelta("a")])


def test_what_has_come_can_be_told_before_the_end() -> None:
    gathering = Gathering()
    for event in EVENTS[:5]:
        gathering.add(event)
    calls = (ToolCall("id0", "add", '{"x": '),)
    assert gathering.answer() == Answer("c", "ab", calls, "aborted", Usage())
