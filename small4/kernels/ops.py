"""The operations that have more than one implementation, and the place that picks one.

    pack(weight, kind)                      quantized.pack
    linear(weight)(x)                       x W^T                       weight: packed int8 or int4, or bfloat16
    experts(w13, w2, shared)(x, p, ids)     sum_k p_k expert_ids_k(x) + shared(x)
    block(weights)                          layers in one call or each in two, or None where nothing is fused
    store_rows(pages, rows)                 Pages.store
    paged_latent_attention(...)             reference.paged_latent_attention

The C++ library (`cpu/`) is taken where one is there or can be built, torch's own operators (`with_torch.py`) otherwise;
`Kernels.name` says which, and why. A weight is prepared once, when it is bound; the bound object is what runs.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from small4.kernels.block import BlockWeights
from small4.kernels.pages import CachePages, Pages
from small4.kernels.quantized import Kind, PackedWeight

Weight = PackedWeight | Tensor
Product = Callable[[Tensor], Tensor]  # x [T, D] -> [T, rows]
ExpertSum = Callable[[Tensor, Tensor, Tensor], Tensor]  # x [T, D], weights [T, K], expert ids [T, K] -> [T, D]


class FusedBlock(Protocol):
    """One layer: what comes before its attention, and what after it."""

    def chain(self, following: Sequence[Any], first_layer: int, norm: Tensor | None) -> "FusedChain":
        """This layer, the first that `CachePages` counts so, the blocks behind it, and a norm of what comes out."""
        ...

    def front(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None) -> tuple[Tensor, Tensor]: ...

    def back(self, x_TD: Tensor, values_TNV: Tensor) -> Tensor: ...


class FusedChain(Protocol):
    """Layers that follow each other as a whole, where their attention is absorbed."""

    def __call__(
        self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, growth: Tensor | None, pages: CachePages, scale: float
    ) -> Tensor: ...


class Kernels(Protocol):
    """One implementation of every operation."""

    name: str

    def pack(self, weight: Tensor, kind: Kind) -> PackedWeight: ...

    def linear(self, weight: Weight) -> Product: ...

    def experts(self, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None = None) -> ExpertSum: ...

    def block(self, weights: BlockWeights) -> FusedBlock | None: ...

    def can_attend(self, width: int, latent_width: int) -> bool:
        """Whether `paged_latent_attention` takes rows of so many values."""
        ...

    def store_rows(self, pages: Pages, rows_TC: Tensor) -> None: ...

    def paged_latent_attention(self, query_TNC: Tensor, pages: Pages, latent_width: int, scale: float) -> Tensor: ...


@lru_cache(maxsize=2)
def backend(*, native: bool = True) -> Kernels:
    """The library's kernels, or torch's where there is none or where `native` is False."""
    from small4.kernels.cpu.build import BuildError, find_or_build
    from small4.kernels.cpu.native import NativeKernels
    from small4.kernels.with_torch import TorchKernels

    if not native:
        return TorchKernels("asked for")
    try:
        return NativeKernels(find_or_build())
    except (BuildError, OSError) as error:
        return TorchKernels(str(error))
