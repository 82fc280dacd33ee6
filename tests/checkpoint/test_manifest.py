"""What small4 wrote is known by its manifest: every byte that differs is found, at load and by `verify`."""

import dataclasses
import json
import os

import pytest
import torch

from small4.checkpoint.describe import describe
from small4.checkpoint.digests import KnownDigests
from small4.checkpoint.load import compare_digests, load_model, open_checkpoint
from small4.checkpoint.save import save_model
from small4.checkpoint.verify import verify
from small4.errors import CheckpointError, ConfigError, VerificationError
from tests.checkpoint.tiny_models import DRAFT, TEXT, parameters, random_model, same

MANIFEST = "small4-manifest.json"


@pytest.fixture
def path(tmp_path):
    save_model(random_model(TEXT), tmp_path / "saved", format="hf-f32")
    return tmp_path / "saved"


def test_every_flipped_bit_of_the_data_is_found_and_the_tensor_named(path):
    file = path / "model.safetensors"
    whole = file.read_bytes()
    assert verify(path).is_good
    assert verify(path).has_manifest
    for position in range(len(whole) - 1, len(whole) // 2, -len(whole) // 16):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        report = verify(path)
        assert len(report.problems) >= 2
        assert any("saved" in problem.what for problem in report.problems)
        with pytest.raises(VerificationError, match=r"model\.safetensors"):
            load_model(path)
    file.write_bytes(whole)
    assert verify(path).is_good


def test_digests_are_compared_on_load_unless_told_otherwise(path):
    config = path / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(VerificationError, match=r"config\.json"):
        load_model(path)
    assert same(parameters(load_model(path, dtype=None, check_digests=False)), parameters(random_model(TEXT)))


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(path):
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["files"]["model.safetensors"]
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=r"model\.safetensors is not in the manifest"):
        load_model(path)
    assert not verify(path).is_good


def test_a_memory_that_errs_accuses_no_file(path, tmp_path):
    known = KnownDigests(tmp_path / "memory", min_bytes=0, min_age_seconds=0.0)
    checkpoint = open_checkpoint(path)
    compare_digests(checkpoint, known)
    for entry in known.directory.iterdir():
        entry.write_text(json.dumps(json.loads(entry.read_text()) | {"sha256": "0" * 64}))
    compare_digests(checkpoint, known)


@pytest.mark.slow
def test_digests_are_compared_on_load_whatever_the_size(tmp_path):
    model = random_model(dataclasses.replace(TEXT, dim=1024, vocab_size=90_000), dtype=torch.bfloat16)
    save_model(model, tmp_path / "large", format="hf-bf16")
    file = tmp_path / "large" / "model.safetensors"
    assert file.stat().st_size > 300e6
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(VerificationError, match=r"model\.safetensors its digest"):
        load_model(tmp_path / "large")


@pytest.mark.parametrize("text", ["{", "{}", '{"files": {"../x": {}}, "tensors": {}}', '{"files": [], "tensors": 1}'])
def test_a_broken_manifest_is_a_problem_not_a_crash(path, text):
    (path / MANIFEST).write_text(text)
    report = verify(path)
    assert not report.is_good
    assert report.to_dict()["problems"][0]["where"] == MANIFEST
    with pytest.raises((CheckpointError, ConfigError)):
        load_model(path)


def test_verify_reports_a_cut_file_and_goes_on(path):
    os.truncate(path / "model.safetensors", 1000)
    report = verify(path)
    assert report.format is None
    assert {problem.where for problem in report.problems} == {"model.safetensors", path.name}


def test_a_gguf_file_is_compared_with_the_manifest_beside_it(tmp_path):
    save_model(random_model(TEXT), tmp_path / "gguf", format="gguf-bf16")
    file = tmp_path / "gguf" / "model.gguf"
    assert verify(file).has_manifest
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    assert [problem.where for problem in verify(file).problems] == ["model.gguf"]
    with pytest.raises(VerificationError, match=r"model\.gguf"):
        load_model(file)


def test_a_gguf_file_beside_another_checkpoint_is_not_that_ones_business(path):
    save_model(random_model(TEXT), path / "model.gguf", format="gguf-bf16")
    load_model(path / "model.gguf")
    report = verify(path / "model.gguf")
    assert report.is_good
    assert not report.has_manifest


def test_a_draft_head_needs_no_tokenizer(tmp_path):
    save_model(random_model(DRAFT), tmp_path / "draft", format="native-f32")
    assert describe(tmp_path / "draft").tokenizer_error is None
    assert verify(tmp_path / "draft").warnings == ()
