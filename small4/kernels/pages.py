"""Latent rows of many sequences in blocks, and what one pass adds to them and looks up in them.

A row is a token's latent with its rope key behind it, C = L + R values, in the model's type or in fp8 (e4m3) with one
bfloat16 scale. Sequence b's row s is rows_PBC[tables[b, s // block_size], s % block_size]; it has context_lengths[b]
rows, and its queries query_starts[b] to query_starts[b + 1] belong to the last of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FP8_MAX = 448.0  # largest number of e4m3


@dataclass(frozen=True, slots=True)
class Pages:
    """One layer's cache as one pass sees it."""

    rows_PBC: Tensor  # [blocks, block_size, C]
    scales_PB: Tensor | None  # of fp8 rows
    tables: Tensor  # int32 [B, max_blocks]
    query_starts: Tensor  # int32 [B + 1]
    context_lengths: Tensor  # int32 [B]
    slots_T: Tensor  # int64: where the pass's own rows go, block * block_size + place

    def store(self, rows_TC: Tensor) -> None:
        """Keep one row per token of the pass; fp8: a row's largest value becomes 448."""
        stored = self.rows_PBC.view(-1, rows_TC.shape[1])
        if self.scales_PB is None:
            stored[self.slots_T] = rows_TC
            return
        scales_T = (rows_TC.abs().amax(-1).float() / FP8_MAX).clamp(min=1e-12).to(torch.bfloat16)
        scaled_TC = (rows_TC.float() / scales_T.float()[:, None]).clamp(-FP8_MAX, FP8_MAX)
        # torch neither writes nor reads fp8 by index.
        stored.view(torch.uint8)[self.slots_T] = scaled_TC.to(torch.float8_e4m3fn).view(torch.uint8)
        self.scales_PB.view(-1)[self.slots_T] = scales_T

    def blocks(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of some blocks, [..., block_size, C]."""
        if self.scales_PB is None:
            return self.rows_PBC[ids].to(dtype)
        rows = self.rows_PBC.view(torch.uint8)[ids].view(torch.float8_e4m3fn)
        return (rows.float() * self.scales_PB[ids].float()[..., None]).to(dtype)

    def rows(self, sequence: int, dtype: torch.dtype) -> Tensor:
        """All rows of one sequence, [S, C]."""
        length, block_size = int(self.context_lengths[sequence]), self.rows_PBC.shape[1]
        return self.blocks(self.tables[sequence, : -(-length // block_size)], dtype).flatten(0, 1)[:length]

    def first(self, count: int) -> "Pages":
        """The same cache with the first sequences alone."""
        return Pages(
            *(self.rows_PBC, self.scales_PB, self.tables[:count], self.query_starts[: count + 1]),
            *(self.context_lengths[:count], self.slots_T),
        )


@dataclass(frozen=True, slots=True)
class CachePages:
    """The caches of all layers as one pass sees them, each of the same shape; fields as in `Pages`."""

    layers: Sequence[Tensor]
    scales: Sequence[Tensor] | None
    tables: Tensor
    query_starts: Tensor
    context_lengths: Tensor
    slots_T: Tensor

    def of(self, layer: int) -> Pages:
        scales_PB = None if self.scales is None else self.scales[layer]
        return Pages(self.layers[layer], scales_PB, self.tables, self.query_starts, self.context_lengths, self.slots_T)
