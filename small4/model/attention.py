"""Multi-head latent attention (MLA): queries and keys through low ranks, one latent row cached per token.

    q       = wq_b RMSNorm(wq_a h)                per head [nope P | rope R]
    c | k_r = wkv_a_with_mqa h                    latent L, and one rope key R shared by all heads
    c       = RMSNorm(c)
    k_n | v = wkv_b c                             per head [P | V]
    out     = wo softmax(l(pos) (q_n . k_n + rope(q_r) . rope(k_r)) * scale) v

Only (c, rope(k_r)) need be kept. Two forms give the same result: *expanded* computes k_n and v for every cached token,
best for many queries; *absorbed* moves wkv_b to the other side of the products, so that queries meet latents directly
and nothing is expanded, best for few queries over a long cache:

    q_n . (W_uk c) = (W_uk^T q_n) . c             and             sum p_s (W_uv c_s) = W_uv sum p_s c_s

(DeepSeek-V2, arXiv 2405.04434, section 2.1; specification 1.3.)
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from small4.kernels.attention import fused_causal_attention
from small4.kernels.pages import CachePages
from small4.kernels.reference import causal_attention, latent_attention, rotate_interleaved
from small4.model.config import ModelConfig
from small4.model.layers import RMSNorm
from small4.model.linear import Linear
from small4.model.rope import softmax_scale

Form = Literal["expanded", "absorbed"]

# Up to so many scores expanded attention keeps to its definition, which equals the reference to the last bit; beyond,
# the fused kernel spares the score matrix. Float32 is there to be compared and changes over only to save memory.
MAX_SCORES, MAX_SCORES_FLOAT32 = 2**19, 2**26


@dataclass(frozen=True, slots=True)
class LatentProjection:
    """What one layer needs to go between latents and heads."""

    wkv_b: Tensor  # [N * (P + V), L]
    num_heads: int
    nope_dim: int
    value_dim: int
    scale: float

    def expand(self, latent_SL: Tensor, rope_key_SR: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [S, N, P + R] and values [S, N, V] of every latent row."""
        up_SNX = F.linear(latent_SL, self.wkv_b).view(latent_SL.shape[0], self.num_heads, -1)
        key_nope_SNP, value_SNV = up_SNX.split([self.nope_dim, self.value_dim], dim=-1)
        rope_key_SNR = rope_key_SR.unsqueeze(1).expand(-1, self.num_heads, -1)
        return torch.cat([key_nope_SNP, rope_key_SNR], dim=-1), value_SNV

    def absorb(self, query_TNH: Tensor) -> tuple[Tensor, Tensor]:
        """Queries against latents [T, N, L] and against rope keys [T, N, R]."""
        query_nope_TNP, query_rope_TNR = query_TNH.tensor_split([self.nope_dim], dim=-1)
        w_uk_NPL, _ = self._per_head()
        query_latent_NTL = torch.bmm(query_nope_TNP.transpose(0, 1), w_uk_NPL)
        return query_latent_NTL.transpose(0, 1), query_rope_TNR

    def values(self, mixed_TNL: Tensor) -> Tensor:
        """Per-head mixes of latents -> per-head values [T, N, V]."""
        _, w_uv_NVL = self._per_head()
        # The weights stand on the left: for one token this reads them as they lie instead of copying them transposed.
        return torch.bmm(w_uv_NVL, mixed_TNL.permute(1, 2, 0)).permute(2, 0, 1)

    def _per_head(self) -> tuple[Tensor, Tensor]:
        per_head_NXL = self.wkv_b.view(self.num_heads, self.nope_dim + self.value_dim, -1)
        return per_head_NXL[:, : self.nope_dim], per_head_NXL[:, self.nope_dim :]


class Attention(Protocol):
    """Where keys come from: nowhere but this pass (`FullAttention`), or a cache."""

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        """Attend with the queries of one layer -> [T, N, V]; may keep the latents and rope keys."""
        ...


class CachedAttention(ABC):
    """An `Attention` over pages, which a kernel may also walk through by itself."""

    @abstractmethod
    def pages(self) -> CachePages | None:
        """Where the pass's rows go and what its queries look at; None where not all of it is to be absorbed."""


def attend(query_TNH: Tensor, rows_SC: Tensor, projection: LatentProjection, form: Form) -> Tensor:
    """The last T of one sequence's S tokens attend over all of it -> [T, N, V].

    `rows_SC` holds each token's latent and, behind it, its rope key: C = L + R, as a cache keeps them.
    """
    if form == "absorbed":
        return projection.values(latent_attention(*projection.absorb(query_TNH), rows_SC, projection.scale))
    rank = projection.wkv_b.shape[1]
    key_SNH, value_SNV = projection.expand(rows_SC[:, :rank], rows_SC[:, rank:])
    num_scores = query_TNH.shape[0] * query_TNH.shape[1] * rows_SC.shape[0]
    limit = MAX_SCORES_FLOAT32 if query_TNH.dtype == torch.float32 else MAX_SCORES
    run = causal_attention if num_scores <= limit else fused_causal_attention
    return run(query_TNH, key_SNH, value_SNV, projection.scale)


class FullAttention:
    """Each packed sequence attends causally to itself, whole, without a cache. Training and scoring use it."""

    def __init__(self, lengths: Sequence[int], form: Form = "expanded") -> None:
        self.lengths = list(lengths)  # tokens of each sequence, in the order they are packed
        self.form = form

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        rows_TC = torch.cat([latent_TL, rope_key_TR], dim=-1)
        parts = zip(query_TNH.split(self.lengths), rows_TC.split(self.lengths), strict=True)
        return torch.cat([attend(*part, projection, self.form) for part in parts])


class LatentAttention(nn.Module):
    """One layer's projections around an `Attention`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.scale = softmax_scale(config)
        query_width = config.n_heads * config.head_dim
        up_width = config.n_heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.wq_a = Linear(config.dim, config.q_lora_rank)
        self.q_a_norm = RMSNorm(config.q_lora_rank, config.norm_eps)
        self.wq_b = Linear(config.q_lora_rank, query_width)
        self.wkv_a_with_mqa = Linear(config.dim, config.kv_width)
        self.kv_a_norm = RMSNorm(config.kv_lora_rank, config.norm_eps)
        self.wkv_b = Linear(config.kv_lora_rank, up_width)
        self.wo = Linear(config.n_heads * config.v_head_dim, config.dim)

    def forward(self, x_TD: Tensor, positions: "Positions", attention: Attention) -> Tensor:
        config, num_tokens = self.config, x_TD.shape[0]
        query_TNH = self.wq_b(self.q_a_norm(self.wq_a(x_TD))).view(num_tokens, config.n_heads, config.head_dim)
        query_nope_TNP, query_rope_TNR = query_TNH.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        query_rope_TNR = rotate_interleaved(query_rope_TNR, positions.cos[:, None], positions.sin[:, None])
        query_TNH = torch.cat([query_nope_TNP, query_rope_TNR], dim=-1)
        if positions.growth is not None:
            query_TNH = query_TNH * positions.growth

        latent_TL, rope_key_TR = self.wkv_a_with_mqa(x_TD).split([config.kv_lora_rank, config.qk_rope_head_dim], dim=-1)
        latent_TL = self.kv_a_norm(latent_TL)
        rope_key_TR = rotate_interleaved(rope_key_TR, positions.cos, positions.sin)
        context_TNV = attention(self.layer, query_TNH, latent_TL, rope_key_TR, self.projection())
        out_TD: Tensor = self.wo(context_TNV.reshape(num_tokens, -1))
        return out_TD

    def projection(self) -> LatentProjection:
        config = self.config
        return LatentProjection(
            self.wkv_b.weight, config.n_heads, config.qk_nope_head_dim, config.v_head_dim, self.scale
        )


@dataclass(frozen=True, slots=True)
class Positions:
    """Per-token tables that every layer shares."""

    cos: Tensor  # [T, R/2]
    sin: Tensor  # [T, R/2]
    growth: Tensor | None  # [T, 1, 1]; None where it is 1 for all
