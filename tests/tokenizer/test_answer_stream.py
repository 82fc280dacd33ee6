"""Tokens to events up to Finish: stop strings, the end of the answer, counts and log-probabilities."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from small4.answer import Answer, collect
from small4.chat import ChatEvent, ReasoningDelta, TextDelta, Usage
from small4.tokenizer.answer_stream import AnswerStream
from small4.tokenizer.tekken import Tokenizer

THINK, END_THINK, CALL, ARGS, EOS = 34, 35, 9, 32, 2


def events_of(tokenizer: Tokenizer, token_ids: list[int], **options: Any) -> list[ChatEvent]:
    """Events of an answer in which every token has its place, negated, as log-probability."""
    stream = AnswerStream(tokenizer, num_prompt_tokens=3, make_id=lambda: "id", **options)
    events: list[ChatEvent] = []
    for place, token_id in enumerate(token_ids):
        events += stream.push(token_id, -float(place), ((token_id, -float(place)), (EOS, -50.0)))
        if stream.is_over:
            break
    return events + stream.finish()


def answer_of(tokenizer: Tokenizer, token_ids: list[int], **options: Any) -> Answer:
    return collect(events_of(tokenizer, token_ids, **options))


def byte_ids(text: str) -> list[int]:
    return [1000 + byte for byte in text.encode()]


def test_an_answer_ends_at_eos_with_its_counts(nano: Tokenizer) -> None:
    thought, text = nano.encode_text("1+1=2"), nano.encode_text("two")
    answer = answer_of(nano, [THINK, *thought, END_THINK, *text, EOS, *text])
    assert (answer.text, answer.reasoning, answer.finish_reason, answer.stop) == ("two", "1+1=2", "stop", None)
    assert answer.usage == Usage(3, len(thought) + len(text) + 3, len(thought) + 2)


def test_an_ignored_eos_does_not_end_the_answer(nano: Tokenizer) -> None:
    answer = answer_of(nano, [*byte_ids("a"), EOS, *byte_ids("b")], ignore_eos=True)
    assert (answer.text, answer.finish_reason) == ("ab", "length")


def test_an_answer_that_called_ends_with_tool_calls_only_if_it_came_to_its_end(nano: Tokenizer) -> None:
    call = [CALL, *byte_ids("f"), ARGS, *byte_ids("{}")]
    assert answer_of(nano, [*call, EOS]).finish_reason == "tool_calls"
    assert answer_of(nano, call).finish_reason == "length"


def test_a_stop_string_across_tokens_ends_the_answer_and_is_named(nano: Tokenizer) -> None:
    answer = answer_of(nano, byte_ids("one, two END three"), stop=("xyz", " END"))
    assert (answer.text, answer.finish_reason, answer.stop) == ("one, two", "stop", " END")
    assert answer.usage.completion_tokens == len("one, two END")


def test_text_that_only_began_a_stop_string_is_shown_at_the_end(nano: Tokenizer) -> None:
    answer = answer_of(nano, [*byte_ids("one EN"), EOS], stop=("END",))
    assert (answer.text, answer.stop) == ("one EN", None)


def test_a_thought_and_a_call_may_hold_the_stop_string(nano: Tokenizer) -> None:
    token_ids = [
        THINK,
        *byte_ids("x END y"),
        END_THINK,
        *byte_ids("E"),
        CALL,
        *byte_ids("f"),
        ARGS,
        *byte_ids('{"END":1}'),
        EOS,
    ]
    answer = answer_of(nano, token_ids, stop=("END",))
    assert (answer.reasoning, answer.text, answer.tool_calls[0].arguments) == ("x END y", "E", '{"END":1}')
    assert answer.stop is None


def test_a_stop_string_does_not_reach_across_a_thought_and_order_is_kept(nano: Tokenizer) -> None:
    token_ids = [*byte_ids("aE"), THINK, *byte_ids("t"), END_THINK, *byte_ids("ND"), EOS]
    events = events_of(nano, token_ids, stop=("END",))
    assert [event.text for event in events if isinstance(event, TextDelta | ReasoningDelta)] == [
        "a",
        "E",
        "t",
        "N",
        "D",
    ]


def test_stop_strings_wait_for_min_tokens(nano: Tokenizer) -> None:
    answer = answer_of(nano, byte_ids("ab.cd.ef"), stop=(".",), min_tokens=3)
    assert (answer.text, answer.stop) == ("ab.cd", ".")


def test_logprobs_come_with_the_first_shown_character_of_their_token(nano: Tokenizer) -> None:
    events = events_of(nano, [THINK, *byte_ids("t"), END_THINK, *byte_ids("é x"), EOS], stop=(" y",))
    found = [
        (type(event), event.text, [(entry.token.data, entry.token.logprob) for entry in event.logprobs])
        for event in events
        if isinstance(event, TextDelta | ReasoningDelta)
    ]
    assert found == [
        (ReasoningDelta, "t", [(b"t", -1.0)]),
        (TextDelta, "é", [("é".encode()[:1], -3.0), ("é".encode()[1:], -4.0)]),
        (TextDelta, " x", [(b" ", -5.0), (b"x", -6.0)]),  # the blank could have begun the stop string
    ]


def test_alternatives_carry_their_bytes_and_control_tokens_their_name(nano: Tokenizer) -> None:
    [entry] = answer_of(nano, byte_ids("a")).logprobs
    assert [(other.token_id, other.data, other.logprob) for other in entry.top] == [
        (1097, b"a", 0.0),
        (EOS, b"</s>", -50.0),
    ]


def test_tokens_of_a_stop_string_have_no_logprobs_but_one_that_shows_in_part_has(nano: Tokenizer) -> None:
    [token_id] = nano.encode_text("er")
    answer = answer_of(nano, [*byte_ids("a"), token_id, *byte_ids("N"), EOS], stop=("rN",))
    assert answer.text == "ae"
    assert [entry.token.data for entry in answer.logprobs] == [b"a", b"er"]


def test_a_token_still_held_back_keeps_its_logprobs_while_an_earlier_one_shows(nano: Tokenizer) -> None:
    events = events_of(nano, [*byte_ids("ab"), EOS], stop=("ax", "bc"))
    found = [(e.text, [entry.token.data for entry in e.logprobs]) for e in events if isinstance(e, TextDelta)]
    assert found == [("a", [b"a"]), ("b", [b"b"])]


@given(text=st.text(max_size=20), stop=st.text(min_size=1, max_size=2))
def test_the_bytes_of_logprobs_spell_the_text(nano: Tokenizer, text: str, stop: str) -> None:
    text, stop = (value.encode("utf-8", "replace").decode() for value in (text, stop))
    answer = answer_of(nano, [*byte_ids(text), EOS], stop=(stop,))
    assert answer.text == text.split(stop)[0]
    assert b"".join(entry.token.data for entry in answer.logprobs) == answer.text.encode()


def test_without_logprobs_there_are_none(nano: Tokenizer) -> None:
    stream = AnswerStream(nano, num_prompt_tokens=1)
    assert stream.push(1097) == [TextDelta("a")]
