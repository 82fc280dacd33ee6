"""Golden exchanges of the Chat Completions dialects: parsed, written, and read back."""

import json
from dataclasses import replace
from types import ModuleType

import msgspec
import pytest

from small4.answer import collect
from small4.chat import AnswerEvent, Finish, Usage
from small4.errors import UpstreamError
from small4.wire import mistral, openai_chat
from small4.wire.call import Head
from small4.wire.chat_usage import sum_usage
from small4.wire.sse import EventReader, encode
from tests.wire.exchanges import Exchange, exchanges

DIALECTS = {"openai_chat": openai_chat, "mistral": mistral}
ALL = [
    pytest.param(DIALECTS[dialect], exchange, id=f"{dialect}-{exchange.name}")
    for dialect in DIALECTS
    for exchange in exchanges(dialect)
]
STREAMED = [case for case in ALL if case.values[1].stream]
WHOLE = [case for case in ALL if case.values[1].body]
HEAD = Head("h1", 1763600000, "mistral-small-4")


@pytest.mark.parametrize(("dialect", "exchange"), ALL)
def test_a_request_means_its_call(dialect: ModuleType, exchange: Exchange) -> None:
    call = dialect.parse_request(exchange.request)
    assert call == dialect.parse_request(json.dumps(exchange.request).encode())
    for name, value in exchange.call.items():
        assert getattr(call, name) == value, name
    unsaid = {"is_stream": False, "has_temperature": True, "ignored": (), "metadata": {}}
    assert {name: getattr(call, name) for name in unsaid} == unsaid | {
        name: value for name, value in exchange.call.items() if name in unsaid
    }


@pytest.mark.parametrize(("dialect", "exchange"), ALL)
def test_a_call_is_written_as_its_request(dialect: ModuleType, exchange: Exchange) -> None:
    call = dialect.parse_request(exchange.request)
    written = dialect.format_request(call)
    assert replace(dialect.parse_request(written), form=None) == replace(call, form=None, ignored=())
    if exchange.is_canonical:
        assert written == exchange.request


@pytest.mark.parametrize(("dialect", "exchange"), STREAMED)
def test_events_are_streamed_as_documented(dialect: ModuleType, exchange: Exchange) -> None:
    assert decoded(stream(dialect, exchange)) == decoded(exchange.stream)


@pytest.mark.parametrize(("dialect", "exchange"), STREAMED)
def test_a_stream_is_read_as_the_events_it_was_written_from(dialect: ModuleType, exchange: Exchange) -> None:
    reader = dialect.Reader(len({event.index for event in exchange.events}))
    events = [event for chunk in exchange.stream for event in reader.feed(chunk)]
    assert reader.finish() == []
    assert by_answer(events) == by_answer(merge_calls(exchange.events) if dialect is mistral else exchange.events)
    has_usage = any(isinstance(chunk, dict) and chunk.get("usage") for chunk in decoded(exchange.stream))
    assert usage(events) == (usage(exchange.events) if has_usage else Usage(is_estimated=True))


@pytest.mark.parametrize(("dialect", "exchange"), STREAMED)
def test_a_stream_cut_anywhere_is_an_error_and_never_an_end(dialect: ModuleType, exchange: Exchange) -> None:
    data = b"".join(encode(event) for event in exchange.stream)
    for cut in range(len(data)):
        reader, bytes_ = dialect.Reader(len({event.index for event in exchange.events})), EventReader()
        events = [event for chunk in bytes_.feed(data[:cut]) for event in reader.feed(chunk)]
        assert not any(isinstance(event.event, Finish) for event in events)
        with pytest.raises(UpstreamError, match="ended before"):
            reader.finish()


@pytest.mark.parametrize(("dialect", "exchange"), WHOLE)
def test_a_whole_answer_is_written_as_documented_and_read_back(dialect: ModuleType, exchange: Exchange) -> None:
    call = replace(dialect.parse_request(exchange.request), is_stream=False)
    writer = dialect.Writer(call, HEAD)
    assert [chunk for event in exchange.events for chunk in writer.push(event)] == []
    body = json.loads(msgspec.json.encode(writer.whole()))
    assert body == exchange.body
    num_answers = call.request.num_answers
    read = dialect.Reader(num_answers).whole(json.dumps(body).encode())
    for index in range(num_answers):
        assert answer(read, index) == answer(exchange.events, index)
    assert usage(read) == usage(exchange.events)


def stream(dialect: ModuleType, exchange: Exchange) -> list:
    writer = dialect.Writer(dialect.parse_request(exchange.request), HEAD)
    chunks = writer.start()
    for event in exchange.events:
        chunks += writer.push(event)
    return chunks + writer.finish()


def decoded(chunks: list) -> list:
    assert all(chunk.name is None for chunk in chunks)
    return [chunk.data if chunk.data == "[DONE]" else json.loads(chunk.data) for chunk in chunks]


def answer(events: list[AnswerEvent], index: int):
    return replace(collect(event.event for event in events if event.index == index), usage=Usage())


def usage(events: list[AnswerEvent]) -> Usage:
    return sum_usage([event.event.usage for event in sorted(events, key=lambda e: e.index) if is_end(event)])


def is_end(event: AnswerEvent) -> bool:
    return isinstance(event.event, Finish)


def by_answer(events: list[AnswerEvent]) -> dict[int, list]:
    """Each answer's events in order, without the usage, which is of all answers together."""
    answers: dict[int, list] = {}
    for event in events:
        inner = replace(event.event, usage=Usage()) if is_end(event) else event.event
        answers.setdefault(event.index, []).append(inner)
    return answers


def merge_calls(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """The events with each call's arguments in one piece."""
    merged: list[AnswerEvent] = []
    for event in events:
        last = merged[-1].event if merged else None
        if type(event.event).__name__ == "ToolCallDelta" and type(last) is type(event.event):
            merged[-1] = AnswerEvent(event.index, replace(last, arguments=last.arguments + event.event.arguments))
        else:
            merged.append(event)
    return merged
