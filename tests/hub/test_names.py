"""What the user calls a model is found where it lies; what is not there is told with the way out."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from small4.errors import CheckpointNotFoundError
from small4.hub.names import known_names, locate, nano_directory


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def pulled(cache: Path, repository: str, *files: str) -> Path:
    snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "params.json").write_text(json.dumps({"q_lora_rank": 1, "kv_lora_rank": 1}))
    for name in files:
        (snapshot / name).touch()
    return snapshot


def test_nano_is_the_shipped_one_and_a_path_of_that_name_is_a_path(tmp_path: Path) -> None:
    assert locate("nano") == nano_directory()
    (tmp_path / "nano").mkdir()
    assert locate(tmp_path / "nano") == tmp_path / "nano"


def test_an_official_name_is_not_taken_for_a_directory_of_that_name(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "small4").mkdir()
    snapshot = pulled(cache, "mistralai/Mistral-Small-4-119B-2603", "consolidated.safetensors")
    assert locate("small4") == snapshot
    assert locate("./small4") == Path("small4")


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert locate("~/mine") == tmp_path / "mine"


def test_a_pulled_model_is_found_by_both_of_its_names(cache: Path) -> None:
    snapshot = pulled(cache, "mistralai/Mistral-Small-4-119B-2603", "consolidated.safetensors")
    assert locate("small4") == locate("mistralai/Mistral-Small-4-119B-2603") == snapshot
    assert known_names()[:2] == ["nano", "small4"]


def test_a_pull_that_was_interrupted_is_not_loaded(cache: Path) -> None:
    pulled(cache, "mistralai/Mistral-Small-4-119B-2603", "consolidated-00001-of-00002.safetensors")
    with pytest.raises(CheckpointNotFoundError, match="go on with: small4 pull small4"):
        locate("small4")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("small4", "fetch it with: small4 pull small4"),
        ("some/model", "fetch it with: small4 pull some/model"),
        ("smal4", "did you mean small4"),
        ("zebra", "there are nano, small4"),
        ("./zebra", "there is nothing at zebra; check the path"),
        ("a/b/c", "there is nothing at a/b/c"),
        ("zebra.gguf", "there is nothing at zebra.gguf"),
        (Path("small4"), "there is nothing at small4; check the path"),
    ],
    ids=str,
)
def test_what_is_not_there_is_told_with_the_way_out(name: str | Path, told: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=told):
        locate(name)
