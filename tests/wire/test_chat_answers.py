"""Answers of the Chat Completions dialects: whatever is written is read back, and what is half is never whole."""

import json
from dataclasses import replace
from types import ModuleType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small4.answer import collect
from small4.chat import (
    AnswerEvent,
    ChatEvent,
    Finish,
    ReasoningDelta,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from small4.errors import UpstreamError
from small4.wire import mistral, openai_chat, openai_text
from small4.wire.call import Call, Head
from small4.wire.problem import Problem
from small4.wire.sse import EventReader, ServerEvent, encode

HEAD = Head("h1", 1763600000, "m")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}
TEXT = {"model": "m", "prompt": "Hi", "logprobs": 2}

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5)
counts = st.integers(0, 2**31)
usages = st.builds(Usage, counts, counts, counts, counts)
scored = st.builds(ScoredToken, st.integers(0, 2**17), st.binary(max_size=4), st.floats(-9999, 0))
logprobs = st.lists(st.builds(TokenLogprobs, scored, st.lists(scored, max_size=2).map(tuple)), max_size=2).map(tuple)


@st.composite
def calls(draw: st.DrawFn) -> list[ChatEvent]:
    events: list[ChatEvent] = []
    for index in range(draw(st.integers(0, 3))):
        call_id = f"a1B2c3D4{index}"
        events.append(ToolCallStart(index, call_id, draw(st.sampled_from(["f", "g"]))))
        events += [ToolCallDelta(index, piece) for piece in draw(st.lists(words, max_size=3))]
    return events


@st.composite
def answers(draw: st.DrawFn, reasons: tuple[str, ...]) -> list[ChatEvent]:
    thought = draw(st.lists(words.map(ReasoningDelta), max_size=3))
    text = draw(st.lists(st.builds(TextDelta, words, logprobs), max_size=3))
    called = draw(calls())
    reason = "tool_calls" if called else draw(st.sampled_from(reasons))
    stop = draw(st.none() | words) if reason == "stop" else None
    return [*thought, *text, *called, Finish(reason, draw(usages), stop)]


def write(dialect: ModuleType, call: Call, events: list[AnswerEvent]) -> list[ServerEvent]:
    writer = dialect.Writer(call, HEAD)
    return writer.start() + [chunk for event in events for chunk in writer.push(event)] + writer.finish()


def read(dialect: ModuleType, chunks: list[ServerEvent], num_answers: int) -> list[AnswerEvent]:
    reader, bytes_ = dialect.Reader(num_answers), EventReader()
    data = b"".join(map(encode, chunks))
    events = [event for chunk in bytes_.feed(data) for event in reader.feed(chunk)]
    assert reader.finish() == []
    return events


def of(events: list[AnswerEvent], index: int) -> list[ChatEvent]:
    """One answer's events, with each call's arguments in one piece."""
    merged: list[ChatEvent] = []
    for event in (event.event for event in events if event.index == index):
        if isinstance(event, ToolCallDelta) and isinstance(merged[-1], ToolCallDelta):
            merged[-1] = replace(event, arguments=merged[-1].arguments + event.arguments)
        else:
            merged.append(event)
    return merged


CASES = [
    (openai_chat, form, ("stop", "length", "filtered"))
    for form in ("both", "reasoning", "reasoning_content", "thinking_chunks")
] + [(mistral, form, ("stop", "length", "context")) for form in ("thinking_chunks", "both")]


@pytest.mark.parametrize(("dialect", "form", "reasons"), CASES)
def test_streams_and_bodies_are_read_as_what_they_were_written_from(dialect, form, reasons) -> None:
    request = {**CHAT, "reasoning_format": form, "stream_options": {"include_usage": True}}

    @settings(max_examples=25, deadline=None)
    @given(events=answers(reasons))
    def run(events: list[ChatEvent]) -> None:
        numbered = [AnswerEvent(0, event) for event in events]
        streamed = dialect.parse_request({**request, "stream": True})
        assert of(read(dialect, write(dialect, streamed, numbered), 1), 0) == of(numbered, 0)
        whole = written_whole(dialect, dialect.parse_request(request), numbered)
        assert collect(event.event for event in dialect.Reader().whole(whole)) == collect(events)

    run()


@settings(max_examples=25, deadline=None)
@given(first=answers(("stop", "length")), second=answers(("stop",)), swaps=st.lists(st.booleans(), max_size=20))
def test_several_answers_are_kept_apart_however_they_interleave(first, second, swaps) -> None:
    waiting = [[AnswerEvent(index, event) for event in events] for index, events in enumerate((first, second))]
    events = []
    for takes_second in [*swaps, *[False] * 40]:
        queue = waiting[1 if (takes_second and waiting[1]) or not waiting[0] else 0]
        events += [queue.pop(0)] if queue else []
    events += waiting[1]
    for dialect in (openai_chat, mistral):
        call = dialect.parse_request({**CHAT, "n": 2, "stream": True, "stream_options": {"include_usage": True}})
        result = read(dialect, write(dialect, call, events), 2)
        for index in (0, 1):
            assert of(result, index)[:-1] == of(events, index)[:-1]
            assert result[-2 + index].event.reason == of(events, index)[-1].reason
        assert sum(event.event.usage.completion_tokens for event in result[-2:]) == sum(
            events[-1].usage.completion_tokens for events in (first, second)
        )


def written_whole(dialect: ModuleType, call: Call, events: list[AnswerEvent]) -> bytes:
    writer = dialect.Writer(call, HEAD)
    assert all(writer.push(event) == [] for event in events)
    return msgspec.json.encode(writer.whole())


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(words, max_size=4), usage=usages, reason=st.sampled_from(["stop", "length"]))
def test_text_completions_are_read_as_what_they_were_written_from(texts, usage, reason) -> None:
    scores = (TokenLogprobs(ScoredToken(None, b"a", -0.5), (ScoredToken(None, b"b", -1.5),)),)
    events = [AnswerEvent(0, TextDelta(text, scores)) for text in texts] + [AnswerEvent(0, Finish(reason, usage))]
    streamed = openai_text.parse_request({**TEXT, "stream": True, "stream_options": {"include_usage": True}})
    assert read(openai_text, write(openai_text, streamed, events), 1) == events
    whole = written_whole(openai_text, openai_text.parse_request(TEXT), events)
    assert collect(event.event for event in openai_text.Reader().whole(whole)) == collect(
        event.event for event in events
    )


def test_an_echoed_prompt_stands_before_the_text_and_offsets_count_from_it() -> None:
    call = openai_text.parse_request({"model": "m", "prompt": "Hi", "echo": True, "stream": True})
    events = [AnswerEvent(0, TextDelta("!")), AnswerEvent(0, Finish("stop", Usage(), "."))]
    chunks = [json.loads(chunk.data)["choices"][0] for chunk in write(openai_text, call, events)[:-1]]
    assert [chunk["text"] for chunk in chunks] == ["Hi", "!", ""]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert chunks[-1]["stop_reason"] == "."
    whole = json.loads(written_whole(openai_text, replace(call, is_stream=False), events))
    assert whole["choices"][0]["text"] == "Hi!"


def test_a_text_stream_cut_anywhere_is_an_error_and_never_an_end() -> None:
    call = openai_text.parse_request({**TEXT, "stream": True})
    events = [AnswerEvent(0, TextDelta("é")), AnswerEvent(0, Finish("stop", Usage()))]
    data = b"".join(map(encode, write(openai_text, call, events)))
    for cut in range(len(data)):
        reader, bytes_ = openai_text.Reader(), EventReader()
        events = [event for chunk in bytes_.feed(data[:cut]) for event in reader.feed(chunk)]
        assert not any(isinstance(event.event, Finish) for event in events)
        with pytest.raises(UpstreamError, match="ended before"):
            reader.finish()


def test_impossible_tokens_have_the_lowest_score_that_json_can_say() -> None:
    scores = (TokenLogprobs(ScoredToken(1, b"a", float("-inf"))),)
    events = [AnswerEvent(0, TextDelta("a", scores)), AnswerEvent(0, Finish("stop", Usage()))]
    body = json.loads(written_whole(openai_chat, openai_chat.parse_request(CHAT), events))
    (entry,) = body["choices"][0]["logprobs"]["content"]
    assert entry == {"token": "a", "logprob": -9999.0, "bytes": [97], "token_id": 1, "top_logprobs": []}


def test_hidden_reasoning_is_not_written_but_counted() -> None:
    events = [AnswerEvent(0, event) for event in (ReasoningDelta("a"), TextDelta("b"), Finish("stop", Usage(1, 3, 2)))]
    for dialect in (openai_chat, mistral):
        call = dialect.parse_request({**CHAT, "reasoning_format": "hidden"})
        body = json.loads(written_whole(dialect, call, events))
        assert body["choices"][0]["message"]["content"] == "b"
        assert "reasoning" not in body["choices"][0]["message"]
        assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
        streamed = write(dialect, replace(call, is_stream=True), events)
        assert [json.loads(chunk.data)["choices"][0]["delta"] for chunk in streamed[:-1]] == [
            {"role": "assistant", "content": ""},
            {"content": "b"},
            {},
        ]


def test_an_answer_with_calls_never_says_stop() -> None:
    events = [AnswerEvent(0, event) for event in (ToolCallStart(0, "a1B2c3D4e", "f"), Finish("stop", Usage()))]
    for dialect in (openai_chat, mistral):
        call = dialect.parse_request({**CHAT, "stream": True})
        assert json.loads(write(dialect, call, events)[-2].data)["choices"][0]["finish_reason"] == "tool_calls"
        body = written_whole(dialect, replace(call, is_stream=False), events)
        assert json.loads(body)["choices"][0]["finish_reason"] == "tool_calls"
        said_stop = body.replace(b'"finish_reason":"tool_calls"', b'"finish_reason":"stop"')
        assert dialect.Reader().whole(said_stop)[-1].event.reason == "tool_calls"


def test_a_fault_ends_a_stream_without_its_end() -> None:
    for dialect in (openai_chat, mistral, openai_text):
        base = TEXT if dialect is openai_text else CHAT
        writer = dialect.Writer(dialect.parse_request({**base, "stream": True}), HEAD)
        chunks = [*writer.start(), *writer.push(AnswerEvent(0, TextDelta("a"))), *writer.fail(Problem("internal", "x"))]
        assert "[DONE]" not in [chunk.data for chunk in chunks]
        reader = dialect.Reader()
        with pytest.raises(UpstreamError):
            [reader.feed(chunk) for chunk in chunks]


def chunk(delta: dict, **more) -> ServerEvent:
    return ServerEvent(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}))


def call_piece(**fields) -> ServerEvent:
    return chunk({"tool_calls": [fields]})


END = [chunk({}, finish_reason="tool_calls"), ServerEvent("[DONE]")]


@pytest.mark.parametrize(
    "chunks",
    [
        [  # two calls in one chunk, without index
            chunk({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}},
                                  {"id": "b", "function": {"name": "g", "arguments": {}}}]})
        ],
        [  # whole calls that all have the index 0
            call_piece(index=0, id="a", function={"name": "f", "arguments": "{}"}),
            call_piece(index=0, id="b", function={"name": "g", "arguments": "{}"}),
        ],
        [  # pieces of two calls in turn; the id repeated in each piece
            call_piece(index=0, id="a", type="function", function={"name": "f", "arguments": ""}),
            call_piece(index=3, id="b", type="function", function={"name": "g"}),
            call_piece(index=0, id="a", function={"arguments": "{}"}),
            call_piece(index=3, function={"arguments": "{}"}),
        ],
    ],
)  # fmt: skip
def test_calls_are_read_however_a_provider_numbers_them(chunks) -> None:
    reader = openai_chat.Reader()
    answer = collect(event.event for chunk in [*chunks, *END] for event in reader.feed(chunk))
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("a", "f", "{}"), ("b", "g", "{}")]
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("message", "chunks"),
    [
        ("no chat completion", [ServerEvent("{}")]),
        ("no chat completion", [ServerEvent("nonsense")]),
        ("no chat completion", [ServerEvent('{"choices":7}')]),
        ("no chat completion", [ServerEvent("[" * 100_000)]),
        ("broke off: too busy", [ServerEvent('{"error":{"message":"too\\nbusy"}}')]),
        ("broke off: too busy", [ServerEvent('{"error":"too busy"}')]),
        ("broke off: too busy", [ServerEvent('{"object":"error","message":"too busy"}')]),
        ("with an error", [chunk({}, finish_reason="error")]),
        ("unknown reason 'tired'", [chunk({}, finish_reason="tired")]),
        ("no finish reason", [chunk({"content": "a"}), ServerEvent("[DONE]")]),
        ("went on", [chunk({}, finish_reason="stop"), chunk({"content": "a"})]),
        ("without its id or name", [call_piece(index=0, function={"arguments": "{}"})]),
        ("'document_url'", [chunk({"content": [{"type": "document_url"}]})]),
        ("sent answer 1, 1 were asked", [ServerEvent('{"choices":[{"index":1,"delta":{}}]}')]),
        ("ended before", [chunk({"content": "a"}), chunk({}, finish_reason="stop")]),
    ],
)
def test_a_provider_that_errs_is_told_of(message: str, chunks: list) -> None:
    for dialect in (openai_chat, mistral):
        reader = dialect.Reader()
        with pytest.raises(UpstreamError, match=message):
            [reader.feed(chunk) for chunk in chunks] + [reader.finish()]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON | st.just([{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]),
        "reasoning": JSON | st.text(max_size=3),
        "tool_calls": JSON | st.just([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]),
    },
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 0, 0, -1, 2**70, None]),
        "delta": FIELDS | JSON,
        "text": JSON | st.text(max_size=3),
        "finish_reason": st.sampled_from(["stop", "length", None, "x", 1]),
        "logprobs": JSON | st.just({"content": [{"token": "a", "logprob": -1, "bytes": [300]}]}),
    },
)
BODY = st.fixed_dictionaries({}, optional={"choices": st.lists(CHOICE, max_size=2) | JSON, "usage": JSON}) | JSON


@settings(max_examples=120, deadline=None)
@given(chunks=st.lists(BODY.map(json.dumps) | st.just("[DONE]") | st.text(max_size=5), max_size=5))
def test_nothing_that_a_provider_sends_raises_anything_but_an_upstream_error(chunks: list[str]) -> None:
    reader = openai_chat.Reader()
    try:
        events = [event for chunk in chunks for event in reader.feed(ServerEvent(chunk))] + reader.finish()
    except UpstreamError:
        return
    assert "[DONE]" in [chunk.strip() for chunk in chunks]
    assert isinstance(events[-1].event, Finish)


@given(
    st.lists(st.tuples(st.integers(0, 1), words), max_size=4), st.sampled_from([openai_chat, mistral]), st.booleans()
)
def test_a_chunk_of_text_is_the_same_whichever_way_it_is_written(pieces, dialect, has_usage):
    options = {"stream": True, "n": 2} | ({"stream_options": {"include_usage": True}} if has_usage else {})
    body = {name: value for name, value in CHAT.items() if name != "logprobs"} | options
    head = Head("h1", 1763600000, 'a "name" {"content":""}')
    writer = dialect.Writer(dialect.parse_request(msgspec.json.encode(body)), head)
    for index, text in pieces:
        assert writer.push(AnswerEvent(index, TextDelta(text))) == [writer._chunk(index, {"content": text})]
