"""`small4 run`: which word is what, and what goes to which stream."""

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from small4.chat import (
    TEMPERATURES,
    AnswerEvent,
    ChatRequest,
    Finish,
    Message,
    Sampling,
    ScoredToken,
    TextDelta,
    TokenLogprobs,
    Usage,
)
from small4.cli.drawing import Drawing, check_drawing
from small4.cli.request import check_num_answers, parse_quant, parse_size
from small4.cli.run import answer_once, answer_several, sort_words
from small4.cli.several import one_by_one
from small4.cli.speaker import default_effort
from small4.errors import CheckpointNotFoundError, ConfigError, RequestError, SamplingError
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


SCRIPTS = tuple((TextDelta(text), Finish("stop", Usage(5, 1))) for text in ("a", "b", "c"))
THREE = replace(REQUEST, num_answers=3, sampling=Sampling(temperature=1.0))


def test_several_answers_are_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_several(ScriptedSpeaker(*SCRIPTS), THREE, hide_reasoning=False, show_usage=True, as_json=False)
    done = capsys.readouterr()
    assert done.out == "a\nb\nc\n"
    assert done.err.startswith(f"{NANO_LABEL}\nanswer 1 of 3\nanswer 2 of 3\nanswer 3 of 3\n5 tokens in, 3 out")


def test_several_answers_are_as_many_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_several(ScriptedSpeaker(*SCRIPTS), THREE, hide_reasoning=False, show_usage=True, as_json=True)
    done = capsys.readouterr()
    assert [(line["index"], line["text"]) for line in map(json.loads, done.out.splitlines())] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    assert done.err == ""


def test_an_answer_waits_for_those_before_it_and_no_longer() -> None:
    def events() -> Iterator[AnswerEvent]:
        for index in (2, 0):
            yield AnswerEvent(index, Finish("stop", Usage()))
            seen.append(index)
        yield AnswerEvent(1, Finish("stop", Usage()))

    seen: list[int] = []
    told = one_by_one(events())
    assert next(told).index == 0
    assert seen == [2]
    assert [whole.index for whole in told] == [1, 2]


def test_one_failed_answer_of_several_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    failed = (Finish("error", Usage(), error=SamplingError("no token is left")),)
    speaker = ScriptedSpeaker(SCRIPTS[0], failed, SCRIPTS[2])
    assert answer_several(speaker, THREE, hide_reasoning=False, show_usage=False, as_json=False)
    done = capsys.readouterr()
    assert done.out == "a\nc\n"
    assert "answer 2 of 3\n(failed: no token is left)\n" in done.err


def test_control_c_ends_all_answers_and_says_how_many_came(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def events(request: ChatRequest) -> Iterator[AnswerEvent]:
        yield AnswerEvent(0, Finish("stop", Usage()))
        raise KeyboardInterrupt

    speaker = ScriptedSpeaker()
    monkeypatch.setattr(speaker, "events", events)
    assert not answer_several(speaker, THREE, hide_reasoning=False, show_usage=True, as_json=False)
    assert capsys.readouterr().err.endswith("(stopped after 1 of 3 answers)\n")


def test_equal_answers_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    greedy = replace(REQUEST, num_answers=2)
    answer_several(ScriptedSpeaker(), greedy, hide_reasoning=True, show_usage=False, as_json=False)
    assert "at temperature 0 all answers are alike" in capsys.readouterr().err


@pytest.mark.parametrize("num_answers", [0, 9])
def test_the_number_of_answers_has_a_limit(num_answers: int) -> None:
    with pytest.raises(SamplingError, match="there may be 1 to 8 answers"):
        check_num_answers(num_answers)


SURE = TokenLogprobs(
    ScoredToken(1200, b"6\n", math.log(0.9)), (ScoredToken(1200, b"6\n", math.log(0.9)), ScoredToken(1, b"\xc3", -4.0))
)


def test_logprobs_are_a_table_behind_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = ScriptedSpeaker((TextDelta("6", (SURE,)), Finish("stop", Usage(5, 1))))
    answer_once(speaker, REQUEST, hide_reasoning=False, show_usage=False, as_json=False)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "token             probability  likeliest",
        "'6\\n'                 90.00 %  '6\\n' 90.00 %  '\ufffd' 1.83 %",
    ]


def test_logprobs_stand_in_the_json_with_their_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = ScriptedSpeaker((TextDelta("6", (SURE,)), Finish("stop", Usage(5, 1))))
    answer_once(speaker, REQUEST, hide_reasoning=False, show_usage=False, as_json=True)
    [place] = json.loads(capsys.readouterr().out)["logprobs"]
    assert (place["token"], place["token_id"], place["logprob"]) == ("6\n", 1200, math.log(0.9))
    assert [token["bytes"] for token in place["top"]] == [[54, 10], [0xC3]]


def drawing(**options: object) -> Drawing:
    given = {"temperature": None, "top_p": 1.0, "top_k": None, "min_p": 0.0, "seed": None}
    penalties = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return check_drawing(**{**given, **penalties, **options})  # type: ignore[arg-type]


def test_a_temperature_that_is_not_given_is_the_models_own_for_the_effort() -> None:
    assert drawing(seed=3).at("high", TEMPERATURES) == Sampling(temperature=0.7, seed=3)
    assert drawing().at("none", TEMPERATURES) == Sampling(temperature=0.1)
    assert drawing(temperature=0.0).at("high", TEMPERATURES) == Sampling()
    assert drawing(frequency_penalty=0.5).at("none", {"none": 0.0}) == Sampling(frequency_penalty=0.5)


def test_a_penalty_outside_its_range_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(SamplingError, match="repetition_penalty is 0"):
        drawing(repetition_penalty=0.0)


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
