"""Attention over the paged latent cache: new rows are stored, then every run attends over its sequence's blocks.

Runs of few tokens (decoding, drafts, short chunks) meet the latents directly, all of them in one call; a long chunk of
a prompt expands its sequence's rows to keys and values first. Both equal `FullAttention` over the whole sequence.
"""

import torch
from torch import Tensor

from small4.engine.batch import StepBatch
from small4.engine.kv_cache import PagedCache
from small4.kernels.ops import Kernels
from small4.kernels.reference import latent_attention
from small4.model.attention import LatentProjection, MixingAttention, attend

ABSORB_UP_TO = 16  # tokens of a run; above that, expanding the rows costs less than meeting them head by head


class PagedAttention(MixingAttention):
    """The `Attention` of one step."""

    def __init__(self, cache: PagedCache, batch: StepBatch, kernels: Kernels) -> None:
        self.cache = cache
        self.batch = batch
        self.kernels = kernels
        self.query_starts = torch.tensor(batch.starts, dtype=torch.int32)

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        batch = self.batch
        self.cache.write(layer, batch.slots_T, torch.cat([latent_TL, rope_key_TR], dim=-1))
        parts = []
        if batch.num_short:
            short_TNH = query_TNH[: batch.starts[batch.num_short]]
            parts.append(projection.values(self._absorbed(layer, short_TNH, projection)))
        for row in range(batch.num_short, len(batch.runs)):
            rows_SC = self.cache.read(layer, batch.tables[row], int(batch.ends_B[row]))
            query = query_TNH[batch.starts[row] : batch.starts[row + 1]]
            parts.append(attend(query, rows_SC, projection, "expanded"))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def can_mix(self, num_tokens: int) -> bool:
        return self.batch.num_short == len(self.batch.runs) and self.cache.scales is None

    def mix(self, layer: int, query_TNC: Tensor, rows_TC: Tensor, latent_width: int, scale: float) -> Tensor:
        self.cache.write(layer, self.batch.slots_T, rows_TC)
        tables, rows = self.batch.tables, self.cache.layers[layer]
        return self.kernels.paged_latent_attention(
            query_TNC, rows, tables, self.query_starts, self.batch.ends_B, latent_width, scale
        )

    def _absorbed(self, layer: int, query_TNH: Tensor, projection: LatentProjection) -> Tensor:
        """Per-head mixes of latents [T, N, L] of the short runs."""
        batch, num_short = self.batch, self.batch.num_short
        query_latent_TNL, query_rope_TNR = projection.absorb(query_TNH)
        if self.cache.scales is not None:
            parts = []
            for row in range(num_short):
                part = slice(batch.starts[row], batch.starts[row + 1])
                rows_SC = self.cache.read(layer, batch.tables[row], int(batch.ends_B[row]))
                parts.append(latent_attention(query_latent_TNL[part], query_rope_TNR[part], rows_SC, projection.scale))
            return torch.cat(parts)
        return self.kernels.paged_latent_attention(
            torch.cat([query_latent_TNL, query_rope_TNR], dim=-1),
            self.cache.layers[layer],
            batch.tables[:num_short],
            self.query_starts[: num_short + 1],
            batch.ends_B[:num_short],
            query_latent_TNL.shape[-1],
            projection.scale,
        )
