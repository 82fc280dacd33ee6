"""Shapes and constants of a model of the Mistral Small 4 architecture.

Field names are those of the official `params.json`; the Hugging Face spelling is translated in `checkpoint`.
Values and their sources: model specification, section 1.1 (text) and 3 (vision).
"""

from dataclasses import dataclass, field

from small4.errors import ConfigError

# A config is read before its tensors: without these, one number in a hostile file would take hours or all memory.
MAX_LAYERS, MAX_HEADS, MAX_EXPERTS = 1024, 4096, 4096
MAX_WIDTH, MAX_IDS = 2**20, 2**24
MAX_IMAGE_SIDE = 16_384  # pixels; the tokenizer takes no larger image


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnConfig:
    """Rotary frequencies stretched beyond the length that the base was made for (YaRN, arXiv 2309.00071)."""

    factor: float = 128.0  # how far positions are stretched
    original_max_position_embeddings: int = 8192  # tokens
    beta: float = 32.0  # rotations above which a lane keeps its frequency (beta_fast)
    alpha: float = 1.0  # rotations below which a lane is divided by `factor` (beta_slow)
    apply_scale: bool = False  # multiply the softmax scale by (0.1 ln factor + 1)^2; the release says no

    def __post_init__(self) -> None:
        _require(self.factor >= 1.0, f"yarn.factor is {self.factor}; it must be at least 1")
        _require(
            self.original_max_position_embeddings >= 1,
            f"yarn.original_max_position_embeddings is {self.original_max_position_embeddings}; it must be positive",
        )
        _require(self.beta > self.alpha > 0, f"yarn needs beta > alpha > 0, got {self.beta} and {self.alpha}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryScalingConfig:
    """Queries grow with position: 1 + beta * ln(1 + floor(position / original_max_position_embeddings))."""

    beta: float = 0.1
    original_max_position_embeddings: int = 8192  # tokens

    def __post_init__(self) -> None:
        _require(
            self.original_max_position_embeddings >= 1,
            f"llama_4_scaling.original_max_position_embeddings is {self.original_max_position_embeddings}; "
            "it must be positive",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """Experts of one layer."""

    num_experts: int = 128
    num_experts_per_tok: int = 4
    num_shared_experts: int = 1  # run for every token, as one expert of this many widths
    expert_hidden_dim: int = 2048
    routed_scale: float = 1.0
    first_k_dense_replace: int = 0  # leading layers with a dense feed-forward instead
    num_expert_groups: int = 1
    num_expert_groups_per_tok: int = 1

    def __post_init__(self) -> None:
        _require(
            1 <= self.num_experts <= MAX_EXPERTS,
            f"moe.num_experts is {self.num_experts}; it must lie in 1 to {MAX_EXPERTS}",
        )
        _require(
            1 <= self.num_experts_per_tok <= self.num_experts,
            f"moe.num_experts_per_tok is {self.num_experts_per_tok}; it must lie in 1 to {self.num_experts}",
        )
        _require(
            0 <= self.num_shared_experts <= MAX_EXPERTS,
            f"moe.num_shared_experts is {self.num_shared_experts}; it must lie in 0 to {MAX_EXPERTS}",
        )
        _require(
            1 <= self.expert_hidden_dim <= MAX_WIDTH,
            f"moe.expert_hidden_dim is {self.expert_hidden_dim}; it must lie in 1 to {MAX_WIDTH}",
        )
        _require(self.first_k_dense_replace >= 0, "moe.first_k_dense_replace must not be negative")
        _require(
            self.num_expert_groups == self.num_expert_groups_per_tok == 1,
            "expert groups other than 1 of 1 are not part of this architecture",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The image encoder and the path from its patches to text rows."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    patch_size: int = 14  # pixels
    image_size: int = 1540  # pixels; frequencies of the 2-D rope cover image_size // patch_size rows
    max_image_size: int = 1540  # pixels; larger images are scaled down before encoding
    num_channels: int = 3
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    spatial_merge_size: int = 2  # patches per side merged into one text row
    image_token_id: int = 10
    image_break_token_id: int = 12
    image_end_token_id: int = 13
    adapter_bias: bool = False

    def __post_init__(self) -> None:
        for name, limit in (
            ("num_hidden_layers", MAX_LAYERS),
            ("num_attention_heads", MAX_HEADS),
            ("hidden_size", MAX_WIDTH),
            ("intermediate_size", MAX_WIDTH),
            ("patch_size", MAX_HEADS),
            ("image_size", MAX_IMAGE_SIDE),
            ("max_image_size", MAX_IMAGE_SIDE),
            ("num_channels", MAX_HEADS),
            ("spatial_merge_size", MAX_HEADS),
        ):
            value = getattr(self, name)
            _require(1 <= value <= limit, f"vision {name} is {value}; it must lie in 1 to {limit}")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            f"vision hidden_size {self.hidden_size} is not a multiple of its {self.num_attention_heads} heads",
        )
        _require(self.head_dim % 4 == 0, f"vision head_dim is {self.head_dim}; the 2-D rope needs a multiple of 4")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One network. The defaults are Mistral Small 4's own; `moe=None` makes every layer dense (the EAGLE head)."""

    dim: int = 4096
    n_layers: int = 36
    n_heads: int = 32
    q_lora_rank: int = 1024
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    hidden_dim: int = 12288  # width of dense feed-forwards; no layer of the release has one
    vocab_size: int = 131072
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 1048576  # tokens that positions are defined for; the product claims 262144
    tied_embeddings: bool = False
    moe: MoeConfig | None = field(default_factory=MoeConfig)
    yarn: YarnConfig | None = field(default_factory=YarnConfig)
    llama_4_scaling: QueryScalingConfig | None = field(default_factory=QueryScalingConfig)
    vision: VisionConfig | None = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        for name in (
            "dim n_layers n_heads q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim hidden_dim "
            "vocab_size max_position_embeddings"
        ).split():
            value = getattr(self, name)
            _require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"{name} is {value!r}; it must be a positive integer",
            )
            limits = {"n_layers": MAX_LAYERS, "n_heads": MAX_HEADS}
            limit = limits.get(name, MAX_IDS if name in ("vocab_size", "max_position_embeddings") else MAX_WIDTH)
            _require(value <= limit, f"{name} is {value}; the limit is {limit}, the config is damaged")
        _require(self.qk_rope_head_dim % 2 == 0, f"qk_rope_head_dim is {self.qk_rope_head_dim}; it must be even")
        _require(self.norm_eps > 0, f"norm_eps is {self.norm_eps}; it must be positive")
        _require(self.rope_theta > 1, f"rope_theta is {self.rope_theta}; it must be over 1")

    @property
    def head_dim(self) -> int:
        """Width of one query or key: nope plus rope."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def kv_width(self) -> int:
        """Values that the cache holds per token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """An EAGLE draft head: dense latent-attention layers over the target's hidden states (specification 4.4)."""

    text: ModelConfig  # moe and vision are None; vocabulary and width are the target's

    def __post_init__(self) -> None:
        _require(self.text.moe is None and self.text.vision is None, "a draft head is dense and text only")
