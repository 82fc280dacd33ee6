"""Layers through the fused kernel: one call where queries meet latents in pages, else two a layer around attention.

Same maths as `Block.forward`, with fewer roundings: nothing is rounded to the model's type inside a call. Packed
weights run any number of tokens this way; plain ones few, since torch's own products are the better ones for many.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from small4.kernels.block import BlockWeights
from small4.kernels.ops import FusedBlock, Kernels, Weight
from small4.model.attention import Attention, CachedAttention, LatentAttention, LatentProjection, Positions
from small4.model.linear import Linear, PackedLinear
from small4.model.moe import Experts, PackedExperts

FEW_TOKENS = 16


class FusedLayer:
    """One layer, bound to its kernel and to the weights as they are now."""

    def __init__(self, layer: int, run: FusedBlock, projection: LatentProjection, *, is_packed: bool) -> None:
        self.layer = layer
        self.run = run
        self.alone = run.chain([], layer, None)
        self.projection = projection
        self.latent_width = projection.wkv_b.shape[1]
        self.is_packed = is_packed

    def takes(self, num_tokens: int) -> bool:
        return self.is_packed or num_tokens <= FEW_TOKENS

    def __call__(self, x_TD: Tensor, positions: Positions, attention: Attention) -> Tensor:
        tables = (positions.cos, positions.sin, positions.growth)
        pages = attention.pages() if isinstance(attention, CachedAttention) else None
        if pages is not None:
            return self.alone(x_TD, *tables, pages, self.projection.scale)
        query_TNH, rows_TC = self.run.front(x_TD, *tables)
        latent_TL, rope_key_TR = rows_TC.tensor_split([self.latent_width], dim=-1)
        return self.run.back(x_TD, attention(self.layer, query_TNH, latent_TL, rope_key_TR, self.projection))


class FusedStack:
    """All layers of a model and its last norm, in one call where queries meet latents in pages."""

    def __init__(self, layers: Sequence[FusedLayer], norm: Tensor | None) -> None:
        self.first = layers[0]
        self.run = self.first.run.chain([layer.run for layer in layers[1:]], self.first.layer, norm)

    def __call__(self, x_TD: Tensor, positions: Positions, attention: Attention) -> Tensor | None:
        """The model's last hidden states; None where the layers must run one by one."""
        if not self.first.takes(x_TD.shape[0]) or not isinstance(attention, CachedAttention):
            return None
        pages = attention.pages()
        if pages is None:
            return None
        return self.run(x_TD, positions.cos, positions.sin, positions.growth, pages, self.first.projection.scale)


def fuse(
    layer: int,
    attention: LatentAttention,
    norms: tuple[Tensor, Tensor],
    gate: Linear,
    experts: Experts | PackedExperts,
    shared: tuple[Weight, Weight] | None,
    kernels: Kernels,
) -> FusedLayer | None:
    """The layer as the kernels run it; None where they fuse nothing or not these shapes. `norms` are of both halves."""
    config = attention.config
    assert config.moe is not None
    w13, w2, shared = experts.weights if isinstance(experts, PackedExperts) else (experts.w13, experts.w2, shared)
    weights = BlockWeights(
        heads=config.n_heads,
        nope_dim=config.qk_nope_head_dim,
        rope_dim=config.qk_rope_head_dim,
        value_dim=config.v_head_dim,
        experts_per_token=config.moe.num_experts_per_tok,
        eps=config.norm_eps,
        routed_scale=config.moe.routed_scale,
        attention_norm=norms[0],
        q_a_norm=attention.q_a_norm.weight,
        kv_a_norm=attention.kv_a_norm.weight,
        ffn_norm=norms[1],
        wq_a=weight_of(attention.wq_a),
        wq_b=weight_of(attention.wq_b),
        wkv_a=weight_of(attention.wkv_a_with_mqa),
        wkv_b=attention.wkv_b.weight,
        wo=weight_of(attention.wo),
        gate=gate.weight,
        w13=w13,
        w2=w2,
        shared=shared,
    )
    try:
        run = kernels.block(weights)
    except ValueError:  # a shape that the kernel does not take
        return None
    if run is None:
        return None
    return FusedLayer(layer, run, attention.projection(), is_packed=isinstance(experts, PackedExperts))


def weight_of(linear: torch.nn.Module) -> Weight:
    assert isinstance(linear, Linear | PackedLinear)
    return linear.weight
