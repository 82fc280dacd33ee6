"""Listing and removing what was pulled."""

import json
from pathlib import Path

import pytest

from small4.errors import CheckpointError, CheckpointNotFoundError
from small4.hub.cache import list_models, remove_model

OFFICIAL = "models--mistralai--Mistral-Small-4-119B-2603"
NATIVE_CONFIG = {"dim": 64, "q_lora_rank": 8, "kv_lora_rank": 8}


def add_repository(cache: Path, folder: str, config_name: str, config: object) -> Path:
    """A repository in the hub's cache layout, with one snapshot of a config and 1000 bytes of weights."""
    weights = "consolidated.safetensors" if config_name == "params.json" else "model.safetensors"
    snapshot = cache / folder / "snapshots" / ("a" * 40)
    blobs = cache / folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "weights").write_bytes(b"x" * 1000)
    (snapshot / weights).symlink_to("../../blobs/weights")
    (snapshot / config_name).write_text(json.dumps(config))
    return snapshot


def test_models_of_the_architecture_are_listed_with_their_size_on_disk(tmp_path: Path) -> None:
    snapshot = add_repository(tmp_path, OFFICIAL, "params.json", NATIVE_CONFIG)
    add_repository(tmp_path, "models--me--tuned", "config.json", {"text_config": {"model_type": "mistral4"}})
    add_repository(tmp_path, "models--gpt--two", "config.json", {"model_type": "gpt2"})
    models = list_models(cache_dir=tmp_path)
    assert [(model.name, model.format) for model in models] == [("me/tuned", "hf"), ("small4", "native")]
    assert models[1].path == snapshot
    assert models[1].bytes == 1000 + (snapshot / "params.json").stat().st_size
    assert all(model.is_complete for model in models)


def test_an_interrupted_pull_is_listed_as_partial_and_can_be_removed(tmp_path: Path) -> None:
    blobs = tmp_path / OFFICIAL / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "00.incomplete").write_bytes(b"x" * 10)
    (model,) = list_models(cache_dir=tmp_path)
    assert (model.name, model.format, model.bytes, model.is_complete) == ("small4", "partial", 10, False)
    assert remove_model("small4", cache_dir=tmp_path).bytes == 10
    assert list(tmp_path.iterdir()) == []


def test_a_complete_revision_is_found_beside_one_whose_pull_was_interrupted(tmp_path: Path) -> None:
    whole = add_repository(tmp_path, OFFICIAL, "config.json", {"text_config": {"model_type": "mistral4"}})
    newer = whole.with_name("b" * 40)
    newer.mkdir()
    (newer / "config.json").write_text((whole / "config.json").read_text())
    (newer / "model-00001-of-00002.safetensors").touch()
    (tmp_path / OFFICIAL / "blobs" / "00.incomplete").touch()
    (model,) = list_models(cache_dir=tmp_path)
    assert (model.path, model.is_complete) == (whole, True)
    (whole / "model.safetensors").unlink()
    (model,) = list_models(cache_dir=tmp_path)
    assert not model.is_complete


def test_directories_and_gguf_files_that_the_caller_names_are_listed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "params.json").write_text(json.dumps(NATIVE_CONFIG))
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    models = list_models([tmp_path], cache_dir=tmp_path / "none")
    assert [(Path(model.name).name, model.format) for model in models] == [
        ("mine", "native"),
        ("other.gguf", "gguf"),
    ]


@pytest.mark.parametrize("name", ["small4", "mistralai/Mistral-Small-4-119B-2603"])
def test_a_model_is_removed_by_either_of_its_names_and_nothing_else_is(tmp_path: Path, name: str) -> None:
    add_repository(tmp_path, OFFICIAL, "params.json", NATIVE_CONFIG)
    add_repository(tmp_path, "models--gpt--two", "config.json", {"model_type": "gpt2"})
    remove_model(name, cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["models--gpt--two"]


def test_a_model_of_another_architecture_is_not_removed(tmp_path: Path) -> None:
    add_repository(tmp_path, "models--gpt--two", "config.json", {"model_type": "gpt2"})
    with pytest.raises(CheckpointNotFoundError, match="there is: none"):
        remove_model("gpt/two", cache_dir=tmp_path)


def test_a_directory_outside_the_cache_is_left_to_its_owner(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="by hand"):
        remove_model(str(tmp_path), cache_dir=tmp_path / "none")


def test_a_broken_or_huge_config_is_no_model(tmp_path: Path) -> None:
    snapshot = add_repository(tmp_path, "models--me--odd", "params.json", NATIVE_CONFIG)
    (snapshot / "params.json").write_text("{")
    assert list_models(cache_dir=tmp_path) == []
    (snapshot / "params.json").write_text(json.dumps(NATIVE_CONFIG) + " " * 2_000_000)
    assert list_models(cache_dir=tmp_path) == []
