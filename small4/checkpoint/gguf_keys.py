"""The keys of a GGUF header as a ModelConfig, and back.

Latent attention is described in its absorbed form: one key-value head of width latent + rope, and the widths of the
real heads under `..._mla`. Values that GGUF has no key for are under `small4.`; other programs ignore them.

The softmax scale needs care (docs/decisions/0006-gguf-softmax-scale.md). Converters write `yarn_log_multiplier` 0.1
for the release, whatever its params.json says, and llama.cpp then multiplies the scale by (1 + 0.1 ln factor)^2. The
release's scale is the plain one, so that value is not believed; `small4.yarn_apply_scale` is, where it stands.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from small4.checkpoint.gguf_header import ArrayValue, GgufHeader, Value
from small4.errors import HeaderError, UnsupportedModelError
from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig

TEXT_ARCHITECTURES = ("mistral4", "deepseek2")
PROJECTOR_ARCHITECTURE = "clip"
PROJECTOR_TYPE = "pixtral"
SOFTMAX_GATING = 1
MAX_DIMENSION = 1 << 24  # of any width or count; larger ones are damage, and would cost memory before they are noticed
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Keys = dict[str, int | float | bool | str | tuple[float, ...]]


@dataclass(slots=True)
class _Source:
    """Typed access to a header's values below a prefix."""

    header: GgufHeader
    prefix: str
    notes: list[str] = field(default_factory=list)

    def get(self, key: str) -> Value | ArrayValue | None:
        return self.header.values.get(f"{self.prefix}.{key}")

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def integer(self, key: str, default: int | None = None, limit: int = MAX_DIMENSION) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise HeaderError(f"{self.header.path}: {self.prefix}.{key} is {value!r}; it must be an integer to {limit}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise HeaderError(f"{self.header.path}: {self.prefix}.{key} is {value!r}; it must be a finite number")
        # 1e-6 is stored as 9.99999997e-07: take the shortest decimal that means the stored float32.
        return float(str(np.float32(value)))


def config_of(text: GgufHeader, projector: GgufHeader | None = None) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model that the headers describe, and what a user should know about how they were read."""
    architecture = text.values.get("general.architecture")
    if architecture not in TEXT_ARCHITECTURES:
        raise UnsupportedModelError(
            f"{text.path} is of architecture {architecture!r}; small4 runs {' and '.join(TEXT_ARCHITECTURES)}"
        )
    source = _Source(text, str(architecture))
    _refuse_other_models(source)
    rope_dim = source.integer("rope.dimension_count")
    config = ModelConfig(
        dim=source.integer("embedding_length"),
        n_layers=source.integer("block_count"),
        n_heads=source.integer("attention.head_count"),
        q_lora_rank=source.integer("attention.q_lora_rank"),
        kv_lora_rank=source.integer("attention.kv_lora_rank"),
        qk_nope_head_dim=source.integer("attention.key_length_mla") - rope_dim,
        qk_rope_head_dim=rope_dim,
        v_head_dim=source.integer("attention.value_length_mla"),
        hidden_dim=source.integer("feed_forward_length"),
        vocab_size=_vocab_size(source),
        norm_eps=source.number("attention.layer_norm_rms_epsilon"),
        rope_theta=source.number("rope.freq_base", 10000.0),
        max_position_embeddings=source.integer("context_length", limit=(1 << 32) - 1),
        tied_embeddings="output.weight" not in text.tensors,
        moe=_moe(source),
        yarn=_yarn(source),
        llama_4_scaling=_query_scaling(source),
        vision=None if projector is None else _vision(projector, source),
    )
    return config, tuple(source.notes)


def _refuse_other_models(source: _Source) -> None:
    """deepseek2 also names models that route or attend in another way."""
    if source.integer("expert_gating_func", SOFTMAX_GATING) != SOFTMAX_GATING:
        raise UnsupportedModelError(f"{source.header.path}: its experts are not chosen by a softmax")
    if source.get("expert_weights_norm") is False:
        raise UnsupportedModelError(f"{source.header.path}: its expert weights are not normalised")
    if source.integer("expert_group_count", 1) > 1:
        raise UnsupportedModelError(f"{source.header.path}: it routes by groups of experts")
    if not source.has("attention.q_lora_rank") or not source.has("attention.key_length_mla"):
        raise UnsupportedModelError(
            f"{source.header.path}: it has no low-rank queries or no key_length_mla (converted by an old program?); "
            "convert it again with a current one"
        )


def _vocab_size(source: _Source) -> int:
    if source.has("vocab_size"):
        return source.integer("vocab_size")
    embedding = source.header.tensors.get("token_embd.weight")
    if embedding is None:
        raise HeaderError(f"{source.header.path} has neither a vocab_size nor a tensor token_embd.weight")
    return embedding.shape[0]


def _moe(source: _Source) -> MoeConfig | None:
    num_experts = source.integer("expert_count", 0)
    if num_experts == 0:
        return None
    return MoeConfig(
        num_experts=num_experts,
        num_experts_per_tok=source.integer("expert_used_count"),
        num_shared_experts=source.integer("expert_shared_count", 0),
        expert_hidden_dim=source.integer("expert_feed_forward_length"),
        routed_scale=source.number("expert_weights_scale", 1.0),
        first_k_dense_replace=source.integer("leading_dense_block_count", 0),
    )


def _yarn(source: _Source) -> YarnConfig | None:
    kind = source.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind != "yarn":
        raise UnsupportedModelError(f"{source.header.path}: rope scaling {kind!r} is not part of this architecture")
    stated = source.header.values.get("small4.yarn_apply_scale")
    if stated is None and source.number("rope.scaling.yarn_log_multiplier", 0.0) != 0.0:
        source.notes.append(
            "yarn_log_multiplier is set, as converters do for every file of this model; the softmax scale is taken as "
            "the plain one of the release all the same (other programs multiply it)"
        )
    return YarnConfig(
        factor=source.number("rope.scaling.factor"),
        original_max_position_embeddings=source.integer("rope.scaling.original_context_length"),
        beta=source.number("rope.scaling.yarn_beta_fast", 32.0),
        alpha=source.number("rope.scaling.yarn_beta_slow", 1.0),
        apply_scale=stated is True,
    )


def _query_scaling(source: _Source) -> QueryScalingConfig | None:
    beta = source.number("attention.temperature_scale", 0.0)
    if beta == 0.0:
        return None
    original = source.integer("rope.scaling.original_context_length", 0)
    length = source.integer("attention.temperature_length", original)
    return QueryScalingConfig(beta=beta, original_max_position_embeddings=length)


def _vision(projector: GgufHeader, text: _Source) -> VisionConfig:
    architecture = projector.values.get("general.architecture")
    kind = projector.values.get("clip.projector_type", projector.values.get("clip.vision.projector_type"))
    if architecture != PROJECTOR_ARCHITECTURE or kind != PROJECTOR_TYPE:
        raise UnsupportedModelError(
            f"{projector.path} is a projector {kind!r} of architecture {architecture!r}; this model takes "
            f"{PROJECTOR_TYPE!r} of {PROJECTOR_ARCHITECTURE!r}"
        )
    source, own = _Source(projector, "clip.vision"), _Source(projector, "small4")
    image_size = source.integer("image_size")
    patches = projector.tensors.get("v.patch_embd.weight")
    default: Final = VisionConfig()
    return VisionConfig(
        hidden_size=source.integer("embedding_length"),
        num_hidden_layers=source.integer("block_count"),
        num_attention_heads=max(source.integer("attention.head_count"), 1),
        intermediate_size=source.integer("feed_forward_length"),
        patch_size=source.integer("patch_size"),
        image_size=image_size,
        max_image_size=own.integer("max_image_size", image_size),
        num_channels=patches.shape[1] if patches is not None and len(patches.shape) == 4 else default.num_channels,
        rope_theta=_Source(projector, "clip").number("rope.freq_base", default.rope_theta),
        norm_eps=_vision_epsilon(source, text),
        spatial_merge_size=source.integer("spatial_merge_size", 1),
        image_token_id=own.integer("image_token_id", default.image_token_id),
        image_break_token_id=own.integer("image_break_token_id", default.image_break_token_id),
        image_end_token_id=own.integer("image_end_token_id", default.image_end_token_id),
        adapter_bias="mm.1.bias" in projector.tensors,
    )


def _vision_epsilon(source: _Source, text: _Source) -> float:
    """Converters of the official form write the text model's epsilon here; only our own files are believed in that."""
    epsilon, default = source.number("attention.layer_norm_epsilon"), VisionConfig().norm_eps
    is_ours = "small4.image_token_id" in source.header.values
    if is_ours or epsilon == default or epsilon != text.number("attention.layer_norm_rms_epsilon"):
        return epsilon
    text.notes.append(
        f"the projector states the text model's norm epsilon {epsilon:g} for the image encoder; {default:g} is taken, "
        "which the encoder was made with"
    )
    return default


def text_keys(config: ModelConfig) -> Keys:
    """Keys of the text file, tokenizer apart."""
    moe = config.moe or MoeConfig(num_experts=1, num_experts_per_tok=1, num_shared_experts=0, expert_hidden_dim=1)
    keys: Keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_width,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": config.rope_theta,
        "leading_dense_block_count": moe.first_k_dense_replace if config.moe else config.n_layers,
        "expert_count": moe.num_experts if config.moe else 0,
        "expert_used_count": moe.num_experts_per_tok if config.moe else 0,
        "expert_shared_count": moe.num_shared_experts,
        "expert_feed_forward_length": moe.expert_hidden_dim,
        "expert_weights_scale": moe.routed_scale,
        "expert_weights_norm": True,
        "expert_gating_func": SOFTMAX_GATING,
    }
    if config.llama_4_scaling is not None:
        keys["attention.temperature_scale"] = config.llama_4_scaling.beta
        keys["attention.temperature_length"] = config.llama_4_scaling.original_max_position_embeddings
    if config.yarn is not None:
        keys.update(_yarn_keys(config.yarn))
    named = {f"{TEXT_ARCHITECTURES[0]}.{key}": value for key, value in keys.items()}
    own: Keys = {} if config.yarn is None else {"small4.yarn_apply_scale": config.yarn.apply_scale}
    return {**named, **own}


def _yarn_keys(yarn: YarnConfig) -> Keys:
    """llama.cpp always multiplies the softmax scale by what it thinks YaRN needs; an attn_factor takes that back.

    With m = 1 + 0.1 ln factor: without a log multiplier it scales cos and sin by attn_factor * m and the softmax by
    the square of that, so attn_factor = 1/m makes both plain; with 0.1 it scales the softmax alone, by m^2.
    """
    keys: Keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": yarn.factor,
        "rope.scaling.original_context_length": yarn.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": yarn.beta,
        "rope.scaling.yarn_beta_slow": yarn.alpha,
    }
    if yarn.apply_scale:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1
    else:
        keys["rope.scaling.attn_factor"] = 1.0 / (1.0 + 0.1 * math.log(yarn.factor))
    return keys


def projector_keys(config: ModelConfig, vision: VisionConfig) -> Keys:
    """Keys of the projector (mmproj) file."""
    keys: Keys = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "embedding_length": vision.hidden_size,
        "feed_forward_length": vision.intermediate_size,
        "projection_dim": config.dim,
        "block_count": vision.num_hidden_layers,
        "attention.head_count": vision.num_attention_heads,
        "attention.layer_norm_epsilon": vision.norm_eps,
        "spatial_merge_size": vision.spatial_merge_size,
        "image_mean": MEAN,
        "image_std": STD,
    }
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": PROJECTOR_TYPE,
        "clip.use_silu": True,
        "clip.rope.freq_base": vision.rope_theta,
        **{f"clip.vision.{key}": value for key, value in keys.items()},
        "small4.max_image_size": vision.max_image_size,
        "small4.image_token_id": vision.image_token_id,
        "small4.image_break_token_id": vision.image_break_token_id,
        "small4.image_end_token_id": vision.image_end_token_id,
    }
