"""One parameter as it is stored: plain numbers, FP8 codes with scales, or packed 4-bit codes with two levels of scales.

    Fp8    W = code * scale                                     (e4m3, scale shared by a whole matrix)
    Nvfp4  W = e2m1(code) * (scale / global_scale)              (16 neighbours of a row share a scale)

A parameter that stacks several matrices (routed experts, and w1 above w3) has one scale per matrix. The scale tensor
then has as many dimensions as the codes, and each entry covers an equal share of them: codes [E, 2F, D] go with scales
[E, 2, 1] when w1 and w3 have their own, [E, 1, 1] when they share one. A single matrix has a scale without dimensions.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from small4.model.config import DraftConfig, ModelConfig

Format = Literal[
    "hf-bf16", "hf-f32", "hf-fp8", "native-bf16", "native-f32", "native-fp8", "nvfp4", "gguf-bf16", "gguf-q8_0",
]  # fmt: skip
Config = ModelConfig | DraftConfig

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
NVFP4_GROUP = 16  # neighbours along a row that share a scale
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, slots=True)
class Dense:
    """Plain floating-point numbers."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def to_dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers, without a copy where the type is right already; None keeps the stored type."""
        return self.tensor if dtype is None else self.tensor.to(dtype)


@dataclass(frozen=True, slots=True)
class Fp8:
    """e4m3 codes with one scale per matrix, and the scale of the inputs that they were calibrated with."""

    codes: Tensor
    scale: Tensor  # without dimensions, or one entry per block of equal size
    activation_scale: Tensor | None = None  # one per scale, same shape; None: not calibrated

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    def to_dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Code times scale, both in `dtype` (default bfloat16, as the release's own export does it)."""
        dtype = torch.bfloat16 if dtype is None else dtype
        values = self.codes.to(dtype)
        blocks(values, self.scale).mul_(spread(self.scale.to(dtype)))
        return values


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """Two e2m1 codes per byte (the low nibble is the even column), e4m3 scales per 16, one divisor per matrix."""

    packed: Tensor  # uint8, last dimension halved
    scale: Tensor  # e4m3, last dimension / 16
    global_scale: Tensor  # float32; without dimensions, or one entry per block of equal size
    input_scale: Tensor | None = None  # one per global scale; of the activations

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.packed.shape[:-1], 2 * self.packed.shape[-1])

    def to_dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers, computed in float32 and rounded once to `dtype` (default bfloat16)."""
        step = self.scale.to(torch.float32)
        blocks(step, self.global_scale).div_(spread(self.global_scale.to(torch.float32)))
        grid = torch.tensor(E2M1_VALUES, dtype=torch.float32, device=self.packed.device)
        nibbles = torch.stack([self.packed & 0xF, self.packed >> 4], dim=-1).to(torch.int32)
        values = grid[nibbles].view(*step.shape, NVFP4_GROUP) * step.unsqueeze(-1)
        return values.view(self.shape).to(torch.bfloat16 if dtype is None else dtype)


Stored = Dense | Fp8 | Nvfp4


class Checkpoint(Protocol):
    """Weights on disk, each read when asked for. Names are the model's own (`names.py`)."""

    @property
    def config(self) -> Config: ...

    @property
    def format(self) -> Format: ...

    def names(self) -> list[str]:
        """Every parameter of the model that the config describes; all of them are there, in the right shape."""
        ...

    def read(self, name: str) -> Stored:
        """One parameter as stored. Its tensors may share memory with the file: reading costs nothing until used."""
        ...

    def release(self, name: str) -> None:
        """Give back the memory behind what `read` returned; a caller that keeps a copy need not keep the file's."""
        ...


def blocks(values: Tensor, scale: Tensor) -> Tensor:
    """View of `values` with every dimension split into (entries of scale, share of one entry)."""
    if scale.ndim == 0:
        return values
    sizes = zip(values.shape, scale.shape, strict=True)
    return values.view([size for whole, parts in sizes for size in (parts, whole // parts)])


def spread(scale: Tensor) -> Tensor:
    """`scale` with a dimension of 1 after each of its own, to broadcast over `blocks`."""
    return scale.view([size for parts in scale.shape for size in (parts, 1)])
