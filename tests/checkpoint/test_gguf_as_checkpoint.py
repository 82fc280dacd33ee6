"""GGUF through the doors that every format goes through: load, save, describe, verify."""

from pathlib import Path

import numpy as np
import pytest
import torch

from small4.checkpoint.describe import describe
from small4.checkpoint.load import load_config, load_model, open_checkpoint
from small4.checkpoint.save import save_model
from small4.checkpoint.verify import verify
from small4.errors import HeaderError, SaveError
from tests.checkpoint.gguf_models import logits, splice, tiny_config, tiny_model, write_foreign


def test_a_model_saved_as_bf16_gguf_loads_with_equal_logits(tmp_path: Path) -> None:
    model = tiny_model(tiny_config())
    save_model(model, tmp_path / "m", format="gguf-bf16")
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == [
        "mmproj-model.gguf", "model.gguf", "small4-manifest.json",
    ]  # fmt: skip
    assert load_config(tmp_path / "m") == model.config
    for path in (tmp_path / "m", tmp_path / "m" / "model.gguf"):
        loaded = load_model(path)
        assert all(parameter.dtype == torch.bfloat16 for parameter in loaded.parameters())
        assert torch.equal(logits(loaded), logits(model))


def test_other_formats_become_gguf_and_gguf_becomes_them(tmp_path: Path) -> None:
    model = tiny_model(tiny_config())
    save_model(model, tmp_path / "native", format="native-bf16")
    save_model(open_checkpoint(tmp_path / "native"), tmp_path / "x.gguf", format="gguf-bf16")
    save_model(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "hf", format="hf-bf16")
    assert torch.equal(logits(load_model(tmp_path / "hf")), logits(model))


@pytest.mark.parametrize(
    ("type_name", "dtype"),
    [("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16), ("F16", torch.float32), ("F32", torch.float32)],
)
def test_a_model_loaded_as_stored_has_one_type(type_name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    write_foreign(tmp_path / "x.gguf", tiny_model(tiny_config(vision=None)), type_name=type_name)
    as_stored = load_model(tmp_path / "x.gguf", dtype=None)
    assert {parameter.dtype for parameter in as_stored.parameters()} == {dtype}
    assert logits(as_stored).dtype == dtype
    as_wished = load_model(tmp_path / "x.gguf", dtype=torch.float32)
    assert {parameter.dtype for parameter in as_wished.parameters()} == {torch.float32}


def test_a_tokenizer_beside_the_source_comes_along(tmp_path: Path) -> None:
    save_model(tiny_model(tiny_config(vision=None)), tmp_path / "a", format="native-bf16")
    (tmp_path / "a" / "tekken.json").write_text("not json")
    with pytest.raises(SaveError, match="tekken"):
        save_model(open_checkpoint(tmp_path / "a"), tmp_path / "b", format="gguf-bf16")
    assert not (tmp_path / "b").exists()


def test_a_save_replaces_what_small4_wrote_and_nothing_else(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    save_model(model, tmp_path / "m", format="native-bf16")
    save_model(model, tmp_path / "m", format="gguf-bf16")
    assert open_checkpoint(tmp_path / "m").format == "gguf-bf16"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(SaveError, match="did not write"):
        save_model(model, tmp_path / "other", format="gguf-bf16")


def test_describe_counts_types_and_components_and_tells_about_the_scale(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    write_foreign(tmp_path / "x.gguf", model, type_name="Q8_0", leave_out=("blk.2.attn_output.weight",))
    description = describe(tmp_path / "x.gguf")
    assert set(description.bytes_by_type) == {"F32", "Q8_0"}
    assert description.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert description.missing == ("blk.2.attn_output.weight",)
    assert "softmax scale" in description.notes[0]
    assert "softmax scale" in description.to_dict()["notes"][0]


def test_verify_finds_a_changed_byte_a_nan_and_a_broken_header(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    save_model(model, tmp_path / "m", format="gguf-bf16")
    assert verify(tmp_path / "m").is_good
    file = tmp_path / "m" / "model.gguf"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    assert [problem.where for problem in verify(tmp_path / "m").problems] == ["model.gguf"]

    write_foreign(tmp_path / "x.gguf", model, leave_out=("output_norm.weight",))
    splice(tmp_path / "x.gguf", "output_norm.weight", "F32", np.full(64, np.nan, np.float32))
    (problem,) = verify(tmp_path / "x.gguf").problems
    assert (problem.where, problem.what) == ("norm.weight", "holds NaN or infinity")

    (tmp_path / "x.gguf").write_bytes(content[:500])
    assert "breaks off" in verify(tmp_path / "x.gguf").problems[0].what
    with pytest.raises(HeaderError, match="breaks off"):
        load_model(tmp_path / "x.gguf")
