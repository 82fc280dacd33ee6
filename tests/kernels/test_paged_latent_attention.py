"""Attention over pages: where blocks lie, how contexts differ and how queries are packed changes nothing."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from small4.kernels.attention import paged_decode_attention
from small4.kernels.pages import Pages
from small4.kernels.reference import latent_attention, paged_latent_attention

LATENT, ROPE, SCALE = 48, 16, 0.21


@dataclass(frozen=True)
class Scattered:
    """B sequences whose rows lie scattered over blocks, and the same rows in one piece each."""

    query_TNC: Tensor
    pages: Pages
    rows: list[Tensor]


def scattered(
    queries: list[int],
    contexts: list[int],
    *,
    block_size: int,
    heads: int = 3,
    dtype: torch.dtype = torch.float32,
    is_fp8: bool = False,
) -> Scattered:
    """Random queries and rows; unused slots hold NaN, so that reading one shows."""
    generator = torch.Generator().manual_seed(0)
    needed = [-(-context // block_size) for context in contexts]
    places = torch.randperm(sum(needed) + 3, generator=generator).to(torch.int32)
    shape = (len(places), block_size)
    rows_PBC = torch.full((*shape, LATENT + ROPE), float("nan")).to(torch.float8_e4m3fn if is_fp8 else dtype)
    scales_PB = torch.ones(shape, dtype=torch.bfloat16) if is_fp8 else None
    tables = torch.full((len(contexts), max(needed) + 1), 2**30, dtype=torch.int32)
    rows, slots = [], []
    for index, (context, count) in enumerate(zip(contexts, needed, strict=True)):
        tables[index, :count], places = places[:count], places[count:]
        rows.append(torch.randn(context, LATENT + ROPE, generator=generator).to(dtype))
        slots.append([int(tables[index, s // block_size]) * block_size + s % block_size for s in range(context)])
    query_TNC = torch.randn(sum(queries), heads, LATENT + ROPE, generator=generator).to(dtype)
    starts = torch.tensor([0, *queries]).cumsum(0).to(torch.int32)
    new = [slot for places, count in zip(slots, queries, strict=True) for slot in places[len(places) - count :]]
    pages = Pages(rows_PBC, scales_PB, tables, starts, torch.tensor(contexts, dtype=torch.int32), torch.tensor(new))
    replace(pages, slots_T=torch.tensor([slot for places in slots for slot in places])).store(torch.cat(rows))
    return Scattered(query_TNC, pages, rows)


def in_one_piece(case: Scattered) -> Tensor:
    """Each sequence by itself, over contiguous rows."""
    queries = case.query_TNC.split(case.pages.query_starts.diff().tolist())
    return torch.cat(
        [latent_attention(*q.tensor_split([LATENT], -1), r, SCALE) for q, r in zip(queries, case.rows, strict=True)]
    )


@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize(("queries", "contexts"), [([1], [1]), ([1, 3, 8], [17, 3, 40]), ([8, 1], [8, 33])])
def test_scattered_blocks_equal_contiguous_rows(queries: list[int], contexts: list[int], block_size: int) -> None:
    case = scattered(queries, contexts, block_size=block_size)
    assert torch.equal(paged_latent_attention(case.query_TNC, case.pages, LATENT, SCALE), in_one_piece(case))


def test_fp8_rows_come_back_to_their_precision() -> None:
    case = scattered([1, 3], [17, 40], block_size=4, is_fp8=True)
    for sequence, rows_SC in enumerate(case.rows):
        found = case.pages.rows(sequence, torch.float32)
        torch.testing.assert_close(found, rows_SC, rtol=2**-4, atol=float(rows_SC.abs().max()) / 448)


@pytest.mark.parametrize("is_fp8", [False, True])
@pytest.mark.parametrize(("queries", "contexts"), [([1], [40]), ([1, 1, 1], [33, 40, 38]), ([1, 2], [33, 40])])
def test_many_sequences_in_one_call_equal_each_alone(queries: list[int], contexts: list[int], is_fp8: bool) -> None:
    case = scattered(queries, contexts, block_size=4, is_fp8=is_fp8)
    case.pages.tables.clamp_(max=len(case.pages.rows_PBC) - 1)  # what pads a table is looked at, and hidden
    wanted = paged_latent_attention(case.query_TNC, case.pages, LATENT, SCALE)
    found = paged_decode_attention(case.query_TNC, case.pages, LATENT, SCALE)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_others_left_in_padded_rows_changes_nothing() -> None:
    case = scattered([1, 1, 1], [17, 20, 18], block_size=4)
    tables = case.pages.tables.where(case.pages.tables < len(case.pages.rows_PBC), 0)
    out_TNL = paged_decode_attention(case.query_TNC, replace(case.pages, tables=tables), LATENT, SCALE)
    torch.testing.assert_close(out_TNL, in_one_piece(case), rtol=0, atol=1e-5)
