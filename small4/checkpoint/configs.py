"""Translates a model's shape between `ModelConfig` and the official `params.json`, whose field names it carries."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from small4.checkpoint.fields import Fields
from small4.checkpoint.stored import Config, Format
from small4.errors import ConfigError, UnsupportedModelError
from small4.model.config import DraftConfig, ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig

T = TypeVar("T")


def from_params(raw: Mapping[str, Any], *, is_draft: bool = False) -> Config:
    """The config of a `params.json`; the draft head's looks like a dense model's, so the caller says which it is."""
    top = Fields(raw, "params.json")
    if "kv_lora_rank" not in raw:
        raise UnsupportedModelError(
            "params.json has no kv_lora_rank: it describes another architecture; small4 runs latent attention only"
        )
    top.expect("activation", "silu", default="silu")
    values: dict[str, Any] = {
        name: top.integer(name, None)
        for name in (
            "dim n_layers n_heads hidden_dim vocab_size q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim "
            "v_head_dim"
        ).split()
    }
    defaults = ModelConfig()
    config = ModelConfig(
        **values,
        norm_eps=top.number("norm_eps", defaults.norm_eps),
        rope_theta=top.number("rope_theta", defaults.rope_theta),
        max_position_embeddings=top.integer("max_position_embeddings", defaults.max_position_embeddings),
        tied_embeddings=top.flag("tied_embeddings", False),
        moe=_params_moe(top.section("moe")),
        yarn=_params_section(top.section("yarn"), YarnConfig),
        llama_4_scaling=_params_section(top.section("llama_4_scaling"), QueryScalingConfig),
        vision=None if is_draft else _params_vision(top.section("vision_encoder")),
    )
    top.expect("n_kv_heads", config.n_heads, default=config.n_heads)
    top.expect("head_dim", config.head_dim, default=config.head_dim)
    if not is_draft:
        return config
    if config.llama_4_scaling is None:
        raise ConfigError("params.json of a draft head has no llama_4_scaling; it must carry the target model's")
    return DraftConfig(text=config)


def _params_moe(moe: Fields | None) -> MoeConfig | None:
    if moe is None:
        return None
    moe.expect("route_every_n", 1, default=1)
    return _params_section(moe, MoeConfig)


def _params_vision(vision: Fields | None) -> VisionConfig | None:
    if vision is None:
        return None
    vision.expect("mm_projector_id", "patch_merge", default="patch_merge")
    vision.expect("add_pre_mm_projector_layer_norm", True, default=True)
    image_size = vision.integer("image_size", VisionConfig().image_size)
    config = cast(VisionConfig, _params_section(vision, VisionConfig, max_image_size=image_size))
    vision.expect("head_dim", config.head_dim, default=config.head_dim)
    return config


def _params_section(section: Fields | None, kind: type[T], **defaults: Any) -> T | None:
    """A dataclass from the fields of the same names; what is absent takes the release's value."""
    if section is None:
        return None
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, kind)):
        default = defaults.get(field.name, field.default)
        read = {bool: section.flag, int: section.integer, float: section.number}[cast(type, field.type)]
        values[field.name] = cast(Any, read)(field.name, default)
    return kind(**values)


def to_params(config: Config, format: Format) -> dict[str, Any]:
    """The `params.json` of a model or draft head."""
    model = config.text if isinstance(config, DraftConfig) else config
    values = dataclasses.asdict(model)
    sections = {name: values.pop(name) for name in ("moe", "yarn", "llama_4_scaling", "vision")}
    params = {**values, "head_dim": model.head_dim, "n_kv_heads": model.n_heads, "activation": "silu"}
    if sections["moe"] is not None:
        params["moe"] = {**sections["moe"], "route_every_n": 1}
    for name in ("yarn", "llama_4_scaling"):
        if sections[name] is not None:
            params[name] = sections[name]
    if sections["vision"] is not None:
        params["vision_encoder"] = {
            **sections["vision"],
            "mm_projector_id": "patch_merge",
            "add_pre_mm_projector_layer_norm": True,
        }
    if format == "native-fp8":
        params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    if format == "nvfp4":
        params["quantization_config"] = _nvfp4_section()
    return params


def _nvfp4_section() -> dict[str, Any]:
    four_bit = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**four_bit, "dynamic": False},
                "input_activations": {**four_bit, "dynamic": "local"},
            }
        },
        "ignore": ["re:.*attention.*", "re:.*gate$", "re:.*vision.*", "re:.*patch_merger.*", "re:.*mm_projector.*",
                   "output", "tok_embeddings"],
    }  # fmt: skip
