"""The C++ kernels behind `ops.Kernels`: pointers into tensors go through ctypes, nothing else does.

They are held to the definitions in `quantized.py` and `reference.py`, and are batch-invariant: a row's result does not
depend on what else is in the call, nor on the number of threads.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from small4.kernels.quantized import GROUP, STRIP, PackedWeight

TYPES = {torch.float32: 0, torch.bfloat16: 1}
KINDS = {"int8": 1, "int4": 2}
MAX_WIDTH, LANES = 1024, 16  # of a cached row, in values; attention.h and kernels.h
Weight = PackedWeight | Tensor  # a tensor is bfloat16


class _Weight(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("data", ctypes.c_void_p),
    )


class _ExpertWeights(ctypes.Structure):
    _fields_ = (("w13", _Weight), ("w2", _Weight))


class _PagedAttention(ctypes.Structure):
    _fields_ = (
        ("query", ctypes.c_void_p),
        ("heads", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("latent", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("rows_type", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("tables", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("max_blocks", ctypes.c_int64),
        ("num_blocks", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class _Library:
    isa: int  # address of the instruction set's functions
    name: str
    linear: Callable[..., int]
    experts: Callable[..., int]
    attention: Callable[..., int]


def load_library(path: Path, isa: str | None) -> _Library:
    """The functions of a library that `build.py` made, for one instruction set or the best there is."""
    pointer, number, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library = ctypes.CDLL(str(path))
    library.small4_isa.restype, library.small4_isa.argtypes = pointer, [ctypes.c_char_p]
    library.small4_isa_name.restype, library.small4_isa_name.argtypes = ctypes.c_char_p, [pointer]
    library.small4_linear.argtypes = [pointer, integer, pointer, pointer, integer, number, pointer]
    library.small4_experts.argtypes = [
        *(pointer, integer, pointer, number, pointer),
        *(pointer, integer, number, pointer, pointer, number, pointer),
    ]
    library.small4_attention.argtypes = [pointer, integer, pointer, integer, ctypes.c_float, pointer]
    address = library.small4_isa(None if isa is None else isa.encode())
    if address is None:
        raise ValueError(f"this processor has no {isa}")
    name = library.small4_isa_name(address).decode()
    return _Library(address, name, library.small4_linear, library.small4_experts, library.small4_attention)


class NativeKernels:
    """Kernels of the library at `path`, for one instruction set or the best that the processor has."""

    def __init__(self, path: Path, isa: str | None = None) -> None:
        self._library = load_library(path, isa)
        self.name = self._library.name

    def linear(self, weight: Weight) -> "NativeLinear":
        return NativeLinear(self._library, weight)

    def experts(self, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None = None) -> "NativeExperts":
        return NativeExperts(self._library, w13, w2, shared)

    def can_attend(self, width: int, latent_width: int) -> bool:
        return width % LANES == 0 and latent_width % LANES == 0 and width <= MAX_WIDTH

    def paged_latent_attention(
        self,
        query_TNC: Tensor,
        rows_PBC: Tensor,
        tables: Tensor,
        query_starts: Tensor,
        context_lengths: Tensor,
        latent_width: int,
        scale: float,
    ) -> Tensor:
        """`reference.paged_latent_attention`; widths are multiples of 16."""
        num_tokens, heads, width = query_TNC.shape
        num_blocks, block_size = rows_PBC.shape[:2]
        if not self.can_attend(width, latent_width):
            raise ValueError(f"rows of {width} with a latent of {latent_width}: multiples of {LANES} up to {MAX_WIDTH}")
        tensors = [query_TNC.contiguous(), rows_PBC]
        integers = [x.to(torch.int32).contiguous() for x in (tables, query_starts, context_lengths)]
        check_tensors(*tensors)
        call = _PagedAttention(
            *(tensors[0].data_ptr(), heads, width, latent_width),
            *(rows_PBC.data_ptr(), TYPES[rows_PBC.dtype], block_size),
            *(x.data_ptr() for x in integers),
            *(len(context_lengths), tables.shape[1], num_blocks),
        )
        out_TNL = query_TNC.new_empty(num_tokens, heads, latent_width)
        code = self._library.attention(
            *(self._library.isa, torch.get_num_threads()),
            *(ctypes.byref(call), TYPES[query_TNC.dtype], scale, out_TNL.data_ptr()),
        )
        raise_for(code, "a block id, or a sequence with more queries than rows")
        return out_TNL


class NativeLinear:
    """x W^T for any number of rows."""

    def __init__(self, library: _Library, weight: Weight) -> None:
        self._run, self._isa, self._keep = library.linear, library.isa, weight
        self._weight = struct_of(weight)
        self._address = ctypes.addressof(self._weight)
        self._columns, self._rows = self._weight.columns, self._weight.rows

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

    def __init__(self, library: _Library, w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None) -> None:
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


def can_run(weight: Weight) -> bool:
    """Whether the library multiplies by this weight."""
    if isinstance(weight, PackedWeight):
        return True
    return weight.dtype == torch.bfloat16 and weight.shape[-2] >= STRIP and weight.is_contiguous()


def struct_of(weight: Weight) -> _Weight:
    data = weight.strips if isinstance(weight, PackedWeight) else weight
    if data.device.type != "cpu" or not data.is_contiguous() or not can_run(weight):
        raise ValueError("a weight must be packed or contiguous bfloat16 of at least 16 rows, in the CPU's memory")
    if isinstance(weight, PackedWeight):
        return _Weight(KINDS[weight.kind], weight.rows, weight.columns, data.data_ptr())
    return _Weight(0, weight.shape[-2], weight.shape[-1], data.data_ptr())


def experts_struct(w13: Weight, w2: Weight) -> _ExpertWeights:
    both = _ExpertWeights(struct_of(w13), struct_of(w2))
    hidden, width = both.w2.columns, both.w13.columns
    if (both.w13.rows, both.w2.rows) != (2 * hidden, width) or hidden % GROUP or both.w13.kind != both.w2.kind:
        raise ValueError(f"experts of {hidden} hidden columns: w13 is [2F, D], w2 [D, F], F a multiple of {GROUP}")
    return both


def check_rows(x_TD: Tensor, columns: int) -> int:
    """The number of rows; what does not fit would read beyond a tensor."""
    check_tensors(x_TD)
    if x_TD.ndim != 2 or x_TD.shape[1] != columns:
        raise ValueError(f"the input is {list(x_TD.shape)}, the weight takes rows of {columns}")
    return x_TD.shape[0]


def check_tensors(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype not in TYPES or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError("the kernels take contiguous float32 or bfloat16 tensors in the CPU's memory")


def raise_for(code: int, outside: str) -> None:
    if code == 1:
        raise MemoryError("the kernels found no memory for their intermediate values")
    if code:
        raise ValueError(f"outside its range: {outside}")
