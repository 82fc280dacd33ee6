"""Rotary positions of the text model: YaRN frequencies, and the query's growth with position.

Lane i of R/2 turns by position * f_i. With p_i = theta^(2i/R), YaRN keeps fast lanes (f_i = 1/p_i), divides slow lanes
by `factor`, and blends between, where the lane's rotations within the original length fall from `beta` to `alpha`:

    d(r)  = R * ln(original / (2 pi r)) / (2 ln theta)        the lane that turns r times
    low   = max(floor(d(beta)), 0),  high = min(ceil(d(alpha)), R - 1)
    ramp  = clip((i - low) / (high - low), 0, 1)
    f_i   = ramp / (factor p_i) + (1 - ramp) / p_i

The whole query is multiplied by l(pos) = 1 + beta * ln(1 + floor(pos / original)) (specification 0.2 and 1.4).
Angles are always float32, whatever the model's type: bf16 frequencies would be wrong by whole turns.
"""

import math

import torch
from torch import Tensor

from small4.model.config import ModelConfig, QueryScalingConfig, YarnConfig


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each lane, float32 [R/2]."""
    dim = config.qk_rope_head_dim
    periods = config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    if config.yarn is None:
        return 1.0 / periods
    keep = 1.0 - _yarn_ramp(dim, config.rope_theta, config.yarn)
    return 1.0 / (config.yarn.factor * periods) * (1.0 - keep) + 1.0 / periods * keep


def _yarn_ramp(dim: int, theta: float, yarn: YarnConfig) -> Tensor:
    def lane_of(rotations: float) -> float:
        original = yarn.original_max_position_embeddings
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(lane_of(yarn.beta)), 0)
    high = min(math.ceil(lane_of(yarn.alpha)), dim - 1)
    width = max(high - low, 0.001)  # a ramp of no width would divide by zero
    lanes = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
    return ((lanes - low) / width).clamp(0.0, 1.0)


def rope_tables(frequencies_R: Tensor, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of every lane's angle, [T, R/2] in `dtype`, computed in float32."""
    angles_TR = positions_T[:, None].float() * frequencies_R.to(positions_T.device)[None, :]
    return angles_TR.cos().to(dtype), angles_TR.sin().to(dtype)


def query_growth(positions_T: Tensor, scaling: QueryScalingConfig, dtype: torch.dtype) -> Tensor:
    """l(pos), [T] in `dtype`, computed in float32."""
    whole_T = torch.floor(positions_T.float() / scaling.original_max_position_embeddings)
    return (1.0 + scaling.beta * torch.log(1.0 + whole_T)).to(dtype)


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(nope + rope); times (0.1 ln factor + 1)^2 where `yarn.apply_scale` asks for it."""
    scale: float = config.head_dim**-0.5
    if config.yarn is not None and config.yarn.apply_scale and config.yarn.factor > 1.0:
        scale *= (0.1 * math.log(config.yarn.factor) + 1.0) ** 2
    return scale
