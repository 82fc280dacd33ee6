"""Attention over pages: where blocks lie, how contexts differ and how queries are packed changes nothing."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from small4.kernels.attention import paged_decode_attention
from small4.kernels.reference import latent_attention, paged_latent_attention

LATENT, ROPE, SCALE = 48, 16, 0.21


@dataclass(frozen=True)
class Pages:
    """B sequences whose rows lie scattered over blocks, and the same rows in one piece each."""

    query_TNC: Tensor
    rows_PBC: Tensor
    tables: Tensor
    query_starts: Tensor
    context_lengths: Tensor
    rows: list[Tensor]


def scattered(
    queries: list[int], contexts: list[int], *, block_size: int, heads: int = 3, dtype: torch.dtype = torch.float32
) -> Pages:
    """Random queries and rows; unused slots hold NaN, so that reading one shows."""
    generator = torch.Generator().manual_seed(0)
    needed = [-(-context // block_size) for context in contexts]
    places = torch.randperm(sum(needed) + 3, generator=generator).to(torch.int32)
    rows_PBC = torch.full((len(places), block_size, LATENT + ROPE), float("nan"), dtype=dtype)
    tables = torch.full((len(contexts), max(needed) + 1), 2**30, dtype=torch.int32)
    rows = []
    for index, (context, count) in enumerate(zip(contexts, needed, strict=True)):
        tables[index, :count], places = places[:count], places[count:]
        row_SC = torch.randn(context, LATENT + ROPE, generator=generator).to(dtype)
        for slot in range(context):
            rows_PBC[tables[index, slot // block_size], slot % block_size] = row_SC[slot]
        rows.append(row_SC)
    query_TNC = torch.randn(sum(queries), heads, LATENT + ROPE, generator=generator).to(dtype)
    starts = torch.tensor([0, *queries]).cumsum(0).to(torch.int32)
    return Pages(query_TNC, rows_PBC, tables, starts, torch.tensor(contexts, dtype=torch.int32), rows)


def in_one_piece(pages: Pages) -> Tensor:
    """Each sequence by itself, over contiguous rows."""
    queries = pages.query_TNC.split(pages.query_starts.diff().tolist())
    return torch.cat(
        [latent_attention(*q.tensor_split([LATENT], -1), r, SCALE) for q, r in zip(queries, pages.rows, strict=True)]
    )


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize(("queries", "contexts"), [([1], [1]), ([1, 3, 8], [17, 3, 40]), ([8, 1], [8, 33])])
def test_scattered_blocks_equal_contiguous_rows(queries: list[int], contexts: list[int], block_size: int) -> None:
    pages = scattered(queries, contexts, block_size=block_size)
    out_TNL = paged_latent_attention(
        pages.query_TNC, pages.rows_PBC, pages.tables, pages.query_starts, pages.context_lengths, LATENT, SCALE
    )
    assert torch.equal(out_TNL, in_one_piece(pages))


def test_what_others_left_in_padded_rows_changes_nothing() -> None:
    pages = scattered([1, 1, 1], [17, 20, 18], block_size=4)
    tables = pages.tables.where(pages.tables < len(pages.rows_PBC), 0)
    out_TNL = paged_decode_attention(
        pages.query_TNC, pages.rows_PBC, tables, pages.query_starts, pages.context_lengths, LATENT, SCALE
    )
    torch.testing.assert_close(out_TNL, in_one_piece(pages), rtol=0, atol=1e-5)
