"""The same operations through torch's own operators, for machines without a compiler, behind `ops.Kernels`.

torch has one operator for groups of 32: four-bit codes with a scale and a zero point, w = (q - 8) scale + zero. An int4
weight is one such matrix and an int8 weight is two, code = 16 high + low. Activations are not rounded here, and scales
are held in the activations' type: results differ from the definition in `quantized.py` by what rounding costs.
"""

import torch
from torch import Tensor

from small4.kernels.attention import paged_decode_attention
from small4.kernels.block import BlockWeights
from small4.kernels.experts import few_experts, sorted_experts
from small4.kernels.linear import linear
from small4.kernels.pages import Pages
from small4.kernels.quantized import GROUP, Kind, PackedWeight, codes_and_scales, pack
from small4.kernels.reference import swiglu

Weight = PackedWeight | Tensor
FEW_ROWS = 32  # up to here the operator is faster than multiplying by the unpacked matrix


class TorchKernels:
    """Kernels of stock torch; `reason` says why they were picked."""

    def __init__(self, reason: str) -> None:
        self.name = f"torch ({reason})"

    def pack(self, weight: Tensor, kind: Kind) -> PackedWeight:
        return pack(weight, kind)

    def linear(self, weight: Weight) -> "TorchLinear":
        return TorchLinear(weight)

    def experts(self, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None = None) -> "TorchExperts":
        return TorchExperts(w13, w2, shared)

    def block(self, weights: BlockWeights) -> None:
        """Nothing is fused."""

    def can_attend(self, width: int, latent_width: int) -> bool:
        return True

    def store_rows(self, pages: Pages, rows_TC: Tensor) -> None:
        pages.store(rows_TC)

    def paged_latent_attention(self, query_TNC: Tensor, pages: Pages, latent_width: int, scale: float) -> Tensor:
        return paged_decode_attention(query_TNC, pages, latent_width, scale)


class TorchLinear:
    """x W^T through torch's four-bit operator, or plainly for a plain matrix."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight if isinstance(weight, Tensor) else None
        self.parts = [] if isinstance(weight, Tensor) else four_bit_parts(weight)
        self.num_rows = weight.shape[0] if isinstance(weight, Tensor) else weight.rows

    def __call__(self, x_TD: Tensor) -> Tensor:
        if self.weight is not None:
            return linear(x_TD, self.weight)
        if self.parts[0][1].dtype != x_TD.dtype:  # once: a model keeps to one type
            self.parts = [(codes, scales.to(x_TD.dtype)) for codes, scales in self.parts]
        run = torch.ops.aten._weight_int4pack_mm_for_cpu
        total: Tensor = run(x_TD, self.parts[0][0], GROUP, self.parts[0][1])
        for codes, scales in self.parts[1:]:
            total += run(x_TD, codes, GROUP, scales)
        return total if total.shape[1] == self.num_rows else total[:, : self.num_rows]


class TorchExperts:
    """Routed experts, one after another."""

    def __init__(self, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None) -> None:
        self.plain = (w13, w2) if isinstance(w13, Tensor) and isinstance(w2, Tensor) else None
        self.packed = (
            []
            if isinstance(w13, Tensor) or isinstance(w2, Tensor)
            else [(TorchLinear(w13[index]), TorchLinear(w2[index])) for index in range(w13.strips.shape[0])]
        )
        self.shared = None if shared is None else (TorchLinear(shared[0]), TorchLinear(shared[1]))

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor) -> Tensor:
        if self.plain is not None:
            run = few_experts if x_TD.shape[0] <= 2 else sorted_experts
            out_TD = run(x_TD, weights_TK, expert_ids_TK, *self.plain)
        else:
            run_packed = self._few if x_TD.shape[0] == 1 else self._routed
            out_TD = run_packed(x_TD, weights_TK, expert_ids_TK)
        if self.shared is not None:
            w13, w2 = self.shared
            out_TD = out_TD + w2(swiglu(w13(x_TD)))
        return out_TD

    def _few(self, x_1D: Tensor, weights_1K: Tensor, expert_ids_1K: Tensor) -> Tensor:
        """As `_routed` for one token, with fewer calls: nothing to sort or to gather."""
        experts = [self.packed[expert_id] for expert_id in expert_ids_1K[0].tolist()]
        hidden_KF = swiglu(torch.cat([w13(x_1D) for w13, _ in experts]))
        rows_KD = torch.cat([w2(hidden_1F) for (_, w2), hidden_1F in zip(experts, hidden_KF.split(1), strict=True)])
        return weights_1K.to(rows_KD.dtype) @ rows_KD

    def _routed(self, x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor) -> Tensor:
        experts_per_token = expert_ids_TK.shape[1]
        flat_ids, order = expert_ids_TK.reshape(-1).sort(stable=True)
        token_ids = order // experts_per_token
        rows_D, out_rows_D, end = x_TD[token_ids], x_TD.new_empty(len(order), x_TD.shape[1]), 0
        for expert_id, count in zip(
            *(x.tolist() for x in flat_ids.unique_consecutive(return_counts=True)), strict=True
        ):
            start, end = end, end + count
            w13, w2 = self.packed[expert_id]
            out_rows_D[start:end] = w2(swiglu(w13(rows_D[start:end])))
        out_rows_D *= weights_TK.reshape(-1)[order].unsqueeze(-1)
        return torch.zeros_like(x_TD).index_add_(0, token_ids, out_rows_D)


def four_bit_parts(weight: PackedWeight) -> list[tuple[Tensor, Tensor]]:
    """Codes as torch's operator packs them and [groups, rows, 2] scales and zeros, of matrices that sum to `weight`."""
    codes, scale, low = codes_and_scales(weight)
    codes = torch.nn.functional.pad(codes.flatten(-2), (0, 0, 0, -weight.rows % 16)).to(torch.int32)
    scale, low = (torch.nn.functional.pad(x, (0, 0, 0, -weight.rows % 16)) for x in (scale, low))
    if weight.kind == "int4":
        return [four_bit(codes, scale, 8 * scale - low)]
    return [four_bit((codes >> 4) + 8, 16 * scale, torch.zeros_like(scale)), four_bit(codes & 15, scale, 8 * scale)]


def four_bit(codes: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.contiguous(), 1)
    return packed, torch.stack([scale, zero], -1).transpose(0, 1).contiguous()
