"""Named nano configurations: a shape, a mix of tasks, and a schedule."""

from dataclasses import dataclass, field, replace
from typing import Literal

from small4.chat import Effort
from small4.errors import ConfigError
from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, VisionConfig, YarnConfig
from small4.train.mixture import WHOLE, Mixture, without

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How weights move. Warm-up, stable, decay: the rate rises, holds, then falls in a straight line."""

    name: str = "adamw"  # or "muon": matrices by orthogonalised momentum, the rest by AdamW
    learning_rate: float = 2e-3
    muon_learning_rate: float = 0.02
    tower_share: float = 0.25  # of the learning rate, for the image path: at all of it the rows of an image become one
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1  # on matrices only
    clip_norm: float = 1.0
    warmup_share: float = 0.01  # of all steps
    decay_share: float = 0.3  # of all steps
    final_share: float = 0.02  # of the learning rate, at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run from nothing to a checkpoint."""

    preset: str
    model: ModelConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    mix: Mixture | dict[Effort, dict[str, float]]  # the first nano's: effort -> skill -> weight among its problems
    seed: int = 0
    steps: int  # optimiser steps
    tokens_per_step: int  # a step packs whole conversations up to about this many tokens
    none_share: float = 0.35  # of rows, with effort none, where the mix is not a Mixture
    balance_weight: float = 0.01  # evens out expert load
    z_weight: float = 0.001  # keeps the gate's logits small
    save_every: int = 500  # steps
    precision: Precision = "float32"  # of products; weights and optimiser stay in float32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tokens_per_step < 64:
            raise ConfigError(
                f"a run needs steps >= 1 and tokens_per_step >= 64, got {self.steps}, {self.tokens_per_step}"
            )
        if not 0 <= self.none_share <= 1:
            raise ConfigError(f"none_share is {self.none_share}; it must lie in 0 to 1")


NANO_SHAPE = ModelConfig(
    dim=128,
    n_layers=4,
    n_heads=4,
    q_lora_rank=64,
    kv_lora_rank=48,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=32,
    hidden_dim=256,
    vocab_size=3072,
    tied_embeddings=True,
    max_position_embeddings=2048,
    moe=MoeConfig(num_experts=8, num_experts_per_tok=2, expert_hidden_dim=128),
    yarn=YarnConfig(factor=4.0, original_max_position_embeddings=512),
    llama_4_scaling=QueryScalingConfig(original_max_position_embeddings=512),
    vision=None,
)

NANO_MIX: dict[Effort, dict[str, float]] = {
    "none": {
        "sum2": 0.50,
        "sum3": 0.06,
        "sum4": 0.06,
        "sum5": 0.02,
        "sum6": 0.02,
        "chain2": 0.14,
        "product2x1": 0.12,
        "product2x2": 0.03,
        "talk": 0.05,
    },
    "high": {
        "sum2": 0.13,
        "sum3": 0.11,
        "sum4": 0.15,
        "sum5": 0.05,
        "sum6": 0.03,
        "chain2": 0.12,
        "chain3": 0.04,
        "chain4": 0.03,
        "product2x1": 0.09,
        "product2x2": 0.22,
        "talk": 0.03,
    },
}

NANO_B_SHAPE = replace(
    NANO_SHAPE,
    dim=256,
    n_layers=6,
    n_heads=8,
    q_lora_rank=128,
    kv_lora_rank=64,
    hidden_dim=512,
    max_position_embeddings=4608,  # the longest rows that it learns from, and the answers behind them
    moe=MoeConfig(num_experts=16, num_experts_per_tok=2, expert_hidden_dim=128),
    yarn=YarnConfig(factor=4.0, original_max_position_embeddings=1152),
    llama_4_scaling=QueryScalingConfig(original_max_position_embeddings=1152),
    vision=VisionConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        patch_size=8,
        image_size=128,
        max_image_size=128,
    ),
)

NANO_CPU_SHAPE = replace(
    NANO_SHAPE,
    dim=160,
    n_layers=5,
    n_heads=5,
    q_lora_rank=80,
    kv_lora_rank=40,
    hidden_dim=320,
    moe=MoeConfig(num_experts=16, num_experts_per_tok=2, expert_hidden_dim=80),
    vision=VisionConfig(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        patch_size=8,
        image_size=128,
        max_image_size=128,
    ),
)

TEST_SHAPE = replace(
    NANO_SHAPE,
    dim=32,
    n_layers=2,
    n_heads=2,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=16,
    hidden_dim=64,
    moe=MoeConfig(num_experts=4, num_experts_per_tok=2, expert_hidden_dim=32),
)

TEST_MIX: dict[Effort, dict[str, float]] = {"none": {"sum2": 1.0}, "high": {"sum2": 1.0, "talk": 0.2}}

TEST_WHOLE_SHAPE = replace(
    TEST_SHAPE,
    vision=VisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        patch_size=8,
        image_size=128,
        max_image_size=128,
    ),
)

LONG_SKILLS = frozenset({"needle60", "needle300", "tool_twelve"})  # rows over a thousand tokens

PRESETS = {
    "first": TrainConfig(preset="first", model=NANO_SHAPE, mix=NANO_MIX, steps=16_000, tokens_per_step=1_250),
    "b": TrainConfig(
        preset="b",
        model=NANO_B_SHAPE,
        mix=replace(WHOLE, max_row_tokens=4608, is_padded=True),
        steps=12_000,
        tokens_per_step=32_768,
        precision="bfloat16",
        save_every=1_000,
    ),
    "nano-cpu": TrainConfig(
        preset="nano-cpu",
        model=NANO_CPU_SHAPE,
        mix=replace(WHOLE, groups=without(WHOLE, LONG_SKILLS)),
        steps=16_000,
        tokens_per_step=2_500,
    ),
    "test-whole": TrainConfig(
        preset="test-whole",
        model=TEST_WHOLE_SHAPE,
        mix=replace(WHOLE, groups=without(WHOLE, LONG_SKILLS)),
        steps=20,
        tokens_per_step=1_500,
        save_every=10,
    ),
    "test-bf16": TrainConfig(
        preset="test-bf16",
        model=TEST_WHOLE_SHAPE,
        mix=replace(WHOLE, groups=without(WHOLE, LONG_SKILLS), is_padded=True),
        steps=20,
        tokens_per_step=1_500,
        precision="bfloat16",
        save_every=10,
    ),
    "test": TrainConfig(preset="test", model=TEST_SHAPE, mix=TEST_MIX, steps=20, tokens_per_step=256, save_every=10),
}


def preset(name: str) -> TrainConfig:
    """The preset of that name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
