"""Mixture of experts: a gate picks K of E experts per token; one shared expert runs for all.

p = softmax(gate h);  w, ids = top-K of p, renormalised to sum 1, times routed_scale
y = sum_k w_k expert_ids_k(h) + shared(h)                                (specification 1.3, step 4)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from small4.kernels.experts import few_experts, grouped_experts, sorted_experts
from small4.kernels.ops import Kernels
from small4.kernels.quantized import PackedWeight
from small4.kernels.reference import route
from small4.model.config import ModelConfig, MoeConfig

RoutingObserver = Callable[[int, Tensor, Tensor], None]  # layer, gate logits [T, E], chosen expert ids [T, K]


class Experts(nn.Module):
    """The routed experts of one layer, fused: w13 [E, 2F, D] holds w1 above w3, w2 is [E, D, F]."""

    def __init__(self, dim: int, moe: MoeConfig) -> None:
        super().__init__()
        self.w13 = nn.Parameter(torch.empty(moe.num_experts, 2 * moe.expert_hidden_dim, dim))
        self.w2 = nn.Parameter(torch.empty(moe.num_experts, dim, moe.expert_hidden_dim))

    def forward(self, x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor) -> Tensor:
        call = (x_TD, weights_TK, expert_ids_TK, self.w13, self.w2)
        if torch.is_grad_enabled():
            return grouped_experts(*call)
        return few_experts(*call) if x_TD.shape[0] <= 2 else sorted_experts(*call)


class PackedExperts(nn.Module):
    """Routed experts with int8 or int4 weights, and the shared one with them; without parameters."""

    def __init__(
        self,
        w13: PackedWeight,
        w2: PackedWeight,
        shared: tuple[PackedWeight, PackedWeight] | None,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        self.weights = (w13, w2, shared)
        self.sum = kernels.experts(w13, w2, shared)

    def forward(self, x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor) -> Tensor:
        return self.sum(x_TD, weights_TK, expert_ids_TK)


def choose_experts(
    gate: nn.Linear, moe: MoeConfig, layer: int, x_TD: Tensor, observer: RoutingObserver | None
) -> tuple[Tensor, Tensor]:
    """Weights and expert ids of every token, both [T, K]; the observer sees the gate's logits."""
    logits_TE = gate(x_TD)
    weights_TK, expert_ids_TK = route(logits_TE, moe.num_experts_per_tok, moe.routed_scale)
    if observer is not None:
        observer(layer, logits_TE, expert_ids_TK)
    return weights_TK, expert_ids_TK


def is_moe_layer(config: ModelConfig, layer: int) -> bool:
    """Whether a layer routes; dense layers, if any, come first."""
    return config.moe is not None and layer >= config.moe.first_k_dense_replace
