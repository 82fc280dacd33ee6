"""Named nano configurations: a shape, a mix of tasks, and a schedule."""

from dataclasses import dataclass, field, replace

from small4.chat import Effort
from small4.errors import ConfigError
from small4.model.config import ModelConfig, MoeConfig, QueryScalingConfig, YarnConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How weights move. Warm-up, stable, decay: the rate rises, holds, then falls in a straight line."""

    name: str = "adamw"  # or "muon": matrices by orthogonalised momentum, the rest by AdamW
    learning_rate: float = 2e-3
    muon_learning_rate: float = 0.02
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
    mix: dict[Effort, dict[str, float]]  # effort -> skill -> weight among its problems
    seed: int = 0
    steps: int  # optimiser steps
    tokens_per_step: int  # a step packs whole conversations up to about this many tokens
    none_share: float = 0.35  # of rows, with effort none
    balance_weight: float = 0.01  # evens out expert load
    z_weight: float = 0.001  # keeps the gate's logits small
    save_every: int = 500  # steps

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

PRESETS = {
    "first": TrainConfig(preset="first", model=NANO_SHAPE, mix=NANO_MIX, steps=16_000, tokens_per_step=1_250),
    "test": TrainConfig(preset="test", model=TEST_SHAPE, mix=TEST_MIX, steps=20, tokens_per_step=256, save_every=10),
}


def preset(name: str) -> TrainConfig:
    """The preset of that name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
