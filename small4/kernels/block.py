"""The weights of one layer as a fused kernel takes them."""

from dataclasses import dataclass

from torch import Tensor

from small4.kernels.quantized import PackedWeight

Weight = PackedWeight | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeights:
    """Names and shapes as in the model; `shared` is w1 above w3, and w2, as stacks of one."""

    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    experts_per_token: int
    eps: float
    routed_scale: float
    attention_norm: Tensor
    q_a_norm: Tensor
    kv_a_norm: Tensor
    ffn_norm: Tensor
    wq_a: Weight
    wq_b: Weight
    wkv_a: Weight
    wkv_b: Tensor
    wo: Weight
    gate: Tensor
    w13: Weight
    w2: Weight
    shared: tuple[Weight, Weight] | None
