import json
from collections.abc import Iterator
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st

from small4.chat import ChatEvent, Finish, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart, Usage
from small4.cli.answer import answer_json, finish_note, follow, usage_note
from small4.cli.ink import Ink
from tests.cli.scripted import SUM, ScriptedSpeaker


def printed(*events: ChatEvent, colour: bool = False) -> str:
    stream = StringIO()
    ink = Ink(stream, is_terminal=colour, has_colour=colour)
    follow(iter(events), thoughts=ink, text=ink)
    return stream.getvalue()


def test_thought_is_labelled_and_indented_before_the_answer() -> None:
    assert printed(*SUM) == "thinking:\n  17+48: 7+8=15\n  so 65\nanswer:\n65\n"


def test_thought_is_dim_and_answer_is_not() -> None:
    text = printed(ReasoningDelta("a"), TextDelta("b"), colour=True)
    assert "\x1b[2m  a\x1b[0m" in text
    assert text.endswith("\x1b[0m\nb\n")


def test_answer_without_thought_has_no_label() -> None:
    assert printed(TextDelta("65"), Finish("stop", Usage())) == "65\n"


def test_hidden_thought_leaves_the_bare_answer() -> None:
    stream = StringIO()
    answer = follow(iter(SUM), thoughts=None, text=Ink(stream)).answer
    assert stream.getvalue() == "65\n"
    assert answer.reasoning == "17+48: 7+8=15\nso 65"


def test_thought_and_answer_may_go_to_two_streams() -> None:
    thoughts, text = StringIO(), StringIO()
    follow(iter(SUM), thoughts=Ink(thoughts), text=Ink(text))
    assert text.getvalue() == "65\n"
    assert thoughts.getvalue() == "thinking:\n  17+48: 7+8=15\n  so 65\nanswer:\n"


def test_tool_calls_are_shown_with_their_arguments() -> None:
    events = (
        TextDelta("Let me see."),
        ToolCallStart(0, "a", "add"),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(0, "1}"),
        ToolCallStart(1, "b", "stop"),
        Finish("tool_calls", Usage()),
    )
    assert printed(*events) == 'Let me see.\nadd {"x":1}\nstop \n'
    answer = follow(iter(events), thoughts=None, text=None).answer
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("add", '{"x":1}'), ("stop", "")]


def test_control_c_keeps_what_was_said() -> None:
    def events() -> Iterator[ChatEvent]:
        yield TextDelta("6")
        raise KeyboardInterrupt

    stream = StringIO()
    answer = follow(events(), thoughts=None, text=Ink(stream)).answer
    assert (answer.text, answer.finish_reason) == ("6", "aborted")
    assert stream.getvalue() == "6\n"
    assert finish_note(answer, ScriptedSpeaker()) == "(stopped)"


@given(st.lists(st.text(alphabet="ab\n", max_size=4), max_size=6))
def test_a_thought_looks_the_same_however_it_is_cut(pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert printed(*map(ReasoningDelta, pieces)) == (printed(ReasoningDelta(whole)) if pieces else "")


def test_a_cut_off_answer_says_so_with_its_limit() -> None:
    limited, full = (
        follow(iter((TextDelta("6"), Finish(reason, Usage(10, 5)))), thoughts=None, text=None).answer
        for reason in ("length", "context")
    )
    assert "limit of 5 tokens; raise --max-tokens" in (finish_note(limited, ScriptedSpeaker()) or "")
    assert "context of 15 tokens is full" in (finish_note(full, ScriptedSpeaker(context_length=15)) or "")
    assert "cache of 15 tokens is full; give it more with --cache" in (
        finish_note(full, ScriptedSpeaker(cache_tokens=15)) or ""
    )


def test_a_finished_answer_has_no_note() -> None:
    assert finish_note(follow(iter(SUM), thoughts=None, text=None).answer, ScriptedSpeaker()) is None


def test_usage_tells_tokens_and_times() -> None:
    note = usage_note(follow(iter(SUM), thoughts=None, text=None))
    assert note.startswith("12 tokens in, 9 out (6 of them thinking), first after ")
    assert note.endswith("tokens/s")


def test_json_holds_the_whole_answer() -> None:
    told = follow(iter(SUM), thoughts=None, text=None)
    content = json.loads(answer_json(told, "nano", "nano (a note)"))
    assert (content["text"], content["finish_reason"], content["model_note"]) == ("65", "stop", "nano (a note)")
    usage = {"prompt_tokens": 12, "completion_tokens": 9, "reasoning_tokens": 6, "cached_tokens": 0}
    assert content["usage"] == usage | {"is_estimated": False}
