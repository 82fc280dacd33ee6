"""Conversions between plain, FP8 and NVFP4 weights, and between fused experts and single ones.

    FP8      scale = amax / 448 rounded up to bfloat16;  code = e4m3(W / scale)
    fusing   w1 and w3 of an expert take the larger of their scales, the other's codes are computed anew
    NVFP4    global = 448 * 6 / amax;  group scale = e4m3(group amax / 6 * global);  code = e2m1(W * global / scale)

(Specification 4.1 to 4.3.) Each function also runs on tensors without memory: that is how sizes are computed.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from small4.checkpoint.stored import FP8, FP8_MAX, NVFP4_GROUP, Dense, Fp8, Nvfp4, Stored, blocks, spread
from small4.errors import ConfigError

E2M1_MAX = 6.0
# Between neighbouring e2m1 magnitudes; a value on the border goes to the even code, up where marked.
E2M1_BORDERS = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False))

ScaleShape = tuple[int, ...]  # () for one matrix, [E, 1, 1] or [E, 2, 1] for a stack


def quantize_fp8(dense: Tensor, scale_shape: ScaleShape, activation_scale: Tensor | None = None) -> Fp8:
    """FP8 codes of `dense`, one scale per matrix as `scale_shape` divides it."""
    if dense.ndim == 3:
        # An expert at a time: in float32, all experts of a layer at once would take four times their size.
        pieces = [_quantize_fp8(expert, scale_shape[1:]) for expert in dense]
        codes, scale = torch.stack([code for code, _ in pieces]), torch.stack([scale for _, scale in pieces])
    else:
        codes, scale = _quantize_fp8(dense, scale_shape)
    return Fp8(codes, scale, activation_scale)


def _quantize_fp8(dense: Tensor, scale_shape: ScaleShape) -> tuple[Tensor, Tensor]:
    values = dense.to(torch.float32, copy=True)
    shares = blocks(values, values.new_empty(scale_shape))
    amax = shares.abs().amax(dim=tuple(range(1, shares.ndim, 2)) if scale_shape else tuple(range(shares.ndim)))
    scale = torch.where(amax > 0, amax / FP8_MAX, torch.ones_like(amax))
    scale = bfloat16_above(scale.view(scale_shape))
    shares.div_(spread(scale.to(torch.float32)))
    return values.clamp_(-FP8_MAX, FP8_MAX).to(FP8), scale


def bfloat16_above(positive: Tensor) -> Tensor:
    """The next bfloat16 that is not below: a scale rounded down would push the largest weight out of range."""
    near = positive.to(torch.bfloat16)
    above = (near.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(near.to(positive.dtype) < positive, above, near)


def with_bfloat16_scales(stored: Fp8) -> Fp8:
    """The same weights with the scales that files hold; codes change only where a scale is no bfloat16 already."""
    activation = None if stored.activation_scale is None else stored.activation_scale.to(torch.bfloat16)
    if stored.scale.dtype == torch.bfloat16:
        return dataclasses.replace(stored, activation_scale=activation)
    scale = bfloat16_above(stored.scale.to(torch.float32))
    return Fp8(_rescaled(stored.codes, stored.scale, scale), scale, activation)


def with_shared_scale(stored: Fp8) -> Fp8:
    """w1 and w3 of each expert under one scale, [E, 1, 1], as Hugging Face files have them."""
    if stored.scale.ndim != 3 or stored.scale.shape[1] == 1:
        return stored
    scale, activation = stored.scale.amax(dim=1, keepdim=True), stored.activation_scale
    codes = _rescaled(stored.codes, stored.scale, scale.expand_as(stored.scale))
    return Fp8(codes, scale, None if activation is None else activation.amax(dim=1, keepdim=True))


def _rescaled(codes: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Codes for another scale. In bfloat16, like the release's converter; a ratio of 1 gives every code back."""
    values = codes.to(torch.bfloat16)
    blocks(values, old).mul_(spread((old / new).to(torch.bfloat16)))
    return values.clamp_(-FP8_MAX, FP8_MAX).to(FP8)


def quantize_nvfp4(dense: Tensor, input_scale: Tensor | None = None) -> Nvfp4:
    """NVFP4 codes of a matrix, or of a stack of experts with one global scale for each."""
    if dense.shape[-1] % NVFP4_GROUP:
        raise ConfigError(f"NVFP4 needs rows of a multiple of {NVFP4_GROUP}, these have {dense.shape[-1]} columns")
    if dense.ndim == 2:
        return Nvfp4(*_quantize_nvfp4(dense), input_scale)
    pieces = [_quantize_nvfp4(expert) for expert in dense]
    packed, scale, global_scale = (torch.stack(parts) for parts in zip(*pieces, strict=True))
    return Nvfp4(packed, scale, global_scale.view(-1, 1, 1), input_scale)


def _quantize_nvfp4(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups = dense.to(torch.float32).view(*dense.shape[:-1], -1, NVFP4_GROUP)
    amax = groups.abs().amax(dim=-1)
    largest = amax.amax()
    global_scale = torch.where(largest > 0, FP8_MAX * E2M1_MAX / largest, torch.ones_like(largest))
    scale = (amax / E2M1_MAX * global_scale).clamp(max=FP8_MAX).to(FP8)
    step = (scale.to(torch.float32) / global_scale).unsqueeze(-1)
    values = torch.where(step > 0, groups / step, torch.zeros_like(groups))
    magnitude = values.abs()
    codes = (values < 0).to(torch.uint8) * 8
    for border, upwards in E2M1_BORDERS:
        codes += (magnitude >= border if upwards else magnitude > border).to(torch.uint8)
    codes = codes.view(dense.shape)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scale, global_scale


def stack_experts(matrices: Sequence[Stored], shape: tuple[int, ...]) -> Stored:
    """Single experts as they lie in official files (w1, w3, w1, ... or w2, w2, ...) as one fused parameter."""
    num_experts = shape[0]
    parts = len(matrices) // num_experts
    first = matrices[0]
    if isinstance(first, Dense) and all(isinstance(matrix, Dense) for matrix in matrices):
        return Dense(_stack([matrix.tensor for matrix in matrices if isinstance(matrix, Dense)], shape))
    scales = (num_experts, parts, 1)
    if isinstance(first, Fp8):
        fp8 = [matrix for matrix in matrices if isinstance(matrix, Fp8)]
        if len(fp8) == len(matrices):
            return Fp8(
                _stack([matrix.codes for matrix in fp8], shape),
                torch.stack([matrix.scale for matrix in fp8]).view(scales),
                _stack_optional([matrix.activation_scale for matrix in fp8], scales),
            )
    if isinstance(first, Nvfp4):
        nvfp4 = [matrix for matrix in matrices if isinstance(matrix, Nvfp4)]
        if len(nvfp4) == len(matrices):
            return Nvfp4(
                _stack([matrix.packed for matrix in nvfp4], (*shape[:-1], shape[-1] // 2)),
                _stack([matrix.scale for matrix in nvfp4], (*shape[:-1], shape[-1] // NVFP4_GROUP)),
                torch.stack([matrix.global_scale for matrix in nvfp4]).view(scales),
                _stack_optional([matrix.input_scale for matrix in nvfp4], scales),
            )
    return Dense(_stack([matrix.to_dense(torch.bfloat16) for matrix in matrices], shape))


def _stack(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Copies of `tensors`, one under the other, in one tensor of `shape`."""
    out = torch.empty(shape, dtype=tensors[0].dtype, device=tensors[0].device)
    for part, tensor in zip(out.view(len(tensors), -1, shape[-1]), tensors, strict=True):
        part.copy_(tensor)
    return out


def _stack_optional(scales: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor | None:
    present = [scale for scale in scales if scale is not None]
    return torch.stack(present).view(shape) if len(present) == len(scales) else None


def halves_to_pairs(stored: Stored, num_heads: int) -> Stored:
    """Rows of a Hugging Face vision query or key matrix in the order of the official one: pairs side by side."""
    return _reorder(stored, num_heads, (2, -1))


def pairs_to_halves(stored: Stored, num_heads: int) -> Stored:
    """The inverse of `halves_to_pairs`."""
    return _reorder(stored, num_heads, (-1, 2))


def _reorder(stored: Stored, num_heads: int, split: tuple[int, int]) -> Stored:
    def reorder(rows: Tensor) -> Tensor:
        return rows.view(num_heads, *split, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)

    if isinstance(stored, Dense):
        return Dense(reorder(stored.tensor))
    if isinstance(stored, Fp8):
        return dataclasses.replace(stored, codes=reorder(stored.codes))
    return dataclasses.replace(stored, packed=reorder(stored.packed), scale=reorder(stored.scale))
