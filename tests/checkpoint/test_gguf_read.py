"""GGUF files of other programs: their types, their splits, and what is wrong with them."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from small4.checkpoint.gguf_read import open_gguf
from small4.checkpoint.gguf_write import write_gguf
from small4.errors import CheckpointNotFoundError, TensorMismatchError, UnsupportedModelError
from tests.checkpoint.gguf_models import InMemory, load, logits, splice, tiny_config, tiny_model, write_foreign


@pytest.mark.parametrize("architecture", ["mistral4", "deepseek2"])
def test_a_file_of_llama_cpps_converters_is_read_with_the_plain_scale_and_a_note(
    architecture: str, tmp_path: Path
) -> None:
    config = tiny_config(vision=None)
    model = tiny_model(config)
    write_foreign(tmp_path / "x.gguf", model, architecture=architecture)
    checkpoint = open_gguf(tmp_path / "x.gguf")
    assert checkpoint.config == config
    assert checkpoint.config.yarn is not None
    assert not checkpoint.config.yarn.apply_scale
    assert "softmax scale" in checkpoint.notes[0]
    assert torch.equal(logits(load(checkpoint)), logits(model))


def test_a_projector_with_the_text_models_epsilon_is_read_with_the_encoders_own(tmp_path: Path) -> None:
    config = tiny_config()
    write_gguf(InMemory(tiny_model(config)), tmp_path, "gguf-bf16")
    content = (tmp_path / "mmproj-model.gguf").read_bytes()
    key = b"clip.vision.attention.layer_norm_epsilon"
    at = content.index(key) + len(key) + 4
    content = content[:at] + struct.pack("<f", config.norm_eps) + content[at + 4 :]
    (tmp_path / "mmproj-model.gguf").write_bytes(content)
    assert open_gguf(tmp_path).config.vision.norm_eps == config.norm_eps  # our own file: it means what it says
    (tmp_path / "mmproj-model.gguf").write_bytes(content.replace(b"small4.image_token_id", b"other4.image_token_id"))
    checkpoint = open_gguf(tmp_path)
    assert checkpoint.config == config
    assert "1e-05 is taken" in checkpoint.notes[0]


@pytest.mark.parametrize(("type_name", "steps"), [("Q8_0", 127), ("Q4_0", 8), ("F16", 2**10), ("F32", 2**23)])
def test_quantised_types_equal_the_gguf_packages_own_output(type_name: str, steps: int, tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None), torch.float32)
    write_foreign(tmp_path / "x.gguf", model, type_name=type_name)
    checkpoint = open_gguf(tmp_path / "x.gguf")
    for name in ("output.weight", "layers.1.experts.w2", "layers.0.attention.wq_a.weight"):
        original = model.get_parameter(name).detach()
        kind = GGMLQuantizationType[type_name]
        expected = dequantize(quantize(original.numpy(), kind), kind).reshape(original.shape)
        read = checkpoint.read(name).to_dense(torch.float32)
        assert np.array_equal(read.numpy(), expected)
        assert (read - original).abs().max() <= original.abs().max() / steps


def test_q4_k_and_q6_k_blocks_mean_what_their_format_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = tiny_model(tiny_config(vision=None, dim=256, q_lora_rank=256), torch.float32)
    raw = {
        "Q4_K": rng.integers(0, 256, (256, 144), dtype=np.uint8),
        "Q6_K": rng.integers(0, 256, (256, 210), dtype=np.uint8),
    }
    for blocks, places in ((raw["Q4_K"], (0, 2)), (raw["Q6_K"], (208,))):
        for at in places:  # finite float16 scales
            blocks[:, at : at + 2] = np.float16(0.01 + rng.random((256, 1)) / 8).view(np.uint8)
    for type_name, slow in (("Q4_K", slow_q4_k), ("Q6_K", slow_q6_k)):
        path = tmp_path / f"{type_name}.gguf"
        write_foreign(path, model, leave_out=("blk.0.attn_q_a.weight",))
        splice(path, "blk.0.attn_q_a.weight", type_name, raw[type_name])
        read = open_gguf(path).read("layers.0.attention.wq_a.weight").to_dense(torch.float32)
        expected = torch.tensor([slow(bytes(block)) for block in raw[type_name][:8]])
        assert torch.allclose(read[:8], expected, rtol=1e-6, atol=1e-6)


def half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block, np.float16, 1, at)[0])


def slow_q4_k(block: bytes) -> list[float]:
    """256 values: 8 groups of 32 with 6-bit scales and minima, times two float16; low nibbles are the even group."""
    d, dmin, packed, codes = half(block, 0), half(block, 2), block[4:16], block[16:]
    values = []
    for group in range(8):
        if group < 4:
            scale, minimum = packed[group] & 63, packed[group + 4] & 63
        else:
            scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4)
            minimum = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4)
        for k in range(32):
            code = codes[group // 2 * 32 + k]
            values.append(d * scale * (code >> 4 if group % 2 else code & 15) - dmin * minimum)
    return values


def slow_q6_k(block: bytes) -> list[float]:
    """256 values: 16 groups of 16 with int8 scales times a float16; 4 low bits and 2 high bits apart, minus 32."""
    low, high, scales, d = block[:128], block[128:192], np.frombuffer(block, np.int8, 16, 192), half(block, 208)
    values = []
    for k in range(256):
        part, row, column = k // 128, k % 128 // 32, k % 32
        nibbles = low[part * 64 + row % 2 * 32 + column]
        bits = high[part * 32 + column] >> (2 * row) & 3
        code = (nibbles >> 4 if row >= 2 else nibbles & 15) | bits << 4
        values.append(d * int(scales[k // 16]) * (code - 32))
    return values


def test_a_model_with_an_unsplit_kv_b_is_read(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    parts = tuple(f"blk.{i}.attn_{half}_b.weight" for i in range(3) for half in "kv")
    write_foreign(tmp_path / "x.gguf", model, leave_out=parts)
    with pytest.raises(TensorMismatchError, match=r"missing: blk\.0\.attn_k_b"):
        open_gguf(tmp_path / "x.gguf")
    for i in range(3):
        weight = model.get_parameter(f"layers.{i}.attention.wkv_b.weight").detach().float().numpy()
        splice(tmp_path / "x.gguf", f"blk.{i}.attn_kv_b.weight", "BF16", quantize(weight, GGMLQuantizationType.BF16))
    assert torch.equal(logits(load(open_gguf(tmp_path / "x.gguf"))), logits(model))


def test_a_missing_and_a_left_over_tensor_are_both_named(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    write_foreign(tmp_path / "x.gguf", model, leave_out=("blk.1.ffn_down_exps.weight",))
    splice(tmp_path / "x.gguf", "blk.1.strange.weight", "F32", np.zeros((2, 2), np.float32))
    with pytest.raises(TensorMismatchError, match=r"missing: blk\.1\.ffn_down_exps.*unexpected: blk\.1\.strange"):
        open_gguf(tmp_path / "x.gguf")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    write_foreign(tmp_path / "x.gguf", model, leave_out=("blk.2.attn_output.weight",))
    splice(tmp_path / "x.gguf", "blk.2.attn_output.weight", "F32", np.zeros((64, 32), np.float32))
    with pytest.raises(TensorMismatchError, match=r"attn_output.*\[64, 32\].*\[64, 64\]"):
        open_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("extra", "reason"), [({"expert_gating_func": 2}, "softmax"), ({"expert_group_count": 4}, "groups")]
)
def test_models_that_route_otherwise_are_refused(extra: dict[str, float], reason: str, tmp_path: Path) -> None:
    write_foreign(tmp_path / "x.gguf", tiny_model(tiny_config(vision=None)), architecture="deepseek2", **extra)
    with pytest.raises(UnsupportedModelError, match=reason):
        open_gguf(tmp_path / "x.gguf")


def test_other_architectures_and_types_are_refused_by_name(tmp_path: Path) -> None:
    write_foreign(tmp_path / "x.gguf", tiny_model(tiny_config(vision=None)), architecture="llama")
    with pytest.raises(UnsupportedModelError, match="architecture 'llama'"):
        open_gguf(tmp_path / "x.gguf")
    write_foreign(tmp_path / "y.gguf", tiny_model(tiny_config(vision=None)), type_name="Q5_0")
    with pytest.raises(UnsupportedModelError, match="GGML type number 6"):
        open_gguf(tmp_path / "y.gguf")


def test_a_model_split_into_parts_is_read_from_any_of_them(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None))
    write_foreign(tmp_path / "whole.gguf", model)
    reader = gguf.GGUFReader(tmp_path / "whole.gguf")
    for number, tensors in enumerate((reader.tensors[:9], reader.tensors[9:]), start=1):
        writer = gguf.GGUFWriter(tmp_path / f"part-0000{number}-of-00002.gguf", "mistral4")
        writer.add_uint16("split.count", 2)
        for key, field in reader.fields.items():
            if number == 1 and key.startswith("mistral4."):
                writer.add_key_value(key, field.contents(), field.types[0])
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    (tmp_path / "whole.gguf").unlink()
    for path in (tmp_path, tmp_path / "part-00002-of-00002.gguf"):
        assert torch.equal(logits(load(open_gguf(path))), logits(model))
    (tmp_path / "part-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointNotFoundError, match="part-00002-of-00002"):
        open_gguf(tmp_path / "part-00001-of-00002.gguf")
