"""Answers of Google's dialect, there and back: streams, whole bodies, errors, lists."""

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
    FieldError,
    RateLimitError,
    UpstreamError,
    UpstreamKeyError,
    UpstreamTimeoutError,
)
from small4.wire import google
from small4.wire.call import Call
from small4.wire.google import Reader, Writer
from small4.wire.google_request import GenerateForm
from small4.wire.json_array import ArrayEncoder
from small4.wire.model_entry import ModelEntry
from small4.wire.problem import STATUS, Problem, problem_of
from small4.wire.sse import EventReader, ServerEvent, encode
from tests.wire.exchanges import RUNS, USAGES, changed, events_of, joined
from tests.wire.google_exchanges import EXCHANGES, HEAD, PLAIN, config, each_exchange, parse


def read(events: list[ServerEvent], num_answers=1) -> list[AnswerEvent]:
    reader = Reader(num_answers)
    return [answer for event in events for answer in reader.feed(event)] + reader.finish()


def read_whole(body, num_answers=1) -> list[AnswerEvent]:
    return Reader(num_answers).whole(json.dumps(body).encode())


def write(writer: Writer, events: list[AnswerEvent]) -> list[ServerEvent]:
    return [*writer.start(), *(line for event in events for line in writer.push(event)), *writer.finish()]


def golden_events(exchange) -> list[AnswerEvent]:
    return read([ServerEvent(json.dumps(data)) for data in exchange["stream"]], len(exchange["answer"]["candidates"]))


@each_exchange
def test_a_golden_stream_is_written_as_it_was_read(exchange):
    written = write(Writer(parse(exchange["request"]), HEAD), golden_events(exchange))
    assert [json.loads(event.data) for event in written] == exchange["stream"]
    array = ArrayEncoder()
    assert json.loads(b"".join(map(array.encode, written)) + array.end()) == exchange["stream"]


@each_exchange
def test_a_golden_answer_is_written_as_it_was_read(exchange):
    streamed = golden_events(exchange)
    whole = read_whole(exchange["answer"], len(exchange["answer"]["candidates"]))
    key = lambda event: event.index  # noqa: E731
    assert joined(sorted(whole, key=key)) == joined(sorted(streamed, key=key))
    writer = Writer(parse(exchange["request"]), HEAD)
    for event in streamed:
        writer.push(event)
    assert writer.whole() == exchange["answer"]


@each_exchange
def test_a_stream_cut_anywhere_ends_in_an_error(exchange):
    data = b"".join(encode(ServerEvent(json.dumps(data))) for data in exchange["stream"])
    lines, reader = EventReader(), Reader(len(exchange["answer"]["candidates"]))
    for place in range(len(data)):
        with pytest.raises(UpstreamError):
            reader.finish()  # as if the connection had ended here
        seen = [answer for event in lines.feed(data[place : place + 1]) for answer in reader.feed(event)]
        is_whole = place == len(data) - 1
        assert is_whole or not any(isinstance(answer.event, Finish) for answer in seen)
    assert any(isinstance(answer.event, Finish) for answer in [*seen, *reader.finish()])


@settings(max_examples=50)
@given(runs=RUNS, usage=USAGES, end=st.sampled_from(["stop", "length", "filtered"]))
def test_what_is_written_is_read(runs, usage, end):
    if end == "stop" and any(isinstance(run[0], str) for run in runs):
        end = "tool_calls"
    events = events_of(runs, Finish(end, usage))
    call = Call(request=ChatRequest(messages=()), model="m", form=GenerateForm(shows_thoughts=True))
    writer = Writer(call, HEAD)
    assert meant(read(write(writer, events))) == meant(events)
    assert meant(read_whole(writer.whole())) == meant(events)


def meant(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """The events, whatever the blanks in arguments."""
    return [
        replace(event, event=ToolCallDelta(event.event.index, json.dumps(json.loads(event.event.arguments))))
        if isinstance(event.event, ToolCallDelta)
        else event
        for event in joined(events)
    ]


def test_an_empty_array_is_an_array():
    assert json.loads(ArrayEncoder().end()) == []


def test_thoughts_are_written_only_for_those_who_asked():
    for shows, expected in ((True, [{"text": "So.", "thought": True}]), (False, [])):
        writer = Writer(parse(config(thinkingConfig={"thinkingBudget": -1, "includeThoughts": shows})), HEAD)
        writer.push(AnswerEvent(0, ReasoningDelta("So.")))
        writer.push(AnswerEvent(0, Finish("stop", Usage(1, 3, 2))))
        assert writer.whole()["candidates"][0]["content"]["parts"] == expected
        assert writer.whole()["usageMetadata"]["thoughtsTokenCount"] == 2


@pytest.mark.parametrize(("end", "word"), [("tool_calls", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")])
def test_arguments_that_are_no_object_are_told_at_the_end(end, word):
    writer = Writer(parse(PLAIN), HEAD)
    for event in (ToolCallStart(0, "a1B2c3D4e", "f"), ToolCallDelta(0, '{"a": '), Finish(end, Usage())):
        writer.push(AnswerEvent(0, event))
    (candidate,) = writer.whole()["candidates"]
    assert candidate["finishReason"] == word
    assert candidate["finishMessage"] == 'the arguments of a call of f are no JSON object: {"a": '
    if end == "tool_calls":
        with pytest.raises(UpstreamError, match="MALFORMED_FUNCTION_CALL: the arguments"):
            read_whole(writer.whole())


def test_a_broken_answer_ends_in_an_error():
    ends = [
        (None, EngineStoppedError, "UNAVAILABLE"),
        (Finish("error", Usage(), error=KeyError("secret")), KeyError, "INTERNAL"),
    ]
    for finish, kind, word in ends:
        writer = Writer(parse(PLAIN), HEAD)
        if finish is not None:
            writer.push(AnswerEvent(0, finish))
        (event,) = writer.finish()
        assert json.loads(event.data)["error"]["status"] == word
        assert "secret" not in event.data
        with pytest.raises(kind):
            writer.whole()
        with pytest.raises(UpstreamError):
            Reader().feed(event)


@settings(max_examples=30)
@given(data=st.data())
def test_nothing_that_a_provider_sends_raises_anything_but_an_upstream_error(data):
    exchange = data.draw(st.sampled_from(EXCHANGES))
    with suppress(UpstreamError):
        Reader(2).whole(json.dumps(changed(exchange["answer"], data)).encode())
    reader = Reader(2)
    with suppress(UpstreamError):
        for event in changed(exchange["stream"], data):
            reader.feed(ServerEvent(json.dumps(event)))
        reader.finish()


@pytest.mark.parametrize(
    "data",
    [
        "nonsense",
        "[]",
        '{"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}}',
        '{"error": "x"}',
        '{"candidates": [{"index": 1}]}',
        '{"candidates": [{"index": -1}]}',
        '{"candidates": [{"finishReason": "OTHER"}]}',
        '{"candidates": [{"finishReason": "BRAND_NEW"}]}',
        '{"candidates": [{"content": {"parts": [{"executableCode": {"code": "1"}}]}}]}',
        '{"candidates": [{"logprobsResult": {"chosenCandidates": [{}], "topCandidates": [{}, {}]}}]}',
        '{"candidates": 7}',
    ],
)
def test_a_providers_fault_or_nonsense_is_an_upstream_error(data):
    with pytest.raises(UpstreamError):
        Reader().feed(ServerEvent(data))


def test_a_blocked_prompt_is_a_filtered_answer():
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    assert read_whole(body) == [AnswerEvent(0, Finish("filtered", Usage(5)))]


def test_calls_without_ids_get_their_own():
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    body = {"candidates": [{"content": {"parts": [call, call]}, "finishReason": "STOP"}], "responseId": "x"}
    start, arguments, second, _, finish = [event.event for event in read_whole(body)]
    assert (start.index, second.index, len({start.id, second.id, "123456789"})) == (0, 1, 3)
    assert len(start.id) == len(second.id) == 9
    assert arguments == ToolCallDelta(0, '{"a": 1}')
    assert finish == Finish("tool_calls", Usage(is_estimated=True))


@pytest.mark.parametrize("kind", STATUS)
def test_every_problem_is_an_error_body_that_reads_as_an_error(kind):
    problem = Problem(kind, "why", param="a.b", retry_after_seconds=2.5)
    body = google.format_error(problem)
    assert (body["error"]["code"], body["error"]["message"]) == (problem.status, "why")
    error = google.parse_error(problem.status, json.dumps(body).encode())
    kinds = {400: FieldError, 413: FieldError, 429: RateLimitError}
    kinds |= {401: UpstreamKeyError, 403: UpstreamKeyError, 504: UpstreamTimeoutError}
    assert type(error) is kinds.get(problem.status, UpstreamError)
    if isinstance(error, RateLimitError):
        assert error.retry_after_seconds == 2.5
    if isinstance(error, FieldError):
        assert error.param == "a.b"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {"message": 7}}'])
def test_an_error_without_a_reason_says_so(body):
    error = google.parse_error(500, body)
    assert (str(error), error.status) == ("the provider answered with HTTP 500: no reason given", 500)


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_agents_look_for():
    body = google.format_error(problem_of(ContextLengthError("9 tokens, the limit is 8")))
    assert body["error"]["message"].startswith("The input token count exceeds the maximum")
    assert type(google.parse_error(400, json.dumps(body).encode())) is ContextLengthError


def test_models_are_listed_under_their_names():
    entry = ModelEntry(id="a/b", name="A", created=0, owner="o", context_length=9, max_tokens=5)
    (model,) = google.format_models([entry])["models"]
    assert (model["name"], model["inputTokenLimit"], model["outputTokenLimit"]) == ("models/a/b", 9, 5)
    assert model["thinking"] is True
    assert google.format_model(replace(entry, default_temperature=0.1))["temperature"] == 0.1


def test_an_answer_that_is_empty_still_ends():
    writer = Writer(parse(PLAIN), HEAD)
    events = [AnswerEvent(0, TextDelta("")), AnswerEvent(0, Finish("stop", Usage()))]
    assert joined(read(write(writer, events))) == events[1:]
