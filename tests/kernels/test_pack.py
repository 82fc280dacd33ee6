"""The library packs weights to the very bytes of the definition, on every instruction set of this machine."""

import pytest
import torch
from torch import Tensor

from small4.kernels.cpu.build import BuildError, find_or_build
from small4.kernels.cpu.native import NativeKernels
from small4.kernels.quantized import Kind, pack
from tests.kernels.test_native import ISAS

KINDS: tuple[Kind, ...] = ("int8", "int4")


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    try:
        return NativeKernels(find_or_build(), request.param)
    except (BuildError, ValueError) as error:
        pytest.skip(str(error))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_same_bytes(kernels: NativeKernels, weight: Tensor, kind: Kind) -> None:
    found, wanted = kernels.pack(weight, kind), pack(weight, kind)
    assert (found.kind, found.rows, found.columns) == (wanted.kind, wanted.rows, wanted.columns)
    assert torch.equal(found.strips, wanted.strips)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16, 32), (37, 96), (1, 64), (256, 1024), (3, 35, 64), (2, 2, 16, 32)])
def test_packed_bytes_are_those_of_the_definition(
    kernels: NativeKernels, kind: Kind, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    assert_same_bytes(kernels, normal(*shape).to(dtype), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e-40, 1e-20, 1.0, 1e15])
def test_groups_of_every_kind_are_packed_alike(kernels: NativeKernels, kind: Kind, factor: float) -> None:
    weight = normal(64, 256)
    weight[3], weight[5] = 0.0, -0.0
    weight[7, :64], weight[7, 64:128], weight[9] = 0.25, -3.0, weight[9].abs()
    weight[11] = -weight[11].abs()
    weight[:, 5] *= 100.0
    weight[13] = (weight[13] * 4).round() / 2  # halves lie on the border between two codes
    assert_same_bytes(kernels, weight * factor, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_packed_like_its_copy(kernels: NativeKernels, kind: Kind) -> None:
    assert_same_bytes(kernels, normal(96, 64).T, kind)


def test_rows_that_do_not_divide_into_groups_are_refused(kernels: NativeKernels) -> None:
    with pytest.raises(ValueError, match="48 columns"):
        kernels.pack(torch.zeros(16, 48), "int4")
