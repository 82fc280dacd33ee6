"""What training minimises: cross-entropy on the assistant's tokens, plus two terms that keep the gate healthy.

balance = E * sum_e f_e P_e     f: share of assignments, P: mean probability (Switch, arXiv 2101.03961); 1 when even
z       = mean (logsumexp gate logits)^2                                   (ST-MoE, arXiv 2202.08906)
loss    = cross-entropy + balance_weight * mean over layers + z_weight * mean over layers
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from small4.kernels.experts import count_ids
from small4.model.packed_attention import PackedAttention
from small4.model.transformer import Transformer
from small4.train.data import Batch


@dataclass(frozen=True, slots=True)
class Loss:
    """The sum to minimise, and what it is made of."""

    total: Tensor
    cross_entropy: Tensor
    max_load: Tensor  # busiest expert's assignments over the mean, worst layer


class RoutingRecord:
    """Listens to every gate of one forward pass."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []  # gate logits [T, E], expert ids [T, K]

    def __call__(self, layer: int, logits_TE: Tensor, expert_ids_TK: Tensor) -> None:
        self.layers.append((logits_TE, expert_ids_TK))

    def balance(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean balance loss, mean z loss, and the largest load over its mean."""
        balances, zs, loads = [], [], []
        for logits_TE, expert_ids_TK in self.layers:
            num_experts = logits_TE.shape[1]
            counts_E = count_ids(expert_ids_TK.flatten(), num_experts)
            share_E = counts_E / counts_E.sum()
            balances.append(num_experts * (share_E * logits_TE.float().softmax(-1).mean(0)).sum())
            zs.append(logits_TE.float().logsumexp(-1).square().mean())
            loads.append(share_E.max() * num_experts)
        return torch.stack(balances).mean(), torch.stack(zs).mean(), torch.stack(loads).max()


def compute_loss(model: Transformer, batch: Batch, balance_weight: float, z_weight: float) -> Loss:
    """Forward pass and losses of one batch; the caller runs backward."""
    record = RoutingRecord()
    model.routing_observer = record
    try:
        device = batch.tokens_T.device
        attention = PackedAttention(batch.lengths, device, few_calls=device.type != "cpu")
        hidden_TD = model.hidden(batch.tokens_T, batch.positions_T, attention, batch.images)
    finally:
        model.routing_observer = None
    cross_entropy = F.cross_entropy(model.logits(hidden_TD[batch.source_M]).float(), batch.target_M)
    balance, z, max_load = record.balance()
    return Loss(cross_entropy + balance_weight * balance + z_weight * z, cross_entropy.detach(), max_load)
