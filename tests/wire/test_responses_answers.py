"""Answers of the Responses API: whole and streamed as recorded, read back, and broken off."""

import json

import pytest

from small4.chat import AnswerEvent, Finish, TextDelta, TextPart, ThinkPart, ToolCallDelta, ToolCallStart, Usage
from small4.errors import EngineStoppedError, FieldError, RateLimitError, RequestError, UpstreamError
from small4.wire.openai_responses import Reader, format_error, format_item_list, parse_error
from small4.wire.problem import Problem
from small4.wire.sse import EventReader, ServerEvent, encode
from tests.wire.responses_exchanges import (
    EXCHANGES,
    PlainSealer,
    answer_of,
    ask,
    expected_stream,
    parse,
    read,
    streamed,
    writer,
)


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_an_answer_is_written_whole_as_recorded(exchange):
    made = writer(parse(exchange["request"]))
    for event in answer_of(exchange["answer"]):
        made.push(event)
    assert made.whole() == exchange["response"]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_an_answer_is_streamed_as_recorded(exchange):
    events = streamed(parse(exchange["request"]), answer_of(exchange["answer"]))
    assert [json.loads(event.data) for event in events] == expected_stream(exchange)
    assert [event.name for event in events] == [row["type"] for row in exchange["stream"]]


@pytest.mark.parametrize("has_open_names", [False, True])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_stream_is_read_back_as_the_events_that_were_written(exchange, has_open_names):
    answer = answer_of(exchange["answer"])
    assert read(streamed(parse(exchange["request"]), answer, has_open_names=has_open_names)) == answer


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_whole_answer_is_read_back_and_written_the_same(exchange):
    made = writer(parse(exchange["request"]))
    for event in Reader().whole(json.dumps(exchange["response"]).encode()):
        made.push(event)
    assert made.whole() == exchange["response"]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_stream_cut_at_any_byte_ends_in_an_error(exchange):
    answer = answer_of(exchange["answer"])
    data = b"".join(map(encode, streamed(parse(exchange["request"]), answer)))
    for end in range(len(data)):
        reader, sse = Reader(), EventReader()
        for event in sse.feed(data[:end]):
            assert not any(isinstance(each.event, Finish) for each in reader.feed(event))
        with pytest.raises(UpstreamError, match="in the middle"):
            reader.finish()


def test_a_sealed_thought_comes_back_as_it_was_written():
    call = ask(include=["reasoning.encrypted_content"], store=False)
    made = writer(call, sealer=PlainSealer())
    for event in answer_of([["thought", "deep"], ["text", "yes"], ["finish", "stop", {}]]):
        made.push(event)
    item = made.whole()["output"][0] | {"content": []}
    assert item["encrypted_content"] == "SEALED deep"
    again = ask(input=[{"role": "user", "content": "a"}, item, {"role": "assistant", "content": "yes"}])
    assert again.request.messages[1].content == (ThinkPart("deep"), TextPart("yes"))


def test_thoughts_are_sealed_only_where_the_caller_asks_for_it():
    made = writer(ask(), sealer=PlainSealer())
    for event in answer_of([["thought", "deep"], ["finish", "stop", {}]]):
        made.push(event)
    assert made.whole()["output"][0]["encrypted_content"] is None


def test_a_fault_in_a_stream_is_an_error_and_a_failed_response():
    made = writer(ask())
    events = [*made.start(), *made.push(AnswerEvent(0, TextDelta("He")))]
    events += made.fail(Problem("overloaded", "the engine stopped"))
    error, failed = (json.loads(event.data) for event in events[-2:])
    assert error["type"] == "error"
    assert error["error"] | {"type": 0} == {"type": 0, "code": None, "message": "the engine stopped", "param": None}
    assert (error["message"], error["code"], error["param"]) == ("the engine stopped", None, None)
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "the engine stopped"}
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert [json.loads(event.data)["sequence_number"] for event in events] == list(range(len(events)))
    with pytest.raises(UpstreamError, match="the engine stopped"):
        read(events)
    with pytest.raises(UpstreamError, match="the engine stopped"):
        read([*events[:-2], events[-1]])


@pytest.mark.parametrize("reason", ["aborted", "error"])
def test_an_answer_that_broke_off_is_never_a_response(reason):
    made = writer(ask())
    made.start()
    made.push(AnswerEvent(0, TextDelta("He")))
    made.push(AnswerEvent(0, Finish(reason, Usage())))
    assert made.finish()[-1].name == "response.failed"
    with pytest.raises(EngineStoppedError):
        made.whole()


def test_text_after_a_call_opens_a_message_of_its_own():
    made = writer(ask())
    rows = [["text", "a"], ["call", 0, "aB3dE6gH9", "f"], ["arguments", 0, "{}"], ["text", "b"], ["finish", "stop", {}]]
    for event in answer_of(rows):
        made.push(event)
    assert [item["type"] for item in made.whole()["output"]] == ["message", "function_call", "message"]
    assert len({item["id"] for item in made.whole()["output"]}) == 3


def test_summaries_stand_in_for_a_thought_that_is_not_shown():
    rows = [
        {"type": "response.reasoning_summary_part.added", "output_index": 0},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "First."},
        {"type": "response.reasoning_summary_part.added", "output_index": 0},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Second."},
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "First."}]}},
        {"type": "response.web_search_call.searching", "output_index": 1},
        {"type": "response.output_item.done", "output_index": 1, "item": {"type": "tool_search_call", "arguments": {}}},
        {"type": "response.completed", "response": {"status": "completed", "output": [], "usage": None}},
    ]  # fmt: skip
    texts = [answer.event.text for answer in read([ServerEvent(json.dumps(row)) for row in rows])[:-1]]
    assert "".join(texts) == "First.\n\nSecond."


def test_items_that_came_without_deltas_are_read_from_their_end():
    rows = [
        {"type": "response.output_item.done", "output_index": 0,
         "item": {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}},
        {"type": "response.output_item.done", "output_index": 1,
         "item": {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}},
        {"type": "response.completed", "response": {"status": "completed"}},
    ]  # fmt: skip
    events = [answer.event for answer in read([ServerEvent(json.dumps(row)) for row in rows])]
    assert events[:3] == [TextDelta("Hi"), ToolCallStart(0, "call_1", "f"), ToolCallDelta(0, "{}")]
    assert events[3].reason == "tool_calls"


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"type": 7},
        {"type": "error", "code": "server_error", "message": "no"},
        {"type": "error", "error": {"message": "no"}},
        {"type": "response.completed"},
        {"type": "response.completed", "response": {"status": "queued"}},
        {"type": "response.incomplete", "response": {"status": "incomplete"}},
        {"type": "response.cancelled", "response": {"status": "cancelled"}},
        {"type": "response.failed", "response": {"status": "failed", "error": {"code": "x", "message": "no"}}},
        {"type": "response.output_text.delta", "delta": 7},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.output_item.added", "item": {"type": "function_call"}},
    ],
)
def test_faults_and_nonsense_of_a_provider_are_upstream_errors(row):
    with pytest.raises(UpstreamError):
        Reader().feed(ServerEvent(json.dumps(row)))


def test_errors_have_the_shape_of_openai_and_are_read_back():
    problem = Problem("invalid", "top_p: too large", param="top_p")
    body = format_error(problem)
    assert body["error"] == {
        "message": "top_p: too large",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": None,
    }
    assert isinstance(parse_error(400, json.dumps(body).encode()), RequestError)
    assert isinstance(parse_error(429, b"{}"), RateLimitError)
    assert isinstance(parse_error(500, b"\xff"), UpstreamError)


def test_lists_of_items_come_in_pages():
    items = [{"id": f"in_{number}"} for number in range(5)]
    page = format_item_list(items, limit=2, after="in_3")
    assert [item["id"] for item in page["data"]] == ["in_2", "in_1"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("in_2", "in_1", True)
    assert not format_item_list(items, is_ascending=True)["has_more"]
    for wrong in ({"limit": 0}, {"limit": 101}, {"after": "in_9"}):
        with pytest.raises(FieldError):
            format_item_list(items, **wrong)
