"""Weights of 8 or 4 bits in groups of 32 along a row, and products with them: formats and definitions in plain torch.

    int8    w = scale code                 code -127..127, scale bfloat16 per group            8.5 bits a weight
    int4    w = scale code - low           code 0..15, scale = row_scale s, low = row_low l,
                                           s and l 0..255 per group, row_* float32 per row     4.5 bits and 64 a row

A product rounds the activations too, to 8 bits with one scale per group of 32, so that a group's sum is exact in
integers; the rest is float32, and nothing is rounded in between:

    a = max |x|,  code = round_half_even(x (127 / a)),  x' = code (a / 127)              y = sum over groups of w . x'

In memory 16 rows are interleaved into a strip, which a kernel reads from end to end. For each group of columns it has a
tile: codes in vectors of 64 bytes, four columns of each of the 16 rows (int4: columns 8i to 8i + 3 in the low halves of
vector i, 8i + 4 to 8i + 7 in the high ones; int8: code + 128), then the group's scales (int8: 16 bfloat16; int4: 16 s,
16 l). An int4 strip starts with row_scale and row_low of its rows. Missing rows at the end are zero.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from small4.kernels.reference import swiglu

Kind = Literal["int8", "int4"]

GROUP = 32  # columns that share a scale
STRIP = 16  # rows interleaved
CODE_BYTES: dict[Kind, int] = {"int8": STRIP * GROUP, "int4": STRIP * GROUP // 2}
SCALE_BYTES = 32  # of one tile
HEAD_BYTES: dict[Kind, int] = {"int8": 0, "int4": 128}  # of one strip
REFITS = 4  # of an int4 group's scale to its codes; the error has nearly settled by then
PIECE = 2**22  # weights that are quantised at once: the float32 temporaries stay small


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A matrix [rows, columns], or a stack of them, in strips."""

    kind: Kind
    rows: int
    columns: int
    strips: Tensor  # uint8 [..., strips, bytes of a strip]

    @property
    def size_bytes(self) -> int:
        return self.strips.numel()

    def __getitem__(self, index: int) -> "PackedWeight":
        """One matrix of a stack, in the same memory."""
        return PackedWeight(self.kind, self.rows, self.columns, self.strips[index])


def can_pack(columns: int) -> bool:
    """Whether rows of this length divide into groups; others stay as they are."""
    return columns % GROUP == 0


def strip_bytes(kind: Kind, columns: int) -> int:
    return HEAD_BYTES[kind] + columns // GROUP * (CODE_BYTES[kind] + SCALE_BYTES)


def pack(weight: Tensor, kind: Kind) -> PackedWeight:
    """Quantise and pack a matrix [rows, columns] or a stack [..., rows, columns]; columns are a multiple of 32."""
    packed_weight = empty(weight, kind)
    rows, columns, strips = packed_weight.rows, packed_weight.columns, packed_weight.strips
    step = max(1, PIECE // (STRIP * columns)) * STRIP
    for matrix, out in zip(weight.reshape(-1, rows, columns), strips.view(-1, *strips.shape[-2:]), strict=True):
        for start in range(0, rows, step):
            piece = matrix[start : start + step].to(torch.float32, copy=True)
            padded = torch.nn.functional.pad(piece, (0, 0, 0, -len(piece) % STRIP))
            groups = padded.view(len(padded), -1, GROUP)
            packed = _pack_int4(groups) if kind == "int4" else _pack_int8(groups)
            out[start // STRIP : start // STRIP + len(packed)] = packed
    return packed_weight


def empty(weight: Tensor, kind: Kind) -> PackedWeight:
    """Memory for a weight that is to be packed."""
    *stack, rows, columns = weight.shape
    if not can_pack(columns):
        raise ValueError(f"rows of {columns} columns do not divide into groups of {GROUP}")
    strips = torch.empty(*stack, -(-rows // STRIP), strip_bytes(kind, columns), dtype=torch.uint8)
    return PackedWeight(kind, rows, columns, strips)


def _pack_int8(groups_XGC: Tensor) -> Tensor:
    """Strips of rows already in groups; here C is the 32 columns of a group, G the groups of a row, X the rows."""
    num_groups = groups_XGC.shape[1]
    scale_XG = (groups_XGC.abs().amax(-1) / 127).to(torch.bfloat16)
    step_XG1 = _positive(scale_XG.float())[..., None]
    codes = (groups_XGC / step_XG1).round_().clamp_(-127, 127).to(torch.int16).add_(128).to(torch.uint8)
    tiles = codes.view(-1, STRIP, num_groups, 8, 4).permute(0, 2, 3, 1, 4).reshape(-1, num_groups, 512)
    scales = scale_XG.view(-1, STRIP, num_groups).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat([tiles, scales], -1).flatten(1)


def _pack_int4(groups_XGC: Tensor) -> Tensor:
    num_groups = groups_XGC.shape[1]
    scale_XG, low_XG = fit_int4(groups_XGC)
    row_scale_X, row_low_X = _positive(scale_XG.amax(-1) / 255), _positive(low_XG.amax(-1) / 255)
    s_XG, l_XG = (scale_XG / row_scale_X[:, None]).round_(), (low_XG / row_low_X[:, None]).round_()
    step_XG1 = _positive(s_XG * row_scale_X[:, None])[..., None]
    codes = ((groups_XGC + (l_XG * row_low_X[:, None])[..., None]) / step_XG1).round_().clamp_(0, 15).to(torch.uint8)
    halves = codes.view(-1, STRIP, num_groups, 4, 2, 4).permute(4, 0, 2, 3, 1, 5)
    tiles = (halves[0] | halves[1] << 4).reshape(-1, num_groups, 256)
    scales = torch.stack([s_XG, l_XG]).to(torch.uint8).view(2, -1, STRIP, num_groups).permute(1, 3, 0, 2).flatten(2)
    head = torch.stack([row_scale_X, row_low_X]).view(2, -1, STRIP).transpose(0, 1).contiguous().view(torch.uint8)
    return torch.cat([head.flatten(1), torch.cat([tiles, scales], -1).flatten(1)], -1)


def fit_int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and low of each group for w = scale code - low, by least squares in turn with the choice of the codes."""
    low = (-groups.amin(-1, keepdim=True)).clamp_(min=0)
    scale = _positive((groups.amax(-1, keepdim=True) + low) / 15)
    mean = _sum_in_halves(groups) / GROUP
    for _ in range(REFITS):
        codes = ((groups + low) / scale).round_().clamp_(0, 15)
        middle = codes.mean(-1, keepdim=True)
        codes -= middle
        spread = codes.square().sum(-1, keepdim=True)
        slope = _sum_in_halves(codes * groups) / _positive(spread)
        scale = torch.where(spread > 0, _positive(slope), scale)
        low = torch.where(spread > 0, scale * middle - mean, low).clamp_(min=0)
    return scale[..., 0], low[..., 0]


def _sum_in_halves(groups: Tensor) -> Tensor:
    """Sums over the last dimension in an order that others can follow; that of torch depends on its build."""
    while groups.shape[-1] > 1:
        first, second = groups.chunk(2, -1)
        groups = first + second
    return groups


def _positive(values: Tensor) -> Tensor:
    """`values`, with 1 where there is nothing to divide by."""
    return torch.where(values > 0, values, 1.0)


def codes_and_scales(weight: PackedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [..., rows, groups, 32], scale and low [..., rows, groups] in float32: w = scale code - low."""
    *stack, num_strips, _ = weight.strips.shape
    num_groups = weight.columns // GROUP
    head, tiles = weight.strips.split([HEAD_BYTES[weight.kind], weight.strips.shape[-1] - HEAD_BYTES[weight.kind]], -1)
    codes, scales = tiles.unflatten(-1, (num_groups, -1)).split([CODE_BYTES[weight.kind], SCALE_BYTES], -1)
    flat = (*stack, num_strips * STRIP, num_groups)
    if weight.kind == "int8":
        codes = codes.unflatten(-1, (8, STRIP, 4)).movedim(-2, -4)
        scale = scales.contiguous().view(torch.bfloat16).float().transpose(-1, -2).reshape(flat)
        low, values = torch.zeros_like(scale), codes.float() - 128
    else:
        codes = codes.unflatten(-1, (4, STRIP, 4)).movedim(-2, -4)
        values = torch.stack([codes & 15, codes >> 4], -2).float()
        of_row = head.contiguous().view(torch.float32).view(*stack, num_strips, 2, STRIP, 1)
        of_group = scales.unflatten(-1, (2, STRIP)).movedim(-3, -1).float()
        scale, low = ((of_row * of_group)[..., index, :, :].reshape(flat) for index in range(2))
    values = values.reshape(*flat, GROUP)
    return values[..., : weight.rows, :, :], scale[..., : weight.rows, :], low[..., : weight.rows, :]


def unpack(weight: PackedWeight) -> Tensor:
    """The numbers that the codes stand for, float32 [..., rows, columns]."""
    codes, scale, low = codes_and_scales(weight)
    return (codes * scale[..., None] - low[..., None]).flatten(-2)


def round_activations(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -127..127 as float32 [T, groups, 32] and scales [T, groups], so that x is about codes times scales."""
    groups = x_TD.float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    codes = (groups * (127 / _positive(largest))[..., None]).round()
    return codes, largest / 127


def packed_linear(x_TD: Tensor, weight: PackedWeight) -> Tensor:
    """x' W^T -> float32 [T, rows], with x' the rounded activations; sums in float64."""
    codes, scales = round_activations(x_TD)
    rounded_TD = (codes.double() * scales[..., None]).flatten(-2)
    return (rounded_TD @ unpack(weight).double().T).float()


def packed_experts(
    x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor, w13: PackedWeight, w2: PackedWeight
) -> Tensor:
    """`reference.routed_experts` over packed stacks: float32 until the sum, which is in x's type."""
    out_TD = torch.zeros(x_TD.shape, dtype=torch.float32)
    for expert_id in expert_ids_TK.unique().tolist():
        token_ids, slots = torch.where(expert_ids_TK == expert_id)
        hidden_F = swiglu(packed_linear(x_TD[token_ids], w13[expert_id]))
        weighted_D = packed_linear(hidden_F, w2[expert_id]) * weights_TK[token_ids, slots, None].float()
        out_TD.index_add_(0, token_ids, weighted_D)
    return out_TD.to(x_TD.dtype)
