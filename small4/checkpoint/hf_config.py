"""Translates a model's shape between `ModelConfig` and Hugging Face's `config.json`.

One constant has two spellings: whether YaRN multiplies the softmax scale. `params.json` says it outright, as
`yarn.apply_scale`. In `config.json` it would be `mscale_all_dim`, but the released file carries 1.0 there and means
"no", while transformers since 5.17 takes 1.0 for "yes". So a `config.json` is read as "no" unless it carries our own
key `yarn_apply_scale`, and written so that every reader computes the right thing: "no" as mscale 0, mscale_all_dim 0
and attention_factor 1; "yes" as 1, 1, 1 and the key.
"""

import math
from collections.abc import Mapping
from typing import Any

from small4.checkpoint.fields import Fields
from small4.checkpoint.stored import Format
from small4.errors import ConfigError, UnsupportedModelError
from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig

TEXT_ARCHITECTURE = "Mistral4ForCausalLM"
IMAGE_ARCHITECTURE = "Mistral3ForConditionalGeneration"
TRANSFORMERS_VISION_EPS = 1e-5  # fixed in transformers' code; its config has no field for it
# Our field -> Hugging Face's, for whole numbers.
TEXT_NAMES = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "max_position_embeddings": "max_position_embeddings",
}
MOE_NAMES = {
    "expert_hidden_dim": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "first_k_dense_replace": "first_k_dense_replace",
    "num_expert_groups": "n_group",
    "num_expert_groups_per_tok": "topk_group",
}
FP8_LEFT_ALONE = ("lm_head", "model.vision_tower", "model.multi_modal_projector")


def from_hf(raw: Mapping[str, Any], *, has_output: bool | None = None) -> ModelConfig:
    """The config of a `config.json`; `has_output` (is there an `lm_head`?) settles tying where the file is silent."""
    top = Fields(raw, "config.json")
    text, vision = _hf_sections(top)
    tied = raw.get("tie_word_embeddings", text.raw.get("tie_word_embeddings"))
    if tied is None:
        tied = has_output is False
    yarn, scaling, theta = _hf_rope(text)
    text.expect("hidden_act", "silu", default="silu")
    text.expect("attention_bias", False, default=False)
    text.expect("norm_topk_prob", True, default=True)
    text.expect("rope_interleave", True, default=True)
    moe = MoeConfig(
        **_integers(text, MOE_NAMES, MoeConfig()),
        routed_scale=text.number("routed_scaling_factor", MoeConfig().routed_scale),
    )
    config = ModelConfig(
        **_integers(text, TEXT_NAMES, ModelConfig()),
        norm_eps=text.number("rms_norm_eps", ModelConfig().norm_eps),
        rope_theta=theta,
        tied_embeddings=Fields({"tie_word_embeddings": tied}, top.where).flag("tie_word_embeddings", False),
        moe=moe,
        yarn=yarn,
        llama_4_scaling=scaling,
        vision=None if vision is None else _hf_vision(vision, top),
    )
    text.expect("num_key_value_heads", config.n_heads, default=config.n_heads)
    text.expect("head_dim", config.head_dim, default=config.head_dim)
    return config


def _hf_sections(top: Fields) -> tuple[Fields, Fields | None]:
    model_type = top.raw.get("model_type")
    if model_type == "mistral4":
        return top, None
    text = top.section("text_config")
    if model_type != "mistral3" or text is None or text.raw.get("model_type") != "mistral4":
        inner = None if text is None else text.raw.get("model_type")
        raise UnsupportedModelError(
            f"config.json describes the architecture {top.raw.get('architectures')!r} of type {model_type!r}"
            f"{f' over {inner!r}' if inner else ''}; small4 runs {TEXT_ARCHITECTURE} (type 'mistral4') and "
            f"{IMAGE_ARCHITECTURE} (type 'mistral3' over 'mistral4')"
        )
    return text, top.section("vision_config")


def _integers(fields: Fields, names: Mapping[str, str], defaults: ModelConfig | MoeConfig) -> dict[str, Any]:
    """Our fields of those names, read under Hugging Face's."""
    return {ours: fields.integer(theirs, getattr(defaults, ours)) for ours, theirs in names.items()}


def _hf_rope(text: Fields) -> tuple[YarnConfig | None, QueryScalingConfig | None, float]:
    rope = text.section("rope_parameters") or text.section("rope_scaling")
    if rope is None:
        return YarnConfig(), QueryScalingConfig(), text.number("rope_theta", 10000.0)
    theta = rope.number("rope_theta", text.number("rope_theta", 10000.0))
    length = rope.integer("original_max_position_embeddings", 8192)
    beta = rope.number("llama_4_scaling_beta", 0.0)
    scaling = QueryScalingConfig(beta=beta, original_max_position_embeddings=length) if beta else None
    kind = rope.raw.get("rope_type", rope.raw.get("type", "default"))
    if kind == "default":
        return None, scaling, theta
    if kind != "yarn":
        raise UnsupportedModelError(f"config.json asks for rope_type {kind!r}; small4 runs 'yarn' and 'default'")
    rope.expect("truncate", True, default=True)
    yarn = YarnConfig(
        factor=rope.number("factor", None),
        original_max_position_embeddings=length,
        beta=rope.number("beta_fast", 32.0),
        alpha=rope.number("beta_slow", 1.0),
        apply_scale=text.flag("yarn_apply_scale", False),
    )
    _check_rope_is_not_scaled(rope, yarn.factor)
    return None if yarn.factor == 1 else yarn, scaling, theta


def _check_rope_is_not_scaled(rope: Fields, factor: float) -> None:
    """Cosines and sines themselves may also be scaled; this architecture never does."""

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    implied = mscale(over) / mscale(under) if over and under else mscale(1.0)
    if not math.isclose(rope.number("attention_factor", implied), 1.0, rel_tol=1e-6):
        raise UnsupportedModelError(
            "config.json's rope_parameters scale cosines and sines (attention_factor, mscale and mscale_all_dim); "
            "this architecture leaves them at 1: write attention_factor 1.0"
        )


def _hf_vision(vision: Fields, top: Fields) -> VisionConfig:
    vision.expect("model_type", "pixtral", default="pixtral")
    vision.expect("hidden_act", "silu", default="gelu")
    top.expect("projector_hidden_act", "gelu", default="gelu")
    top.expect("vision_feature_layer", -1, default=-1)
    rope = vision.section("rope_parameters") or vision
    image_size = vision.integer("image_size", 1024)
    defaults = VisionConfig()
    config = VisionConfig(
        hidden_size=vision.integer("hidden_size", 1024),
        num_hidden_layers=vision.integer("num_hidden_layers", 24),
        num_attention_heads=vision.integer("num_attention_heads", 16),
        intermediate_size=vision.integer("intermediate_size", 4096),
        patch_size=vision.integer("patch_size", 16),
        image_size=image_size,
        max_image_size=vision.integer("max_image_size", image_size),
        num_channels=vision.integer("num_channels", 3),
        rope_theta=rope.number("rope_theta", 10000.0),
        norm_eps=TRANSFORMERS_VISION_EPS,
        spatial_merge_size=top.integer("spatial_merge_size", 2),
        image_token_id=top.integer("image_token_index", top.integer("image_token_id", defaults.image_token_id)),
        image_break_token_id=vision.integer("image_break_token_id", defaults.image_break_token_id),
        image_end_token_id=vision.integer("image_end_token_id", defaults.image_end_token_id),
        adapter_bias=top.flag("multimodal_projector_bias", False),
    )
    vision.expect("head_dim", config.head_dim, default=config.head_dim)
    return config


def to_hf(config: ModelConfig, format: Format) -> dict[str, Any]:
    """The `config.json` of a model; ConfigError where the file has no words for what the config says."""
    text = _hf_text(config)
    extra: dict[str, Any] = {"dtype": "float32" if format == "hf-f32" else "bfloat16"}
    if format == "hf-fp8":
        extra["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "static",
            "weight_block_size": None,
            "modules_to_not_convert": list(FP8_LEFT_ALONE if config.vision else FP8_LEFT_ALONE[:1]),
        }
    vision = config.vision
    if vision is None:
        return {"architectures": [TEXT_ARCHITECTURE], **text, **extra}
    if vision.norm_eps != TRANSFORMERS_VISION_EPS:
        raise ConfigError(
            f"the vision norm_eps is {vision.norm_eps}; a Hugging Face checkpoint means {TRANSFORMERS_VISION_EPS}: "
            "save in a native format"
        )
    return {
        "architectures": [IMAGE_ARCHITECTURE],
        "model_type": "mistral3",
        "image_token_index": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": vision.spatial_merge_size,
        "tie_word_embeddings": config.tied_embeddings,
        "vision_feature_layer": -1,
        "text_config": text,
        "vision_config": _hf_vision_section(vision),
        **extra,
    }


def _hf_text(config: ModelConfig) -> dict[str, Any]:
    moe = config.moe
    if moe is None:
        raise ConfigError("a Hugging Face config of this architecture needs experts; save in a native format")
    return {
        "model_type": "mistral4",
        **{theirs: getattr(config, ours) for ours, theirs in TEXT_NAMES.items()},
        **{theirs: getattr(moe, ours) for ours, theirs in MOE_NAMES.items()},
        "num_key_value_heads": config.n_heads,
        "head_dim": config.head_dim,
        "norm_topk_prob": True,
        "routed_scaling_factor": moe.routed_scale,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_interleave": True,
        "rope_parameters": _hf_rope_section(config),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 11 if config.vocab_size > 11 else None,
        **({"yarn_apply_scale": True} if config.yarn is not None and config.yarn.apply_scale else {}),
    }


def _hf_rope_section(config: ModelConfig) -> dict[str, Any]:
    yarn, scaling = config.yarn, config.llama_4_scaling
    lengths = {part.original_max_position_embeddings for part in (yarn, scaling) if part is not None}
    if len(lengths) > 1:
        raise ConfigError(
            f"yarn and llama_4_scaling start from different lengths {sorted(lengths)}; config.json has one field for "
            "both: save in a native format"
        )
    # transformers turns only the rope part of a head under "yarn", so no stretching is written as a factor of 1.
    yarn = YarnConfig(factor=1.0) if yarn is None else yarn
    return {
        "rope_type": "yarn",
        "rope_theta": config.rope_theta,
        "factor": yarn.factor,
        "original_max_position_embeddings": lengths.pop() if lengths else 8192,
        "beta_fast": yarn.beta,
        "beta_slow": yarn.alpha,
        "mscale": 1.0 if yarn.apply_scale else 0.0,
        "mscale_all_dim": 1.0 if yarn.apply_scale else 0.0,
        "attention_factor": 1.0,
        "llama_4_scaling_beta": 0.0 if scaling is None else scaling.beta,
        "partial_rotary_factor": config.qk_rope_head_dim / config.head_dim,
    }


def _hf_vision_section(vision: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "pixtral",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "head_dim": vision.head_dim,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
        # Not Hugging Face's: the release has these in other files, and a checkpoint of ours should say them once.
        "max_image_size": vision.max_image_size,
        "image_break_token_id": vision.image_break_token_id,
        "image_end_token_id": vision.image_end_token_id,
    }
