"""The C++ kernels behind `ops.Kernels`: pointers into tensors go through ctypes, nothing else does.

They are held to the definitions in `quantized.py` and `reference.py`, and are batch-invariant: a row's result does not
depend on what else is in the call, nor on the number of threads.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from small4.kernels.block import BlockWeights
from small4.kernels.cpu.binding import (
    KINDS,
    LANES,
    MAX_WIDTH,
    OUTSIDE_PAGES,
    TYPES,
    Library,
    Weight,
    WeightStruct,
    can_attend,
    check_rows,
    check_tensors,
    experts_struct,
    gather_pages,
    load_library,
    pages_struct,
    raise_for,
    struct_of,
)
from small4.kernels.cpu.native_block import NativeBlock
from small4.kernels.pages import Pages
from small4.kernels.quantized import Kind, PackedWeight, empty, pack


class NativeKernels:
    """Kernels of the library at `path`, for one instruction set or the best that the processor has."""

    def __init__(self, path: Path, isa: str | None = None) -> None:
        self._library = load_library(path, isa)
        self.name = self._library.name

    def pack(self, weight: Tensor, kind: Kind) -> PackedWeight:
        """`quantized.pack`, bit for bit."""
        if weight.dtype not in TYPES or weight.device.type != "cpu":
            return pack(weight, kind)
        packed, plain = empty(weight, kind), weight.detach().contiguous()
        shape = WeightStruct(KINDS[kind], packed.rows, packed.columns, packed.strips.data_ptr())
        code = self._library.pack(
            *(self._library.isa, torch.get_num_threads(), ctypes.addressof(shape)),
            *(plain.numel() // (packed.rows * packed.columns), plain.data_ptr(), TYPES[plain.dtype]),
            packed.strips.data_ptr(),
        )
        raise_for(code, "")
        return packed

    def linear(self, weight: Weight) -> "NativeLinear":
        return NativeLinear(self._library, weight)

    def experts(self, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None = None) -> "NativeExperts":
        return NativeExperts(self._library, w13, w2, shared)

    def can_attend(self, width: int, latent_width: int) -> bool:
        return can_attend(width, latent_width)

    def block(self, weights: BlockWeights) -> NativeBlock:
        return NativeBlock(self._library, weights)

    def store_rows(self, pages: Pages, rows_TC: Tensor) -> None:
        """`pages.store`, bit for bit."""
        rows_TC = rows_TC.contiguous()
        check_tensors(rows_TC)
        if rows_TC.shape != (len(pages.slots_T), pages.rows_PBC.shape[2]):
            raise ValueError(f"rows are {list(rows_TC.shape)}, the cache takes one of its rows per slot")
        struct = pages_struct(pages)
        code = self._library.store_rows(
            *(self._library.isa, torch.get_num_threads(), ctypes.addressof(struct)),
            *(rows_TC.data_ptr(), TYPES[rows_TC.dtype]),
        )
        raise_for(code, OUTSIDE_PAGES)

    def paged_latent_attention(self, query_TNC: Tensor, pages: Pages, latent_width: int, scale: float) -> Tensor:
        """`reference.paged_latent_attention`, for widths that `can_attend`."""
        num_tokens, heads, width = query_TNC.shape
        if not can_attend(width, latent_width) or width != pages.rows_PBC.shape[2]:
            raise ValueError(f"rows of {width} with a latent of {latent_width}: multiples of {LANES} up to {MAX_WIDTH}")
        query_TNC, struct = query_TNC.contiguous(), pages_struct(pages)
        check_tensors(query_TNC)
        out_TNL = query_TNC.new_empty(num_tokens, heads, latent_width)
        code = self._library.attention(
            *(self._library.isa, torch.get_num_threads(), ctypes.addressof(struct), num_tokens, heads, latent_width),
            *(query_TNC.data_ptr(), TYPES[query_TNC.dtype], scale, out_TNL.data_ptr()),
        )
        raise_for(code, OUTSIDE_PAGES)
        return out_TNL


class NativeLinear:
    """x W^T for any number of rows."""

    def __init__(self, library: Library, weight: Weight) -> None:
        self._run, self._isa, self._keep = library.linear, library.isa, weight
        self._weight = struct_of(weight)
        self._address = ctypes.addressof(self._weight)
        self._columns, self._rows = self._weight.columns, self._weight.rows
        gather_pages(library, weight)

    def __call__(self, x_TD: Tensor) -> Tensor:
        num_rows = check_rows(x_TD, self._columns)
        out = x_TD.new_empty(num_rows, self._rows)
        code = self._run(
            *(self._isa, torch.get_num_threads()),
            *(self._address, x_TD.data_ptr(), TYPES[x_TD.dtype], num_rows, out.data_ptr()),
        )
        raise_for(code, "")
        return out


class NativeExperts:
    """Routed experts, each active one's weights read once; `shared` runs for every token and is added."""

    def __init__(self, library: Library, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None) -> None:
        self._run, self._isa, self._keep = library.experts, library.isa, (w13, w2, shared)
        self._routed = experts_struct(w13, w2)
        self._shared = None if shared is None else experts_struct(*shared)
        if self._shared is not None and self._shared.w13.kind != self._routed.w13.kind:
            raise ValueError("the shared expert must be stored as the routed ones are")
        self._num_experts = (w13.strips if isinstance(w13, PackedWeight) else w13).shape[0]

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, expert_ids_TK: Tensor) -> Tensor:
        num_rows = check_rows(x_TD, self._routed.w13.columns)
        weights_TK, expert_ids_TK = weights_TK.float().contiguous(), expert_ids_TK.contiguous()
        if expert_ids_TK.dtype != torch.int64 or weights_TK.shape != expert_ids_TK.shape:
            raise ValueError("expert ids are int64 and come with one weight each")
        out_TD = x_TD.new_empty(num_rows, self._routed.w2.rows)
        code = self._run(
            *(self._isa, torch.get_num_threads()),
            *(ctypes.addressof(self._routed), self._num_experts),
            None if self._shared is None else ctypes.addressof(self._shared),
            *(x_TD.data_ptr(), TYPES[x_TD.dtype], num_rows),
            *(expert_ids_TK.data_ptr(), weights_TK.data_ptr(), expert_ids_TK.shape[1]),
            out_TD.data_ptr(),
        )
        raise_for(code, f"an expert id; there are {self._num_experts}")
        return out_TD
