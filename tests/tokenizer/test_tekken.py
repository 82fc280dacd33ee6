"""The vocabulary file is believed only when it is whole; ids and bytes agree."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small4.errors import CheckpointError, CheckpointNotFoundError, RequestError, UnsupportedModelError
from small4.tokenizer import tekken
from small4.tokenizer.tekken import Tokenizer


@given(text=st.text())
def test_text_comes_back_from_its_ids(nano: Tokenizer, text: str) -> None:
    token_ids = nano.encode_text(text)
    assert all(nano.num_special_tokens <= token_id < nano.vocab_size for token_id in token_ids)
    assert nano.decode(token_ids) == text.encode("utf-8", "replace").decode()
    assert b"".join(nano.token_bytes(token_id) for token_id in token_ids).decode() == nano.decode(token_ids)


def test_digits_stand_alone(nano: Tokenizer) -> None:
    assert [nano.token_bytes(token_id) for token_id in nano.encode_text("12345")] == [b"1", b"2", b"3", b"4", b"5"]


def test_control_tokens_show_their_names_and_have_no_bytes(nano: Tokenizer) -> None:
    assert nano.decode([1, 34, 20, 999]) == "<s>[THINK]<SPECIAL_20><SPECIAL_999>"
    assert nano.token_bytes(34) == b""
    assert nano.special_id("[THINK]") == nano.control.think == 34


def test_unknown_name_or_id_is_refused(nano: Tokenizer) -> None:
    with pytest.raises(RequestError, match="no control token"):
        nano.special_id("[NOPE]")
    for token_id in (-1, nano.vocab_size):
        with pytest.raises(RequestError, match="outside the vocabulary of 3072"):
            nano.decode([token_id])
        with pytest.raises(RequestError, match="outside the vocabulary of 3072"):
            nano.token_bytes(token_id)


def test_repeated_text_has_the_same_ids(nano: Tokenizer) -> None:
    for text in ("a b", "a b", "long " * 5000):
        assert nano.encode_repeated(text) == nano.encode_text(text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "tekken.json", tmp_path):
        with pytest.raises(CheckpointNotFoundError, match=r"needs its tekken\.json"):
            Tokenizer.from_file(path)


def test_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tekken.json"
    path.write_bytes(b" " * 101)
    monkeypatch.setattr(tekken, "MAX_FILE_BYTES", 100)
    with pytest.raises(CheckpointError, match="101 bytes, the limit is 100"):
        Tokenizer.from_file(path)


@given(data=st.data())
def test_cut_file_is_refused(nano_file: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = nano_file.read_bytes().rstrip()
    path = tmp_path_factory.mktemp("cut") / "tekken.json"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError):
        Tokenizer.from_file(path)


def without(section: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(section)


def put(value: Any, *where: Any) -> Callable[[dict[str, Any]], object]:
    def change(content: Any) -> None:
        for key in where[:-1]:
            content = content[key]
        content[where[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("vocab"),
        without("special_tokens"),
        without("model_settings_builder"),
        put(None, "vocab"),
        put([], "vocab"),
        put("!", "vocab", 300, "token_bytes"),
        put(7, "vocab", 300, "rank"),
        put("QQ==", "vocab", 300, "token_bytes"),  # a piece twice
        put("[INST]", "special_tokens", 34, "token_str"),  # a name twice, and no [THINK]
        put("[OTHER]", "special_tokens", 34, "token_str"),
        put(10, "config", "default_num_special_tokens"),
        put(10**9, "config", "default_vocab_size"),
        put("(", "config", "pattern"),
        put(3, "config", "pattern"),
        put(0, "image", "image_patch_size"),
        put("x", "image"),
        put({}, "model_settings_builder"),
        put([], "model_settings_builder", "reasoning_effort", "values"),
        put(["none", "extreme"], "model_settings_builder", "reasoning_effort", "values"),
    ],
)
def test_wrong_content_is_refused(nano_file: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(nano_file.read_text())
    change(content)
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"config": 1}', '{"config": {"version": "v3"}}', "[" * 100_000])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tekken.json"
    path.write_text(text)
    with pytest.raises(CheckpointError):
        Tokenizer.from_file(path)


def test_other_pattern_is_refused_before_it_runs(nano_file: Path, tmp_path: Path) -> None:
    content = json.loads(nano_file.read_text())
    content["config"]["pattern"] = r"(\s*)*x"
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UnsupportedModelError, match="another pattern than Tekken's"):
        Tokenizer.from_file(path)


def test_other_version_is_named(nano_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    path.write_text(nano_file.read_text().replace('"v15"', '"v13"'))
    with pytest.raises(UnsupportedModelError, match=r"version 'v13'; small4 reads version 'v15'"):
        Tokenizer.from_file(path)
