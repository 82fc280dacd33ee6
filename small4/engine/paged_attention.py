"""Attention over the paged latent cache: new rows are stored, then every run attends over its sequence's blocks.

Runs of few tokens (decoding, drafts, short chunks) meet the latents directly, all of them in one call; a long chunk of
a prompt expands its sequence's rows to keys and values first. Both equal `FullAttention` over the whole sequence.
"""

import numpy as np
import torch
from torch import Tensor

from small4.engine.batch import StepBatch
from small4.engine.kv_cache import PagedCache
from small4.kernels.ops import Kernels
from small4.kernels.pages import CachePages, Pages
from small4.model.attention import CachedAttention, LatentProjection, attend

ABSORB_UP_TO = 16  # tokens of a run; above that, expanding the rows costs less than meeting them head by head


class PagedAttention(CachedAttention):
    """The `Attention` of one step."""

    def __init__(self, cache: PagedCache, batch: StepBatch, kernels: Kernels) -> None:
        self.batch = batch
        self.kernels = kernels
        query_starts = torch.from_numpy(np.array(batch.starts, dtype=np.int32))
        self.cache_pages = CachePages(
            cache.layers, cache.scales, batch.tables, query_starts, batch.ends_B, batch.slots_T
        )

    def __call__(
        self, layer: int, query_TNH: Tensor, latent_TL: Tensor, rope_key_TR: Tensor, projection: LatentProjection
    ) -> Tensor:
        batch, pages = self.batch, self.cache_pages.of(layer)
        self.kernels.store_rows(pages, torch.cat([latent_TL, rope_key_TR], dim=-1))
        parts = []
        if batch.num_short:
            short_TNH = query_TNH[: batch.starts[batch.num_short]]
            parts.append(self._absorbed(pages.first(batch.num_short), short_TNH, projection))
        for row in range(batch.num_short, len(batch.runs)):
            query = query_TNH[batch.starts[row] : batch.starts[row + 1]]
            parts.append(attend(query, pages.rows(row, query.dtype), projection, "expanded"))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def pages(self) -> CachePages | None:
        return self.cache_pages if self.batch.num_short == len(self.batch.runs) else None

    def _absorbed(self, pages: Pages, query_TNH: Tensor, projection: LatentProjection) -> Tensor:
        """Values [T, N, V] of the short runs."""
        query_TNC, latent_width = torch.cat(projection.absorb(query_TNH), dim=-1), projection.wkv_b.shape[1]
        mixed_TNL = self.kernels.paged_latent_attention(query_TNC, pages, latent_width, projection.scale)
        return projection.values(mixed_TNL)
