"""The library's attention over pages equals its definition, and it keeps rows as the definition does."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from small4.kernels.cpu.build import BuildError, find_or_build
from small4.kernels.cpu.native import NativeKernels
from small4.kernels.pages import Pages
from small4.kernels.reference import paged_latent_attention
from tests.kernels.test_native import ISAS, assert_near
from tests.kernels.test_paged_latent_attention import LATENT, ROPE, SCALE, scattered


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    try:
        return NativeKernels(find_or_build(), request.param)
    except (BuildError, ValueError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("cached", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize(
    ("queries", "contexts"), [([1], [1]), ([1, 3, 8], [17, 3, 40]), ([1, 1, 2], [700, 256, 513]), ([70], [300])]
)
def test_attention_over_pages_equals_the_definition(
    kernels: NativeKernels, queries: list[int], contexts: list[int], heads: int, cached: torch.dtype
) -> None:
    is_fp8 = cached == torch.float8_e4m3fn
    dtype = torch.bfloat16 if is_fp8 else cached
    case = scattered(queries, contexts, block_size=16, heads=heads, dtype=dtype, is_fp8=is_fp8)
    found = kernels.paged_latent_attention(case.query_TNC.float(), case.pages, LATENT, SCALE)
    wanted = paged_latent_attention(case.query_TNC.double(), case.pages, LATENT, SCALE)
    assert_near(found, wanted, 3e-6)
    if dtype == torch.bfloat16:
        narrow = kernels.paged_latent_attention(case.query_TNC, case.pages, LATENT, SCALE)
        assert_near(narrow, wanted, 2**-7)  # queries, weights and the result may each be rounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_fp8", [False, True])
def test_attention_of_a_sequence_does_not_depend_on_the_batch(
    kernels: NativeKernels, is_fp8: bool, dtype: torch.dtype
) -> None:
    case = scattered([1, 2, 1], [300, 40, 600], block_size=8, dtype=dtype, is_fp8=is_fp8)
    together = kernels.paged_latent_attention(case.query_TNC, case.pages, LATENT, SCALE)
    for index, (start, end) in enumerate(pairwise(case.pages.query_starts.tolist())):
        one = slice(index, index + 1)
        pages = replace(
            case.pages,
            tables=case.pages.tables[one],
            query_starts=torch.tensor([0, end - start], dtype=torch.int32),
            context_lengths=case.pages.context_lengths[one],
            slots_T=case.pages.slots_T[start:end],
        )
        alone = kernels.paged_latent_attention(case.query_TNC[start:end], pages, LATENT, SCALE)
        assert torch.equal(alone, together[start:end])


def test_attention_survives_scores_far_apart(kernels: NativeKernels) -> None:
    case = scattered([1], [64], block_size=16)
    call = (case.query_TNC, case.pages, LATENT, 1e4)
    assert_near(kernels.paged_latent_attention(*call), paged_latent_attention(*call), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_fp8", [False, True])
def test_rows_are_kept_byte_for_byte_as_the_definition_keeps_them(
    kernels: NativeKernels, is_fp8: bool, dtype: torch.dtype
) -> None:
    case = scattered([40, 1, 21], [40, 33, 50], block_size=4, dtype=dtype, is_fp8=is_fp8)
    rows_TC = torch.randn(62, LATENT + ROPE, generator=torch.Generator().manual_seed(7)).to(dtype)
    rows_TC[1] = 0.0
    rows_TC[2] *= 1e-30
    rows_TC[3] = torch.logspace(-8, 2, LATENT + ROPE)
    rows_TC[4] = -rows_TC[3] * 1e20
    rows_TC[5] = torch.arange(LATENT + ROPE) / 64  # in fp8 many of these lie half way between two numbers
    case.pages.store(rows_TC)
    wanted = kept(case.pages)
    for tensor in (case.pages.rows_PBC, case.pages.scales_PB):
        if tensor is not None:
            tensor.view(torch.uint8).fill_(7)
    kernels.store_rows(case.pages, rows_TC)
    assert all(map(torch.equal, kept(case.pages), wanted))


def kept(pages: Pages) -> list[Tensor]:
    """The bytes of the pass's own rows and their scales."""
    tensors = (pages.rows_PBC.view(torch.uint8), pages.scales_PB)
    return [tensor.flatten(0, 1)[pages.slots_T] for tensor in tensors if tensor is not None]


def test_an_fp8_row_with_a_number_that_is_none_shows(kernels: NativeKernels) -> None:
    case = scattered([1], [3], block_size=4, is_fp8=True)
    rows_TC = torch.randn(1, LATENT + ROPE)
    rows_TC[0, 5] = float("nan")
    kernels.store_rows(case.pages, rows_TC)
    assert kernels.paged_latent_attention(case.query_TNC, case.pages, LATENT, SCALE).isnan().any()


def test_what_lies_outside_is_refused_before_it_is_read(kernels: NativeKernels) -> None:
    case = scattered([1, 2], [20, 30], block_size=8)
    pages = case.pages
    for wrong in (
        replace(pages, tables=pages.tables + 2**20),
        replace(pages, context_lengths=torch.tensor([20, 1], dtype=torch.int32)),
        replace(pages, context_lengths=pages.context_lengths * 100),
        replace(pages, slots_T=pages.slots_T + 2**20),
    ):
        with pytest.raises(ValueError, match="more queries than rows"):
            kernels.paged_latent_attention(case.query_TNC, wrong, LATENT, SCALE)
        with pytest.raises(ValueError, match="more queries than rows"):
            kernels.store_rows(wrong, torch.zeros(3, LATENT + ROPE))
    with pytest.raises(ValueError, match="of the types"):
        kernels.paged_latent_attention(case.query_TNC, replace(pages, tables=pages.tables.long()), LATENT, SCALE)
