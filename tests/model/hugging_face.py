"""The reference side of the parity tests: a Hugging Face model with the same weights as ours, for random configs.

`draw_case` makes a config from a seed, `build_pair` both models. Weights are large enough to matter (specification
6.1: the usual 0.02 would leave every softmax flat and the tests blind). The names are mapped here by hand, on
purpose apart from `checkpoint/names.py`, so that one table cannot be wrong in both places.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Mistral4Config, Mistral4ForCausalLM

from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig
from small4.model.transformer import Transformer

LONG_STARTS = (8184, 81912, 262096, 1048528)  # positions of the first token; the first two runs cross a step of l(pos)


@dataclass(frozen=True)
class Case:
    """One random model and what it reads."""

    seed: int
    config: ModelConfig
    image_sizes: tuple[tuple[int, int], ...]  # height, width in pixels


@dataclass(frozen=True)
class Pair:
    """Our model and the reference, of equal weights."""

    ours: Transformer
    theirs: nn.Module


def draw_case(seed: int) -> Case:
    """Config number `seed`: every shape drawn, odd ones included; a third of them see one or two images."""
    rng = random.Random(seed)
    vision = draw_vision(rng) if seed % 3 == 0 else None
    num_experts = rng.randint(2, 20)
    num_layers = rng.randint(1, 4)
    config = ModelConfig(
        dim=8 * rng.randint(6, 20),
        n_layers=num_layers,
        n_heads=rng.randint(1, 6),
        q_lora_rank=8 * rng.randint(2, 8),
        kv_lora_rank=8 * rng.randint(2, 8),
        qk_nope_head_dim=8 * rng.randint(1, 4),
        qk_rope_head_dim=8 * rng.randint(1, 4),
        v_head_dim=8 * rng.randint(1, 5),
        hidden_dim=8 * rng.randint(8, 24),
        vocab_size=rng.randint(80, 700),
        moe=MoeConfig(
            num_experts=num_experts,
            num_experts_per_tok=rng.randint(1, min(6, num_experts)),
            num_shared_experts=rng.choice([1, 1, 2]),
            expert_hidden_dim=8 * rng.randint(3, 10),
            routed_scale=rng.choice([1.0, 1.0, 2.5]),
            first_k_dense_replace=rng.choice([0, 0, 1]) if num_layers > 1 else 0,
        ),
        yarn=YarnConfig(factor=rng.choice([128.0, 128.0, 16.0]), apply_scale=rng.random() < 0.3),
        llama_4_scaling=QueryScalingConfig(beta=rng.choice([0.1, 0.1, 0.25])),
        tied_embeddings=vision is None and rng.random() < 0.2,
        vision=vision,
    )
    return Case(seed, config, draw_image_sizes(rng, vision, seed))


def draw_vision(rng: random.Random) -> VisionConfig:
    """A small image encoder."""
    num_heads = rng.randint(1, 4)
    return VisionConfig(
        hidden_size=num_heads * 4 * rng.randint(2, 6),
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=num_heads,
        intermediate_size=8 * rng.randint(4, 16),
        patch_size=rng.choice([6, 14]),
        image_size=1540,
        adapter_bias=rng.random() < 0.5,
    )


def draw_image_sizes(rng: random.Random, vision: VisionConfig | None, seed: int) -> tuple[tuple[int, int], ...]:
    """One image for even seeds, two for odd ones, of 1 to 5 merged rows and columns."""
    if vision is None:
        return ()
    unit = vision.patch_size * vision.spatial_merge_size
    return tuple((unit * rng.randint(1, 5), unit * rng.randint(1, 5)) for _ in range(1 + seed % 2))


def build_pair(config: ModelConfig, seed: int, dtype: torch.dtype) -> Pair:
    """Both models in `dtype`, ready to run; the reference with eager attention and its plain loop over experts."""
    ours = Transformer(config)
    fill(ours, seed)
    theirs = reference_model(config)
    theirs.load_state_dict(reference_state(ours.state_dict(), config), strict=True)
    return Pair(ours.to(dtype).eval(), cast_reference(theirs, dtype).eval())


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Random weights that keep every layer's output near size one, and a gate with clear favourites."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_bias = name.endswith(".bias")
            parameter.copy_(0.1 * noise + (0.0 if is_bias else 1.0))
        elif name.endswith("gate.weight"):
            parameter.copy_(3.0 * noise / parameter.shape[-1] ** 0.5)
        else:
            fan_in = parameter[0].numel() if parameter.ndim == 4 else parameter.shape[-1]
            parameter.copy_(noise / fan_in**0.5)


def cast_reference(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model.to(dtype)` that leaves rotary frequencies in float32, as loading from disk would."""
    frequencies = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)
    for name, buffer in frequencies.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer)
    return model


def reference_model(config: ModelConfig, **backends: str) -> nn.Module:
    """An unfilled reference; `backends` may name other attention and expert implementations than the eager ones."""
    implementations = {"attn_implementation": "eager", "experts_implementation": "eager", **backends}
    text = Mistral4Config(**text_fields(config), **implementations)
    if config.vision is None:
        return Mistral4ForCausalLM(text)
    vision = config.vision
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=text,
            vision_config={
                "model_type": "pixtral",
                "hidden_size": vision.hidden_size,
                "num_hidden_layers": vision.num_hidden_layers,
                "num_attention_heads": vision.num_attention_heads,
                "intermediate_size": vision.intermediate_size,
                "patch_size": vision.patch_size,
                "image_size": vision.image_size,
                "num_channels": vision.num_channels,
                "hidden_act": "silu",
            },
            image_token_index=vision.image_token_id,
            spatial_merge_size=vision.spatial_merge_size,
            multimodal_projector_bias=vision.adapter_bias,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
            **implementations,
        )
    )


def text_fields(config: ModelConfig) -> dict[str, Any]:
    """Our text config in the reference's words; without `apply_scale` its extra softmax factor is switched off."""
    moe, yarn, scaling = config.moe, config.yarn, config.llama_4_scaling
    assert moe is not None
    assert yarn is not None
    assert scaling is not None
    magnitude = {"mscale": 1.0, "mscale_all_dim": 1.0}
    if not yarn.apply_scale:
        magnitude = {"mscale_all_dim": 0.0, "attention_factor": 1.0}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "moe_intermediate_size": moe.expert_hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "n_shared_experts": moe.num_shared_experts,
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "routed_scaling_factor": moe.routed_scale,
        "first_k_dense_replace": moe.first_k_dense_replace,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_parameters": {
            "type": "yarn",
            "rope_type": "yarn",
            "rope_theta": config.rope_theta,
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "max_position_embeddings": config.max_position_embeddings,
            "beta_fast": yarn.beta,
            "beta_slow": yarn.alpha,
            "llama_4_scaling_beta": scaling.beta,
            **magnitude,
        },
    }


TEXT_NAMES = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.wq_a": "self_attn.q_a_proj",
    "attention.q_a_norm": "self_attn.q_a_layernorm",
    "attention.wq_b": "self_attn.q_b_proj",
    "attention.wkv_a_with_mqa": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_a_norm": "self_attn.kv_a_layernorm",
    "attention.wkv_b": "self_attn.kv_b_proj",
    "attention.wo": "self_attn.o_proj",
    "gate": "mlp.gate",
    "shared_experts.w1": "mlp.shared_experts.gate_proj",
    "shared_experts.w2": "mlp.shared_experts.down_proj",
    "shared_experts.w3": "mlp.shared_experts.up_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
VISION_NAMES = {
    "attention.wq": "attention.q_proj",
    "attention.wk": "attention.k_proj",
    "attention.wv": "attention.v_proj",
    "attention.wo": "attention.o_proj",
    "feed_forward.w1": "feed_forward.gate_proj",
    "feed_forward.w2": "feed_forward.down_proj",
    "feed_forward.w3": "feed_forward.up_proj",
}
PROJECTOR_NAMES = {
    "pre_mm_projector_norm": "norm",
    "patch_merger.merging_layer": "patch_merger.merging_layer",
    "vision_language_adapter.w_in": "linear_1",
    "vision_language_adapter.w_out": "linear_2",
}


def reference_state(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our tensors under the reference's names; the very same memory except for the vision queries and keys."""
    renamed = {reference_name(name, config): half_split(name, tensor, config) for name, tensor in state.items()}
    if config.tied_embeddings:
        renamed["lm_head.weight"] = state["tok_embeddings.weight"]
    return renamed


def reference_name(name: str, config: ModelConfig) -> str:
    """One parameter's name on the other side."""
    text = "model." if config.vision is None else "model.language_model."
    stem, _, kind = name.rpartition(".")
    if name.startswith("layers."):
        _, layer, inner = stem.split(".", 2)
        if inner == "experts":
            return f"{text}layers.{layer}.mlp.experts." + {"w13": "gate_up_proj", "w2": "down_proj"}[kind]
        return f"{text}layers.{layer}.{TEXT_NAMES[inner]}.{kind}"
    if stem in PROJECTOR_NAMES:
        return f"model.multi_modal_projector.{PROJECTOR_NAMES[stem]}.{kind}"
    if stem.startswith("vision_encoder.transformer.layers."):
        *_, layer, inner = stem.split(".", 4)
        return f"model.vision_tower.transformer.layers.{layer}.{VISION_NAMES.get(inner, inner)}.{kind}"
    if stem.startswith("vision_encoder."):
        return "model.vision_tower." + name.removeprefix("vision_encoder.")
    return {"tok_embeddings": f"{text}embed_tokens", "norm": f"{text}norm", "output": "lm_head"}[stem] + "." + kind


def half_split(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Vision query and key rows from interleaved pairs to all first members, then all second ones."""
    if config.vision is None or not name.endswith(("attention.wq.weight", "attention.wk.weight")):
        return tensor
    heads = tensor.view(config.vision.num_attention_heads, -1, 2, tensor.shape[1])
    return heads.transpose(1, 2).reshape(tensor.shape)


def draw_prompt(case: Case, num_tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Token ids with room for the case's images, and the images."""
    generator = torch.Generator().manual_seed(1000 + case.seed)
    tokens_T = torch.randint(14, case.config.vocab_size, (num_tokens,), generator=generator)
    vision = case.config.vision
    if vision is None:
        return tokens_T, []
    unit, parts, images = vision.patch_size * vision.spatial_merge_size, [tokens_T[:5]], []
    for height, width in case.image_sizes:
        row = [vision.image_token_id] * (width // unit) + [vision.image_break_token_id]
        image_tokens = row * (height // unit)
        image_tokens[-1] = vision.image_end_token_id
        parts += [torch.tensor(image_tokens), torch.randint(14, case.config.vocab_size, (3,), generator=generator)]
        images.append(torch.randn(vision.num_channels, height, width, generator=generator))
    return torch.cat([*parts, tokens_T[5:]]), images


def image_arguments(images: Sequence[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Images as the reference takes them: padded at the right and below to one size, true sizes beside them."""
    if not images:
        return {}
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = sizes.amax(0).tolist()
    padded = torch.zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(padded, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return {"pixel_values": padded.to(dtype), "image_sizes": sizes}
