"""The streaming parser, held to a plain parse of the whole answer."""

import re
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.chat import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart
from small4.tokenizer.output import OutputEvent, OutputParser, new_call_id
from small4.tokenizer.tekken import Tokenizer

THINK, END_THINK, CALL, ARGS, EOS = 34, 35, 9, 32, 2


@dataclass
class Answer:
    """Events put together again."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # id, name, arguments


def parse(tokenizer: Tokenizer, token_ids: list[int], *, in_thought: bool = False) -> Answer:
    numbers = count()
    parser = OutputParser(tokenizer, in_thought=in_thought, make_id=lambda: f"id{next(numbers)}")
    events = [event for token_id in token_ids for event in parser.push(token_id)]
    return collect(events + parser.finish())


def collect(events: list[OutputEvent]) -> Answer:
    answer = Answer()
    for event in events:
        match event:
            case TextDelta(text):
                answer.text += text
            case ReasoningDelta(text):
                answer.reasoning += text
            case ToolCallStart(index, call_id, name):
                assert index == len(answer.calls)
                answer.calls.append([call_id, name, ""])
            case ToolCallDelta(index, arguments):
                assert index == len(answer.calls) - 1
                answer.calls[index][2] += arguments
    return answer


def parse_whole(tokenizer: Tokenizer, token_ids: list[int], *, in_thought: bool) -> Answer:
    """The rule written once more, on the finished answer: thoughts first, then calls, then text."""
    answer = Answer()
    outside: list[int | bytes] = [b""]  # bytes between the control tokens that matter, thoughts taken out
    thought = b""
    for token_id in token_ids:
        if in_thought and token_id == END_THINK:
            answer.reasoning += thought.decode("utf-8", "replace")
            in_thought, thought = False, b""
        elif in_thought:
            thought += tokenizer.token_bytes(token_id)
        elif token_id == THINK:
            in_thought = True
            outside.append(b"")
        elif token_id in (CALL, ARGS):
            outside += [token_id, b""]
        else:
            last = outside[-1]
            assert isinstance(last, bytes)
            outside[-1] = last + tokenizer.token_bytes(token_id)
    answer.reasoning += thought.decode("utf-8", "replace")

    sections: list[list[int | bytes]] = [[]]
    for item in outside:
        if item == CALL:
            sections.append([])
        else:
            sections[-1].append(item)
    answer.text = decode_items(sections[0])
    for section in sections[1:]:
        before_args = section[: section.index(ARGS)] if ARGS in section else section
        if ARGS in section and "{" not in decode_items(before_args):
            name, arguments = decode_items(before_args), decode_items(section[section.index(ARGS) + 1 :])
        else:
            name, brace, rest = decode_items(section).partition("{")
            arguments = brace + rest
            if not brace and not name.strip():
                continue
        answer.calls.append([f"id{len(answer.calls)}", name.strip(), arguments.lstrip(" \t\r\n")])
    return answer


def decode_items(items: list[int | bytes]) -> str:
    """Text of bytes; a stray [ARGS] neither shows nor parts a character."""
    text, pending, was_args = "", b"", False
    for item in items:
        if isinstance(item, int):
            was_args = True
            continue
        text, pending = (text, pending + item) if was_args else (text + pending.decode("utf-8", "replace"), item)
        was_args = False
    return text + pending.decode("utf-8", "replace")


def byte_ids(data: bytes) -> list[int]:
    return [1000 + byte for byte in data]


some_text = st.one_of(
    st.text(max_size=6).map(lambda text: byte_ids(text.encode("utf-8", "replace"))),
    st.binary(max_size=4).map(byte_ids),
    st.sampled_from([byte_ids(b"{"), byte_ids(b'{"a": 1}'), byte_ids(b" "), byte_ids("é😀".encode())]),
    st.lists(st.integers(1000, 3071), max_size=3),
)
some_control = st.sampled_from([[THINK], [END_THINK], [CALL], [ARGS], [EOS], [3], [999]])
some_answer = st.lists(st.one_of(some_text, some_control), max_size=14).map(
    lambda runs: [token_id for run in runs for token_id in run]
)


@given(token_ids=some_answer, in_thought=st.booleans())
def test_streamed_events_equal_the_parse_of_the_whole(nano: Tokenizer, token_ids: list[int], in_thought: bool) -> None:
    assert parse(nano, token_ids, in_thought=in_thought) == parse_whole(nano, token_ids, in_thought=in_thought)


def test_arguments_begin_with_their_first_character_that_is_no_blank(nano: Tokenizer) -> None:
    parser = OutputParser(nano)
    token_ids = [CALL, *byte_ids(b"f"), ARGS, *byte_ids(b" \n\t "), *byte_ids(b'{ "a": 1} ')]
    events = [event for token_id in token_ids for event in parser.push(token_id)]
    assert isinstance(events[0], ToolCallStart)
    assert events[1] == ToolCallDelta(0, "{"), "OpenAI's client parses what came so far, and fails on blanks alone"
    assert collect(events).calls[0][2] == '{ "a": 1} '


@given(text=st.text(max_size=40), data=st.data())
def test_text_survives_any_way_of_cutting_it_into_tokens(nano: Tokenizer, text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=5)) | {0, len(raw)})
    token_ids: list[int] = []
    for start, end in pairwise(cuts):
        piece = raw[start:end]
        try:
            token_ids += nano.encode_text(piece.decode())
        except UnicodeDecodeError:
            token_ids += byte_ids(piece)
    assert parse(nano, token_ids) == Answer(text=raw.decode())


@given(raw=st.binary(max_size=20))
def test_no_byte_is_lost(nano: Tokenizer, raw: bytes) -> None:
    assert parse(nano, byte_ids(raw)).text == raw.decode("utf-8", "replace")


def test_each_delta_holds_whole_characters(nano: Tokenizer) -> None:
    parser = OutputParser(nano)
    pushed = [parser.push(token_id) for token_id in byte_ids("a😀é".encode())]
    assert pushed == [[TextDelta("a")], [], [], [], [TextDelta("😀")], [], [TextDelta("é")]]


def test_unfinished_character_shows_at_the_end(nano: Tokenizer) -> None:
    parser = OutputParser(nano)
    assert [parser.push(token_id) for token_id in byte_ids("😀".encode()[:3])] == [[], [], []]
    assert parser.finish() == [TextDelta("�")]
    assert parser.finish() == []


def test_thought_then_answer(nano: Tokenizer) -> None:
    token_ids = [THINK, *nano.encode_text("1+1=2"), END_THINK, *nano.encode_text("2"), EOS]
    assert parse(nano, token_ids) == Answer(text="2", reasoning="1+1=2")


def test_open_prefix_continues_the_thought(nano: Tokenizer) -> None:
    token_ids = [*nano.encode_text("so 2"), END_THINK, *nano.encode_text("2")]
    assert parse(nano, token_ids, in_thought=True) == Answer(text="2", reasoning="so 2")


def test_thought_never_closed_takes_all(nano: Tokenizer) -> None:
    token_ids = [*nano.encode_text("a"), THINK, *nano.encode_text("b"), CALL, *nano.encode_text("c")]
    assert parse(nano, token_ids) == Answer(text="a", reasoning="bc")


def test_stray_closing_is_dropped(nano: Tokenizer) -> None:
    assert parse(nano, [*nano.encode_text("a"), END_THINK, *nano.encode_text("b")]) == Answer(text="ab")


def test_two_calls_after_text(nano: Tokenizer) -> None:
    token_ids = [*nano.encode_text("Let me look."), CALL, *nano.encode_text("get_weather"), ARGS]
    token_ids += [*nano.encode_text('{"city": "Köln"}'), CALL, *nano.encode_text("now"), ARGS, *nano.encode_text("{}")]
    expected = [["id0", "get_weather", '{"city": "Köln"}'], ["id1", "now", "{}"]]
    assert parse(nano, [*token_ids, EOS]) == Answer(text="Let me look.", calls=expected)


def test_forgotten_args_token_is_replaced_by_the_first_brace(nano: Tokenizer) -> None:
    token_ids = [CALL, *nano.encode_text('add {"a": {"b": 1}}')]
    assert parse(nano, token_ids).calls == [["id0", "add", '{"a": {"b": 1}}']]


def test_call_without_arguments_is_still_a_call(nano: Tokenizer) -> None:
    token_ids = [CALL, *nano.encode_text("now"), CALL, *nano.encode_text("then")]
    assert parse(nano, token_ids).calls == [["id0", "now", ""], ["id1", "then", ""]]


def test_spelled_control_tokens_stay_text(nano: Tokenizer) -> None:
    spelled = "[THINK]a[/THINK][TOOL_CALLS]f[ARGS]{}</s>"
    assert parse(nano, nano.encode_text(spelled)) == Answer(text=spelled)


def test_reasoning_tokens_are_counted_with_their_brackets(nano: Tokenizer) -> None:
    parser = OutputParser(nano)
    thought = nano.encode_text("1+1=2")
    for token_id in [THINK, *thought, END_THINK, *nano.encode_text("2")]:
        parser.push(token_id)
    assert parser.num_reasoning_tokens == len(thought) + 2
    assert (parser.in_thought, parser.num_calls) == (False, 0)


@pytest.mark.parametrize("_", range(20))
def test_call_ids_are_nine_alphanumerics(_: int) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", new_call_id())
