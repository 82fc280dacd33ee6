"""Tiny random models for the GGUF tests, and files of them as other programs write them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

from small4.checkpoint.gguf_read import GgufCheckpoint
from small4.checkpoint.names import gguf_names
from small4.checkpoint.stored import Dense
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig, MoeConfig, VisionConfig
from small4.model.transformer import Transformer

VISION = VisionConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=4, image_size=64,
    max_image_size=64,
)  # fmt: skip


def tiny_config(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "dim": 64, "n_layers": 3, "n_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16, "v_head_dim": 32, "hidden_dim": 96, "vocab_size": 96, "max_position_embeddings": 4096,
        "moe": MoeConfig(num_experts=4, num_experts_per_tok=2, expert_hidden_dim=32, first_k_dense_replace=1),
        "vision": VISION,
    }  # fmt: skip
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def tiny_model(config: ModelConfig, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Transformer:
    """Random weights large enough to show every mistake in the logits."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
            parameter.copy_(noise if parameter.ndim > 1 else 1 + 0.1 * noise)
    return model.to(dtype)


@dataclass(frozen=True)
class InMemory:
    """A model in memory, offered as a checkpoint."""

    model: Transformer

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def read(self, name: str) -> Dense:
        return Dense(self.model.get_parameter(name).detach())

    def names(self) -> Iterable[str]:
        return [name for name, _ in self.model.named_parameters()]


def load(checkpoint: GgufCheckpoint, dtype: torch.dtype = torch.bfloat16) -> Transformer:
    model = Transformer(checkpoint.config).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.read(name).to_dense(dtype))
    return model


def logits(model: Transformer) -> torch.Tensor:
    config = model.config
    tokens = torch.arange(24) * 7 % 9 + 40
    images = []
    if config.vision is not None:
        tokens[3:7] = config.vision.image_token_id
        side = 2 * config.vision.patch_size * config.vision.spatial_merge_size
        images = [torch.linspace(-1, 1, 3 * side * side).view(3, side, side)]
    with torch.no_grad():
        return model(tokens, torch.arange(24) + 60, FullAttention([24]), images)


def write_foreign(path: Path, model: Transformer, *, architecture: str = "mistral4", type_name: str = "BF16",
                  leave_out: tuple[str, ...] = (), **extra: float) -> None:  # fmt: skip
    """A file as llama.cpp's converters write it, through the `gguf` package: split experts, log multiplier 0.1."""
    c = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.dim)
    writer.add_feed_forward_length(c.hidden_dim)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_q_lora_rank(c.q_lora_rank)
    writer.add_kv_lora_rank(c.kv_lora_rank)
    writer.add_key_length_mla(c.head_dim)
    writer.add_value_length_mla(c.v_head_dim)
    writer.add_rope_dimension_count(c.qk_rope_head_dim)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(128.0)
    writer.add_rope_scaling_orig_ctx_len(8192)
    writer.add_rope_scaling_yarn_log_mul(0.1)
    writer.add_attn_temperature_scale(0.1)
    writer.add_leading_dense_block_count(c.moe.first_k_dense_replace)
    writer.add_expert_count(c.moe.num_experts)
    writer.add_expert_used_count(c.moe.num_experts_per_tok)
    writer.add_expert_shared_count(c.moe.num_shared_experts)
    writer.add_expert_feed_forward_length(c.moe.expert_hidden_dim)
    writer.add_token_list(["a"] * c.vocab_size)
    for key, value in extra.items():
        writer.add_uint32(f"{architecture}.{key}", int(value))
    kind = GGMLQuantizationType[type_name]

    def put(name: str, tensor: torch.Tensor) -> None:
        values = tensor.detach().float().contiguous().numpy()
        if name not in leave_out:
            plain = tensor.ndim == 1 or name.endswith("gate_inp.weight")
            writer.add_tensor(name, values if plain else quantize(values, kind), raw_dtype=None if plain else kind)

    for name, tensor in model.named_parameters():
        names = gguf_names(name)
        if name.endswith("wkv_b.weight"):
            heads = tensor.view(c.n_heads, -1, c.kv_lora_rank)
            put(names[0], heads[:, : c.qk_nope_head_dim].transpose(1, 2))
            put(names[1], heads[:, c.qk_nope_head_dim :])
        elif name.endswith("experts.w13"):
            put(names[0].replace("gate_up", "gate"), tensor[:, : tensor.shape[1] // 2])
            put(names[0].replace("gate_up", "up"), tensor[:, tensor.shape[1] // 2 :])
        else:
            put(names[0], tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def splice(path: Path, name: str, type_name: str, rows: np.ndarray) -> None:
    """Add a tensor of raw blocks to a file, through the `gguf` package."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "mistral4")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if array else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor(name, rows, raw_dtype=GGMLQuantizationType[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)
