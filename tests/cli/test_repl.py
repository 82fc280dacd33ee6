"""Conversations by script: lines in, text out, no terminal and no model."""

import json
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from PIL import Image

from small4.chat import Finish, ImagePart, Message, ReasoningDelta, TextDelta, TextPart, ThinkPart, Usage
from small4.cli.ink import Ink
from small4.cli.repl import COMMANDS, Repl, Settings
from small4.errors import ContextLengthError, ImageError
from tests.cli.scripted import NANO_LABEL, SUM, ScriptedSpeaker


def dot() -> bytes:
    """A small image."""
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


DOT = dot()


def reader(*lines: str | BaseException) -> Callable[[], str]:
    """Gives the lines one by one, then the end of input."""
    waiting = list(lines)

    def read() -> str:
        line = waiting.pop(0) if waiting else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line

    return read


def converse(speaker: ScriptedSpeaker, *lines: str | BaseException) -> tuple[str, Repl]:
    stream = StringIO()
    repl = Repl(speaker, Ink(stream), Settings(effort="none"))
    repl.run(reader(*lines))
    return stream.getvalue(), repl


def test_the_nano_says_what_it_is_before_anything_else() -> None:
    text, _ = converse(ScriptedSpeaker())
    assert text.startswith(NANO_LABEL + "\n")


def test_another_model_goes_by_its_name() -> None:
    text, _ = converse(ScriptedSpeaker(is_nano=False))
    assert text.startswith("some/model\n")


def test_a_question_is_answered_and_both_are_repeated_with_the_next_one() -> None:
    speaker = ScriptedSpeaker()
    text, _ = converse(speaker, "17+48", "and now?")
    assert "  so 65\nanswer:\n65\n" in text
    assert speaker.requests[1].messages == (
        Message("user", "17+48"),
        Message("assistant", (ThinkPart("17+48: 7+8=15\nso 65"), TextPart("65"))),
        Message("user", "and now?"),
    )


def test_empty_lines_ask_nothing() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, "", "   ", "\n")
    assert speaker.requests == []


def test_effort_and_budget_hold_for_the_next_questions() -> None:
    speaker = ScriptedSpeaker()
    text, _ = converse(speaker, "/effort high", "/budget 40", "a", "/budget off", "/effort none", "b")
    assert [(r.effort, r.thinking_budget) for r in speaker.requests] == [("high", 40), ("none", None)]
    assert "effort high" in text
    assert "thinking budget 40 tokens" in text


def test_the_temperature_goes_with_the_effort_unless_it_is_given() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, "/effort high", "a", "/effort none", "b")
    assert [request.sampling.temperature for request in speaker.requests] == [0.7, 0.1]


def test_an_image_that_cannot_be_decoded_is_refused_when_it_is_attached(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(DOT[:40])
    text, repl = converse(ScriptedSpeaker(), f"/image {tmp_path / 'dot.png'}")
    assert "dot.png: the PNG image is corrupt" in text
    assert repl.images == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/effort medium", "error: unknown effort 'medium'; there are none and high"),
        ("/budget -1", "error: the thinking budget is -1; it must be at least 0 tokens"),
        ("/budget many", "error: the thinking budget is a number of tokens or off, not 'many'"),
        ("/efort high", "error: there is no command /efort; did you mean /effort?"),
        ("/zzz", "error: there is no command /zzz; /help lists them"),
        ("/", "error: there is no command /"),
        ("/image", "error: which image? /image PATH"),
        ("/image nowhere.png", "error: there is no image at nowhere.png"),
        ("/save", "error: where to?"),
        ("/save nowhere/a.json", "error: there is no directory nowhere"),
        ("\udcff", "error: the text is not valid UTF-8"),
    ],
)
def test_a_mistake_is_told_and_the_program_stays(line: str, told: str) -> None:
    speaker = ScriptedSpeaker()
    text, _ = converse(speaker, line, "17+48")
    assert told in text
    assert len(speaker.requests) == 1


def test_a_slash_behind_a_blank_is_text() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, " /etc is what?")
    assert speaker.requests[0].messages[-1].content == "/etc is what?"


def test_control_c_stops_the_answer_and_not_the_program() -> None:
    speaker = ScriptedSpeaker((TextDelta("6"), KeyboardInterrupt()), SUM)
    text, repl = converse(speaker, "17+48", "again")
    assert "6\n(stopped)\n" in text
    assert len(speaker.requests) == 2
    assert repl.messages[1] == Message("assistant", "6")


def test_control_c_in_the_thought_forgets_the_question() -> None:
    speaker = ScriptedSpeaker((ReasoningDelta("17+"), KeyboardInterrupt()), SUM)
    text, _ = converse(speaker, "17+48", "again")
    assert "the question is forgotten" in text
    assert speaker.requests[1].messages == (Message("user", "again"),)


def test_control_c_at_the_prompt_drops_the_line() -> None:
    speaker = ScriptedSpeaker()
    text, _ = converse(speaker, KeyboardInterrupt(), "17+48")
    assert "(Ctrl-D or /exit leaves)" in text
    assert len(speaker.requests) == 1


def test_a_refused_request_leaves_the_conversation_as_it_was() -> None:
    speaker = ScriptedSpeaker((ContextLengthError("the prompt has 3000 tokens, the limit is 2048"),), SUM)
    text, _ = converse(speaker, "much too long", "17+48")
    assert "error: the prompt has 3000 tokens, the limit is 2048" in text
    assert speaker.requests[1].messages == (Message("user", "17+48"),)


def test_an_empty_answer_is_told_and_not_repeated() -> None:
    speaker = ScriptedSpeaker((Finish("stop", Usage(5, 1, 0)),), SUM)
    text, _ = converse(speaker, "hm", "17+48")
    assert "the model gave no answer" in text
    assert speaker.requests[1].messages == (Message("user", "17+48"),)


def test_an_image_goes_with_the_next_question_only(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(DOT)
    speaker = ScriptedSpeaker()
    text, _ = converse(speaker, f"/image {tmp_path / 'dot.png'}", "what is it?", "and now?")
    assert "dot.png goes with the next question" in text
    first, second = (request.messages[-1] for request in speaker.requests)
    assert first.content == (TextPart("what is it?"), ImagePart(DOT))
    assert second.content == "and now?"


def test_a_refused_image_does_not_stand_in_the_way_of_the_next_question(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(DOT)
    speaker = ScriptedSpeaker((ImageError("this model reads no images"),), SUM)
    text, _ = converse(speaker, f"/image {tmp_path / 'dot.png'}", "what is it?", "17+48")
    assert "error: this model reads no images" in text
    assert speaker.requests[1].messages == (Message("user", "17+48"),)


def test_system_prompt_leads_every_request_until_it_is_turned_off() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, "/system Be brief.", "a", "/system off", "b")
    assert speaker.requests[0].messages[0] == Message("system", "Be brief.")
    assert speaker.requests[1].messages[0].role == "user"


def test_new_forgets_the_conversation_and_keeps_the_settings() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, "/effort high", "a", "/new", "b")
    assert speaker.requests[1].messages == (Message("user", "b"),)
    assert speaker.requests[1].effort == "high"


def test_without_memory_every_question_stands_alone() -> None:
    speaker, stream = ScriptedSpeaker(), StringIO()
    repl = Repl(speaker, Ink(stream), Settings(effort="none", has_memory=False))
    repl.run(reader("a", "b", "/memory on", "c", "/memory maybe"))
    assert "it takes every question on its own" in stream.getvalue()
    assert [len(request.messages) for request in speaker.requests] == [1, 1, 5]
    assert "error: memory is on or off, not 'maybe'" in stream.getvalue()


def test_exit_leaves_at_once() -> None:
    speaker = ScriptedSpeaker()
    converse(speaker, "/exit", "17+48")
    assert speaker.requests == []


def test_help_names_every_command() -> None:
    text, _ = converse(ScriptedSpeaker(), "/help")
    assert all(command.usage in text and command.help in text for command in COMMANDS.values())


def test_state_line_counts_the_tokens_of_the_conversation() -> None:
    _, repl = converse(ScriptedSpeaker(), "/budget 30", "17+48")
    assert repl.state_line() == "nano, effort none, budget 30, 21 of 2048 tokens"


def test_a_conversation_is_saved_as_json(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    (tmp_path / "dot.png").write_bytes(DOT)
    converse(ScriptedSpeaker(), "/system Be brief.", f"/image {tmp_path / 'dot.png'}", "17+48", f"/save {path}")
    saved = json.loads(path.read_text())
    assert saved["model"] == NANO_LABEL
    assert saved["messages"] == [
        {"role": "system", "text": "Be brief."},
        {"role": "user", "text": "17+48", "num_images": 1},
        {"role": "assistant", "text": "65", "reasoning": "17+48: 7+8=15\nso 65"},
    ]


def test_a_conversation_is_saved_as_markdown(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    converse(ScriptedSpeaker(), "17+48", f"/save {path}")
    assert "## user\n\n17+48\n\n## assistant\n\n> 17+48: 7+8=15\n> so 65\n\n65\n" in path.read_text()


def test_save_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("precious")
    text, _ = converse(ScriptedSpeaker(), "17+48", f"/save {path}")
    assert "exists and is left alone" in text
    assert path.read_text() == "precious"
