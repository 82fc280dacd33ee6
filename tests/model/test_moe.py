"""Routed experts: every fast path equals the plain loop over experts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from small4.kernels.experts import few_experts, grouped_experts, sorted_experts
from small4.kernels.reference import route, routed_experts
from small4.model.config import MoeConfig
from small4.model.moe import Experts

# rows, experts, experts per token: one token, few, many; more experts than rows, so that some stay empty; one expert
SHAPES = [(1, 8, 2), (2, 64, 4), (3, 16, 4), (16, 40, 3), (200, 12, 4), (64, 4, 4), (5, 1, 1)]


def draw(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Experts, Tensor, Tensor, Tensor]:
    """Experts of width 24 over rows of 40, with the rows, weights and expert ids of one pass."""
    num_tokens, num_experts, experts_per_token = shape
    generator = torch.Generator().manual_seed(sum(shape))
    moe = MoeConfig(num_experts=num_experts, num_experts_per_tok=experts_per_token, expert_hidden_dim=24)
    experts = Experts(40, moe)
    for parameter in experts.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    x_TD = torch.randn(num_tokens, 40, generator=generator).to(dtype)
    logits_TE = torch.randn(num_tokens, num_experts, generator=generator).to(dtype)
    weights_TK, expert_ids_TK = route(logits_TE, experts_per_token, 1.0)
    return experts.to(dtype), x_TD, weights_TK, expert_ids_TK


def one_row_at_a_time(x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
    """The sum written out, in float64."""
    out = []
    for x_D, weights_K, ids_K in zip(x_TD.double(), weights_TK.double(), expert_ids_TK.tolist(), strict=True):
        row = torch.zeros_like(x_D)
        for weight, expert in zip(weights_K, ids_K, strict=True):
            gate, up = (w13[expert].double() @ x_D).chunk(2)
            row += weight * (w2[expert].double() @ (gate * torch.sigmoid(gate) * up))
        out.append(row)
    return torch.stack(out)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("run", [routed_experts, grouped_experts, sorted_experts, few_experts])
@torch.inference_mode()
def test_every_path_gives_the_weighted_sum(
    run: Callable[..., Tensor], shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    experts, *call = draw(shape, dtype)
    out_TD = run(*call, experts.w13, experts.w2)
    assert out_TD.dtype == dtype
    expected_TD = one_row_at_a_time(*call, experts.w13, experts.w2)
    torch.testing.assert_close(out_TD.double(), expected_TD, rtol=0, atol=tolerance)
    torch.testing.assert_close(experts(*call).double(), expected_TD, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(3, 16, 4), (1, 8, 2), (200, 12, 4)])
def test_gradients_of_the_grouped_path_equal_those_of_the_loop(shape: tuple[int, int, int]) -> None:
    gradients = []
    for run in (routed_experts, grouped_experts):
        experts, x_TD, weights_TK, expert_ids_TK = draw(shape, torch.float32)
        x_TD.requires_grad_()
        weights_TK.requires_grad_()
        run(x_TD, weights_TK, expert_ids_TK, experts.w13, experts.w2).square().sum().backward()
        gradients.append([x_TD.grad, weights_TK.grad, experts.w13.grad, experts.w2.grad])
    for loop, grouped in zip(*gradients, strict=True):
        torch.testing.assert_close(grouped, loop, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_that_do_not_fill_a_vector_work(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    w13 = torch.randn(4, 2 * 5, 7, generator=generator).to(dtype)
    w2 = torch.randn(4, 7, 5, generator=generator).to(dtype)
    x_TD = torch.randn(9, 7, generator=generator).to(dtype)
    weights_TK, expert_ids_TK = route(torch.randn(9, 4, generator=generator).to(dtype), 2, 1.0)
    out_TD = grouped_experts(x_TD, weights_TK, expert_ids_TK, w13, w2)
    expected_TD = one_row_at_a_time(x_TD, weights_TK, expert_ids_TK, w13, w2)
    torch.testing.assert_close(out_TD.double(), expected_TD, rtol=0.05, atol=0.5 if dtype == torch.bfloat16 else 1e-4)


def test_weights_of_chosen_experts_sum_to_the_scale() -> None:
    logits_TE = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    weights_TK, expert_ids_TK = route(logits_TE, 3, 2.5)
    torch.testing.assert_close(weights_TK.sum(-1), torch.full((50,), 2.5))
    assert torch.equal(expert_ids_TK.sort(-1).values, logits_TE.topk(3).indices.sort(-1).values)
