"""`small4 run`: which word is what, and what goes to which stream."""

import io
import json
import sys
from pathlib import Path

import pytest

from small4.chat import ChatRequest, Finish, Message, TextDelta, Usage
from small4.cli.request import parse_quant, parse_size
from small4.cli.run import answer_once, sort_words
from small4.cli.speaker import default_effort
from small4.errors import CheckpointNotFoundError, ConfigError, RequestError
from tests.cli.scripted import NANO_LABEL, ScriptedSpeaker

REQUEST = ChatRequest(messages=(Message("user", "17+48"),))


class Keyboard(io.StringIO):
    """Standard input of somebody who has not typed yet."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard())


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("words", "sorted_words"),
    [
        (("nano", "17+48"), ("nano", "17+48")),
        (("17+48", None), (None, "17+48")),
        (("12", None), (None, "12")),
        (("what is this?", None), (None, "what is this?")),
        (("hello", None), (None, "hello")),
        (("nano", "nano"), ("nano", "nano")),
    ],
)
def test_a_lone_word_is_a_question_unless_it_names_a_model(
    words: tuple[str, str | None], sorted_words: tuple[str | None, str]
) -> None:
    assert sort_words(*words) == sorted_words


@pytest.mark.parametrize("words", [("nano", None), (None, None), ("nano", ""), (" ", None)])
def test_no_question_is_a_mistake_in_a_terminal(words: tuple[str | None, str | None]) -> None:
    with pytest.raises(RequestError, match="nothing is asked"):
        sort_words(*words)


@pytest.mark.parametrize(("words", "model"), [(("nano", "-"), "nano"), (("nano", None), "nano"), (("-", None), None)])
def test_the_question_may_come_from_a_pipe(
    words: tuple[str, str | None], model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "17 + 48 = ?\nétage\n".encode())
    assert sort_words(*words) == (model, "17 + 48 = ?\nétage\n")


def test_a_pipe_is_left_alone_where_a_question_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"not this")
    assert sort_words("nano", "this") == ("nano", "this")


def test_a_directory_of_weights_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").touch()
    pipe(monkeypatch, b"17+48")
    assert sort_words(str(tmp_path), None) == (str(tmp_path), "17+48")


def test_a_lone_near_miss_of_a_model_is_not_asked() -> None:
    with pytest.raises(CheckpointNotFoundError, match="did you mean nano"):
        sort_words("nanno", None)


def test_the_answer_alone_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_once(ScriptedSpeaker(), REQUEST, hide_reasoning=False, show_usage=True, as_json=False)
    done = capsys.readouterr()
    assert done.out == "65\n"
    assert done.err.startswith(f"{NANO_LABEL}\nthinking:\n  17+48: 7+8=15\n  so 65\nanswer:\n12 tokens in, 9 out")


def test_a_hidden_thought_is_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    answer_once(ScriptedSpeaker(), REQUEST, hide_reasoning=True, show_usage=False, as_json=False)
    assert capsys.readouterr() == ("65\n", f"{NANO_LABEL}\n")


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    answer_once(ScriptedSpeaker(), REQUEST, hide_reasoning=False, show_usage=True, as_json=True)
    done = capsys.readouterr()
    assert json.loads(done.out)["reasoning"] == "17+48: 7+8=15\nso 65"
    assert json.loads(done.out)["model_note"] == NANO_LABEL
    assert done.err == ""


def test_an_answer_stopped_by_control_c_counts_as_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = ScriptedSpeaker((TextDelta("6"), KeyboardInterrupt()))
    assert not answer_once(speaker, REQUEST, hide_reasoning=False, show_usage=False, as_json=False)
    assert capsys.readouterr().err.endswith("(stopped)\n")


def test_a_cut_off_answer_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = ScriptedSpeaker((TextDelta("6"), Finish("length", Usage(5, 1, 0))))
    answer_once(speaker, REQUEST, hide_reasoning=False, show_usage=False, as_json=False)
    assert "raise --max-tokens" in capsys.readouterr().err


def test_only_a_nano_thinks_unasked() -> None:
    assert default_effort(ScriptedSpeaker()) == "high"
    assert default_effort(ScriptedSpeaker(is_nano=False)) == "none"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("512M", 2**29), ("1.5G", 3 * 2**29), ("2gib", 2**31), ("1 K", 1024), (None, None)],
)
def test_a_size_is_read_in_powers_of_1024(text: str | None, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "-1G", "1X", "", "1e9"])
def test_a_size_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="512M"):
        parse_size(text)


def test_an_unknown_packing_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(ConfigError, match="int8 or int4"):
        parse_quant("q4")
