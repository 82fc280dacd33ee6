"""Packed weights: what they cost, how near they come, and that packing loses nothing that quantising did not."""

import pytest
import torch
from torch import Tensor

from small4.kernels.quantized import (
    Kind,
    codes_and_scales,
    pack,
    packed_experts,
    packed_linear,
    round_activations,
    unpack,
)
from small4.kernels.reference import routed_experts

KINDS: tuple[Kind, ...] = ("int8", "int4")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().mean() / wanted.square().mean()).sqrt())


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8.5), ("int4", 4.5 + 64 / 4096)])
def test_a_weight_costs_the_bits_that_the_format_names(kind: Kind, bits: float) -> None:
    assert pack(torch.zeros(16, 4096), kind).size_bytes * 8 == 16 * 4096 * bits


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_the_format_holds_come_back_as_they_were(kind: Kind) -> None:
    once = unpack(pack(normal(37, 96), kind))
    torch.testing.assert_close(unpack(pack(once, kind)), once, rtol=0, atol=2e-2 if kind == "int4" else 1e-6)


def test_int8_places_every_code_where_it_came_from() -> None:
    codes = torch.randint(-127, 128, (2, 35, 64), generator=torch.Generator().manual_seed(1)).float()
    codes[..., ::32] = 127  # so that each group's scale is 1
    assert torch.equal(unpack(pack(codes, "int8")), codes)


def test_int4_places_every_code_where_it_came_from() -> None:
    codes = torch.randint(0, 16, (2, 35, 64), generator=torch.Generator().manual_seed(1)).float()
    codes[..., ::32], codes[..., 1::32] = 0, 15
    found, scale, low = codes_and_scales(pack(codes * 0.25 - 2, "int4"))
    assert torch.equal(found.flatten(-2), codes)
    torch.testing.assert_close(scale, torch.full_like(scale, 0.25))
    torch.testing.assert_close(low, torch.full_like(low, 2.0))


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.0065), ("int4", 0.0735)])
def test_normal_weights_lose_no_more_than_the_format_allows(kind: Kind, limit: float) -> None:
    weight = normal(64, 1024)
    assert relative_error(unpack(pack(weight, kind)), weight) < limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_groups_of_one_value_stay_finite_and_near(kind: Kind, value: float) -> None:
    weight = torch.full((16, 64), value)
    torch.testing.assert_close(unpack(pack(weight, kind)), weight, rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_weights_pack_like_their_float32(kind: Kind) -> None:
    weight = normal(16, 64).to(torch.bfloat16)
    assert torch.equal(pack(weight, kind).strips, pack(weight.float(), kind).strips)


def test_rounded_activations_are_within_half_a_step() -> None:
    x_TD = normal(5, 96)
    x_TD[2] = 0
    codes, scales = round_activations(x_TD)
    error = (codes * scales[..., None]).flatten(-2) - x_TD
    assert codes.abs().max() == 127
    assert (error.abs() <= scales.repeat_interleave(32, -1) * 0.5001).all()


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.01), ("int4", 0.08)])
def test_products_come_as_near_as_the_weights(kind: Kind, limit: float) -> None:
    x_TD, weight = normal(3, 256), normal(50, 256, seed=1)
    assert relative_error(packed_linear(x_TD, pack(weight, kind)), x_TD @ weight.T) < limit


@pytest.mark.parametrize("kind", KINDS)
def test_experts_differ_from_those_of_the_unpacked_weights_by_rounded_activations_alone(kind: Kind) -> None:
    x_TD, w13, w2 = normal(5, 64), normal(4, 2 * 32, 64, seed=1) / 8, normal(4, 64, 32, seed=2) / 8
    weights_TK = torch.rand(5, 2, generator=torch.Generator().manual_seed(3))
    expert_ids_TK = torch.tensor([[0, 1], [2, 1], [3, 0], [1, 3], [0, 2]])
    packed = pack(w13, kind), pack(w2, kind)
    found = packed_experts(x_TD, weights_TK, expert_ids_TK, *packed)
    wanted = routed_experts(x_TD, weights_TK, expert_ids_TK, *map(unpack, packed))
    assert 0 < relative_error(found, wanted) < 0.02


def test_rows_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="48 columns"):
        pack(torch.zeros(16, 48), "int4")
