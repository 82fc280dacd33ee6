"""A model written as GGUF comes back, and the `gguf` package reads the file as we do."""

import dataclasses
import re
from pathlib import Path

import gguf
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from small4.checkpoint.gguf_header import read_array, read_header
from small4.checkpoint.gguf_read import is_gguf, open_gguf
from small4.checkpoint.gguf_write import _outputs, write_gguf
from small4.errors import CheckpointNotFoundError
from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig
from tests.checkpoint.gguf_models import VISION, InMemory, load, logits, tiny_config, tiny_model

CONFIGS = {
    "with vision": tiny_config(),
    "text alone": tiny_config(vision=None),
    "tied, no shared expert": tiny_config(
        tied_embeddings=True, vision=None, moe=MoeConfig(num_experts=3, num_shared_experts=0, num_experts_per_tok=1,
                                                         expert_hidden_dim=32, routed_scale=2.5)
    ),
    "dense, plain rope": tiny_config(moe=None, yarn=None, llama_4_scaling=None, vision=None),
    "adapter bias, odd ids": tiny_config(
        vision=dataclasses.replace(VISION, adapter_bias=True, image_token_id=20, image_break_token_id=22,
                                   image_end_token_id=23, max_image_size=32, norm_eps=3e-5, rope_theta=500.0)
    ),
    "other constants": tiny_config(
        vision=None, norm_eps=1e-5, rope_theta=12345.0,
        yarn=YarnConfig(factor=4.0, original_max_position_embeddings=64, beta=16.0, alpha=2.0, apply_scale=True),
        llama_4_scaling=QueryScalingConfig(beta=0.3, original_max_position_embeddings=32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_bf16_model_comes_back_with_equal_config_weights_and_logits(config: ModelConfig, tmp_path: Path) -> None:
    model = tiny_model(config)
    written = write_gguf(InMemory(model), tmp_path, "gguf-bf16")
    assert [path.name for path in written] == ["model.gguf", "mmproj-model.gguf"][: 2 if config.vision else 1]
    checkpoint = open_gguf(tmp_path)
    assert checkpoint.config == config
    assert checkpoint.notes == ()
    assert checkpoint.format == "gguf-bf16"
    for name in checkpoint.names():
        assert torch.equal(checkpoint.read(name).to_dense(torch.bfloat16), model.get_parameter(name)), name
    assert torch.equal(logits(load(checkpoint)), logits(model))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_q8_0_model_comes_back_within_half_a_step_of_each_block(config: ModelConfig, tmp_path: Path) -> None:
    model = tiny_model(config)
    write_gguf(InMemory(model), tmp_path / "m.gguf", "gguf-q8_0")
    checkpoint = open_gguf(tmp_path / "m.gguf")
    assert checkpoint.config == config
    types = checkpoint.types()
    assert {"F32", "Q8_0"} == set(types.values())
    for name in checkpoint.names():
        # The blocks of wkv_b's key half run along another axis: bound it by the whole tensor's largest value.
        original = model.get_parameter(name).float()
        step = original.abs().max() / 127
        # Half a step of rounding, and the block's scale is float16: 2^-11 of up to 127 steps.
        assert (checkpoint.read(name).to_dense(torch.float32) - original).abs().max() <= step * (0.5 + 127 * 2**-11), (
            name
        )
    difference = (logits(load(checkpoint, torch.float32)) - logits(model.float())).abs()
    assert 0 < difference.mean() < 0.05


def test_rows_that_no_block_divides_stay_bf16(tmp_path: Path) -> None:
    config = tiny_config(vision=None, q_lora_rank=24, qk_nope_head_dim=16)
    write_gguf(InMemory(tiny_model(config)), tmp_path, "gguf-q8_0")
    types = open_gguf(tmp_path).types()
    assert types["blk.0.attn_q_b.weight"] == types["blk.0.attn_k_b.weight"] == "BF16"
    assert types["blk.0.attn_q_a.weight"] == types["blk.0.attn_v_b.weight"] == "Q8_0"
    assert types["blk.1.ffn_gate_inp.weight"] == types["output_norm.weight"] == "F32"


@pytest.mark.parametrize("kind", ["gguf-bf16", "gguf-q8_0"])
def test_the_gguf_package_reads_the_same_values_and_tensors(kind: str, tmp_path: Path) -> None:
    for path in write_gguf(InMemory(tiny_model(tiny_config())), tmp_path, kind):  # type: ignore[arg-type]
        header, reader = read_header(path), gguf.GGUFReader(path)
        theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        assert set(theirs) == set(header.values)
        for name, value in theirs.items():
            assert (read_array(header, name) if isinstance(value, list) else header.values[name]) == value
        assert [tensor.name for tensor in reader.tensors] == list(header.tensors)
        for tensor in reader.tensors:
            record = header.tensors[tensor.name]
            assert (record.type_name, record.shape) == (tensor.tensor_type.name, tuple(tensor.shape.tolist()[::-1]))
            assert (record.offset, record.num_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_tensor_names_are_those_of_the_architecture_in_the_gguf_package(tmp_path: Path) -> None:
    text, projector = write_gguf(InMemory(tiny_model(tiny_config())), tmp_path, "gguf-bf16")
    for path, architecture in ((text, gguf.MODEL_ARCH.MISTRAL4), (projector, gguf.MODEL_ARCH.MMPROJ)):
        known = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architecture]}
        for name in read_header(path).tensors:
            template = re.sub(r"(blk|mm)\.\d+", r"\1.{bid}", name).removesuffix(".weight")
            assert template in known, name


def test_llama_cpps_key_half_is_transposed_per_head(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None), torch.float32)
    write_gguf(InMemory(model), tmp_path, "gguf-bf16")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.0.attn_k_b.weight"].shape.tolist() == [32, 32, 2]  # nope, latent, heads
    key = torch.from_numpy(dequantize(tensors["blk.0.attn_k_b.weight"].data, GGMLQuantizationType.BF16))
    wkv_b = model.get_parameter("layers.0.attention.wkv_b.weight").view(2, 64, 32)
    for head in range(2):
        assert torch.equal(key[head].T, wkv_b[head, :32].bfloat16().float())


def test_a_directory_with_several_models_asks_for_one_of_them(tmp_path: Path) -> None:
    model = InMemory(tiny_model(tiny_config()))
    write_gguf(model, tmp_path / "a.gguf", "gguf-bf16")
    write_gguf(model, tmp_path / "b.gguf", "gguf-q8_0")
    with pytest.raises(CheckpointNotFoundError, match=r"a\.gguf, b\.gguf"):
        open_gguf(tmp_path)
    assert open_gguf(tmp_path / "b.gguf").config.vision == VISION
    (tmp_path / "mmproj-b.gguf").unlink()
    assert open_gguf(tmp_path / "b.gguf").config.vision is None
    assert open_gguf(tmp_path / "b.gguf", tmp_path / "mmproj-a.gguf").config.vision == VISION
    assert is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "c.bin")


def test_released_memory_is_read_again_from_the_file(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision=None, vocab_size=4096))
    write_gguf(InMemory(model), tmp_path, "gguf-bf16")
    checkpoint = open_gguf(tmp_path)
    before = checkpoint.read("output.weight").tensor.clone()
    checkpoint.release("output.weight")
    assert torch.equal(checkpoint.read("output.weight").tensor, before)


def test_the_release_has_every_tensor_of_the_specification_in_its_shape() -> None:
    outputs = {output.name: output for output in _outputs(ModelConfig(), "gguf-bf16")}
    assert outputs["blk.35.attn_k_b.weight"].shape == (32, 256, 64)
    assert outputs["blk.35.attn_v_b.weight"].shape == (32, 128, 256)
    assert outputs["blk.0.ffn_gate_up_exps.weight"].shape == (128, 4096, 4096)
    assert outputs["blk.0.ffn_down_exps.weight"].shape == (128, 4096, 2048)
    assert sum(torch.Size(output.shape).numel() for output in outputs.values()) == 119_401_298_944
    assert VisionConfig().num_hidden_layers == sum(name.endswith("attn_out.weight") for name in outputs)
