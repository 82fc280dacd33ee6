"""Answers of Anthropic's dialect, there and back: streams, whole bodies, errors, lists."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.chat import (
    AnswerEvent,
    ChatRequest,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import (
    ContextLengthError,
    EngineStoppedError,
    RateLimitError,
    RequestError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamTimeoutError,
)
from small4.wire import anthropic
from small4.wire.anthropic import Reader, Writer
from small4.wire.call import Call
from small4.wire.model_entry import ModelEntry
from small4.wire.problem import STATUS, Problem, problem_of
from small4.wire.sse import EventReader, ServerEvent, encode
from tests.wire.anthropic_exchanges import EXCHANGES, HEAD, PLAIN, each_exchange, parse
from tests.wire.exchanges import RUNS, SIGNER, TEXTS, USAGES, changed, events_of, joined


def read(events: list[ServerEvent]) -> list[AnswerEvent]:
    reader = Reader()
    return [answer for event in events for answer in reader.feed(event)] + reader.finish()


def write(writer: Writer, events: list[AnswerEvent]) -> list[ServerEvent]:
    return [*writer.start(), *(line for event in events for line in writer.push(event)), *writer.finish()]


def golden_events(exchange) -> list[AnswerEvent]:
    events = read([ServerEvent(json.dumps(data), name) for name, data in exchange["stream"]])
    hidden = [AnswerEvent(0, ReasoningDelta(exchange["hidden"]))] if "hidden" in exchange else []
    return [*hidden, *events]


@each_exchange
def test_a_golden_stream_is_written_as_it_was_read(exchange):
    written = write(Writer(parse(exchange["request"]), HEAD, SIGNER), golden_events(exchange))
    assert [[event.name, json.loads(event.data)] for event in written] == exchange["stream"]


@each_exchange
def test_a_golden_answer_is_written_as_it_was_read(exchange):
    streamed = golden_events(exchange)
    whole = Reader().whole(json.dumps(exchange["answer"]).encode())
    if "hidden" not in exchange:
        assert joined(whole) == joined(streamed)
    writer = Writer(parse(exchange["request"]), HEAD, SIGNER)
    for event in streamed:
        writer.push(event)
    assert writer.whole() == exchange["answer"]


@each_exchange
def test_a_stream_cut_anywhere_ends_in_an_error(exchange):
    data = b"".join(encode(ServerEvent(json.dumps(data), name)) for name, data in exchange["stream"])
    lines, reader = EventReader(), Reader()
    for place in range(len(data)):
        with pytest.raises(UpstreamError):
            reader.finish()  # as if the connection had ended here
        seen = [answer for event in lines.feed(data[place : place + 1]) for answer in reader.feed(event)]
        is_whole = place == len(data) - 1
        assert is_whole or not any(isinstance(answer.event, Finish) for answer in seen)
    assert any(isinstance(answer.event, Finish) for answer in [*seen, *reader.finish()])


@settings(max_examples=50)
@given(
    runs=RUNS,
    usage=USAGES,
    end=st.sampled_from(["stop", "length", "context", "tool_calls", "filtered"]),
    stop=st.none() | TEXTS,
)
def test_what_is_written_is_read(runs, usage, end, stop):
    if end == "stop" and stop is None and any(isinstance(run[0], str) for run in runs):
        end = "tool_calls"
    events = events_of(runs, Finish(end, usage, stop if end == "stop" else None))
    writer = Writer(Call(request=ChatRequest(messages=()), model="m"), HEAD, SIGNER)
    assert joined(read(write(writer, events))) == joined(events)
    assert joined(Reader().whole(json.dumps(writer.whole()).encode())) == joined(events)


def test_a_providers_stream_counts_the_prompt_at_its_beginning():
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 1}
    message = {"id": "msg_x", "content": [], "usage": usage, "stop_reason": None}
    events = [
        {"type": "message_start", "message": message},
        {"type": "ping"},
        {"type": "a_new_event", "delta": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f"},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 8}},
        {"type": "message_stop"},
    ]
    answers = read([ServerEvent(json.dumps(event), event["type"]) for event in events])
    start, arguments, finish = [answer.event for answer in answers]
    assert (start.index, start.name, len(start.id)) == (0, "f", 9)
    assert arguments == ToolCallDelta(0, "{}")
    assert finish == Finish("tool_calls", Usage(10, 8, 0, 2))


@settings(max_examples=30)
@given(data=st.data())
def test_nothing_that_a_provider_sends_raises_anything_but_an_upstream_error(data):
    exchange = data.draw(st.sampled_from(EXCHANGES))
    with suppress(UpstreamError):
        Reader().whole(json.dumps(changed(exchange["answer"], data)).encode())
    reader = Reader()
    with suppress(UpstreamError):
        for event in changed([data for _, data in exchange["stream"]], data):
            reader.feed(ServerEvent(json.dumps(event)))
        reader.finish()


@pytest.mark.parametrize(
    "data",
    [
        "nonsense",
        "[]",
        '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',
        '{"type": "error"}',
        '{"type": "content_block_start", "content_block": {"type": "server_tool_use", "id": "x"}}',
        '{"type": "content_block_delta", "delta": {"partial_json": "{"}}',
        '{"type": "content_block_delta", "delta": {"text": 7}}',
        '{"type": "message_stop"}',
    ],
)
def test_a_providers_fault_or_nonsense_is_an_upstream_error(data):
    with pytest.raises(UpstreamError):
        Reader().feed(ServerEvent(data))


@pytest.mark.parametrize("reason", ["pause_turn", "brand_new", None])
def test_an_end_without_a_known_reason_is_an_upstream_error(reason):
    answer = {"content": [], "usage": {}, "stop_reason": reason}
    with pytest.raises(UpstreamError):
        Reader().whole(json.dumps(answer).encode())


def test_a_broken_answer_ends_in_an_error_event():
    ends = [
        (None, EngineStoppedError, "overloaded_error"),
        (Finish("aborted", Usage()), EngineStoppedError, "overloaded_error"),
        (Finish("error", Usage(), error=UpstreamError("gone")), UpstreamError, "api_error"),
        (Finish("error", Usage(), error=KeyError("secret")), KeyError, "api_error"),
    ]
    for finish, kind, word in ends:
        writer = Writer(parse(PLAIN), HEAD, SIGNER)
        if finish is not None:
            writer.push(AnswerEvent(0, finish))
        (event,) = writer.finish()
        assert event.name == "error"
        assert json.loads(event.data)["error"]["type"] == word
        assert "secret" not in event.data
        with pytest.raises(kind):
            writer.whole()
    (event,) = Writer(parse(PLAIN), HEAD, SIGNER).fail(Problem("overloaded", "full"))
    assert json.loads(event.data) == {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}


def test_arguments_that_are_no_object_are_kept_as_text():
    writer = Writer(parse(PLAIN), HEAD, SIGNER)
    for event in (ToolCallStart(0, "a1B2c3D4e", "f"), ToolCallDelta(0, '{"a": '), Finish("length", Usage())):
        writer.push(AnswerEvent(0, event))
    (block,) = writer.whole()["content"]
    assert block["input"] == {"INVALID_JSON": '{"a": '}
    body = PLAIN | {"messages": [*PLAIN["messages"], {"role": "assistant", "content": [block]}]}
    assert parse(body).request.messages[1].tool_calls[0].arguments == '{"a": '


@pytest.mark.parametrize("kind", STATUS)
def test_every_problem_is_an_error_body_that_reads_as_an_error(kind):
    problem = Problem(kind, "why")
    body = anthropic.format_error(problem, "req_1")
    assert body["error"]["message"] == "why"
    assert body["request_id"] == "req_1"
    status = anthropic.error_status(problem)
    assert status == (529 if kind == "overloaded" else problem.status)
    error = anthropic.parse_error(status, json.dumps(body).encode())
    kinds = {400: RequestError, 413: RequestError, 429: RateLimitError}
    kinds |= {401: UpstreamKeyError, 403: UpstreamKeyError, 504: UpstreamTimeoutError}
    assert type(error) is kinds.get(status, UpstreamError)
    assert ("why" in str(error)) is (status not in (401, 403))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {"message": 7}}'])
def test_an_error_without_a_reason_says_so(body):
    error = anthropic.parse_error(500, body)
    assert (str(error), error.status) == ("the provider answered with HTTP 500: no reason given", 500)


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_agents_look_for():
    body = anthropic.format_error(problem_of(ContextLengthError("9 tokens, the limit is 8")))
    assert body["error"]["message"] == "prompt is too long: 9 tokens, the limit is 8"
    assert type(anthropic.parse_error(400, json.dumps(body).encode())) is ContextLengthError


def test_models_are_listed_on_one_page():
    entry = ModelEntry(id="a", name="A", created=0, owner="o", context_length=9, max_tokens=5, has_reasoning=False)
    page = anthropic.format_models([entry, replace(entry, id="b")])
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", False)
    first = page["data"][0]
    assert (first["created_at"], first["max_input_tokens"], first["max_tokens"]) == ("1970-01-01T00:00:00Z", 9, 5)
    assert first["capabilities"]["thinking"]["supported"] is False
    assert first["capabilities"]["image_input"]["supported"] is True
    assert anthropic.format_models([])["first_id"] is None


def test_text_deltas_that_are_empty_do_no_harm():
    writer = Writer(parse(PLAIN), HEAD, SIGNER)
    events = [AnswerEvent(0, TextDelta("")), AnswerEvent(0, Finish("stop", Usage()))]
    assert joined(read(write(writer, events))) == events[1:]
