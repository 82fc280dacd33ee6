"""The C++ library as Python sees it: its structures, its functions, and the checks before a pointer is handed over."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from small4.kernels.pages import Pages
from small4.kernels.quantized import GROUP, STRIP, PackedWeight

MAX_WIDTH, LANES = 1024, 16  # of a cached row, in values; attention.h and vectors.h
TYPES = {torch.float32: 0, torch.bfloat16: 1}
CACHE_TYPES = {**TYPES, torch.float8_e4m3fn: 2}
KINDS = {"int8": 1, "int4": 2}
PLAIN_KINDS = {torch.bfloat16: 0, torch.float32: 3}
OUTSIDE_PAGES = "a block id or a slot, or a sequence with more queries than rows"
Weight = PackedWeight | Tensor  # a tensor is bfloat16 or float32


class WeightStruct(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("data", ctypes.c_void_p),
    )


class ExpertWeightsStruct(ctypes.Structure):
    _fields_ = (("w13", WeightStruct), ("w2", WeightStruct))


class PagesStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "scales")),
        *((name, ctypes.c_int64) for name in ("type", "width", "block_size", "num_blocks")),
        *((name, ctypes.c_void_p) for name in ("tables", "starts", "lengths", "slots")),
        *((name, ctypes.c_int64) for name in ("sequences", "max_blocks", "num_slots")),
    )


@dataclass(frozen=True, slots=True)
class Library:
    isa: int  # address of the instruction set's functions
    name: str
    pack: Callable[..., int]
    linear: Callable[..., int]
    experts: Callable[..., int]
    store_rows: Callable[..., int]
    attention: Callable[..., int]
    chain: Callable[..., int]
    block_front: Callable[..., int]
    block_back: Callable[..., int]
    huge_pages: Callable[..., None]


def load_library(path: Path, isa: str | None) -> Library:
    """The functions of a library that `build.py` made, for one instruction set or the best there is."""
    pointer, number, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library = ctypes.CDLL(str(path))
    library.small4_isa.restype, library.small4_isa.argtypes = pointer, [ctypes.c_char_p]
    library.small4_isa_name.restype, library.small4_isa_name.argtypes = ctypes.c_char_p, [pointer]
    library.small4_pack.argtypes = [pointer, integer, pointer, number, pointer, integer, pointer]
    library.small4_linear.argtypes = [pointer, integer, pointer, pointer, integer, number, pointer]
    library.small4_experts.argtypes = [
        *(pointer, integer, pointer, number, pointer),
        *(pointer, integer, number, pointer, pointer, number, pointer),
    ]
    library.small4_store_rows.argtypes = [pointer, integer, pointer, pointer, integer]
    library.small4_attention.argtypes = [
        *(pointer, integer, pointer, number, number, number),
        *(pointer, integer, ctypes.c_float, pointer),
    ]
    library.small4_chain.argtypes = [
        *(pointer, integer, pointer, pointer, pointer),
        *(ctypes.c_float, pointer, integer, pointer),
    ]
    library.small4_block_front.argtypes = [pointer, integer, *[pointer] * 3, integer, pointer, pointer]
    library.small4_block_back.argtypes = [pointer, integer, pointer, number, pointer, pointer, integer, pointer]
    library.small4_huge_pages.restype, library.small4_huge_pages.argtypes = None, [pointer, number]
    address = library.small4_isa(None if isa is None else isa.encode())
    if address is None:
        raise ValueError(f"this processor has no {isa}")
    name = library.small4_isa_name(address).decode()
    return Library(
        *(address, name, library.small4_pack, library.small4_linear, library.small4_experts),
        *(library.small4_store_rows, library.small4_attention),
        *(library.small4_chain, library.small4_block_front, library.small4_block_back, library.small4_huge_pages),
    )


def can_attend(width: int, latent_width: int) -> bool:
    """Whether the library attends over rows of so many values."""
    return width % LANES == 0 and latent_width % LANES == 0 and latent_width <= width <= MAX_WIDTH


def pages_struct(pages: Pages) -> PagesStruct:
    """The addresses of one layer's pages."""
    rows, scales = pages.rows_PBC, pages.scales_PB
    integers = (pages.tables, pages.query_starts, pages.context_lengths, pages.slots_T)
    if (
        rows.dtype not in CACHE_TYPES
        or (rows.dtype == torch.float8_e4m3fn) != (scales is not None)
        or (scales is not None and (scales.dtype != torch.bfloat16 or scales.shape != rows.shape[:2]))
        or [x.dtype for x in integers] != [torch.int32] * 3 + [torch.int64]
        or any(x.device.type != "cpu" or not x.is_contiguous() for x in (rows, *integers))
        or len(pages.query_starts) != len(pages.context_lengths) + 1 != len(pages.tables) + 1
    ):
        raise ValueError("pages are contiguous, in the CPU's memory, and of the types that `Pages` names")
    return PagesStruct(
        *(rows.data_ptr(), None if scales is None else scales.data_ptr()),
        *(CACHE_TYPES[rows.dtype], rows.shape[2], rows.shape[1], rows.shape[0]),
        *(x.data_ptr() for x in integers),
        *(len(pages.context_lengths), pages.tables.shape[1], len(pages.slots_T)),
    )


def can_run(weight: Weight) -> bool:
    """Whether the library multiplies by this weight."""
    if isinstance(weight, PackedWeight):
        return True
    return weight.dtype in PLAIN_KINDS and weight.shape[-2] >= STRIP and weight.is_contiguous()


def struct_of(weight: Weight) -> WeightStruct:
    data = weight.strips if isinstance(weight, PackedWeight) else weight
    if data.device.type != "cpu" or not data.is_contiguous() or not can_run(weight):
        raise ValueError(
            "a weight must be packed, or contiguous bf16 or float32 of at least 16 rows, in the CPU's memory"
        )
    if isinstance(weight, PackedWeight):
        return WeightStruct(KINDS[weight.kind], weight.rows, weight.columns, data.data_ptr())
    return WeightStruct(PLAIN_KINDS[weight.dtype], weight.shape[-2], weight.shape[-1], data.data_ptr())


def gather_pages(library: Library, *weights: Weight) -> None:
    """Have the system hold plain weights in large pages, where it can; packed ones are in them already."""
    for weight in weights:
        if isinstance(weight, Tensor):
            library.huge_pages(weight.data_ptr(), weight.nbytes)


def experts_struct(w13: Weight, w2: Weight) -> ExpertWeightsStruct:
    both = ExpertWeightsStruct(struct_of(w13), struct_of(w2))
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
