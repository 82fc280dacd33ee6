"""The C++ library as Python sees it: its structures, its functions, and the checks before a pointer is handed over."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from small4.kernels.quantized import GROUP, STRIP, PackedWeight

TYPES = {torch.float32: 0, torch.bfloat16: 1}
KINDS = {"int8": 1, "int4": 2}
PLAIN_KINDS = {torch.bfloat16: 0, torch.float32: 3}
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


class PagedAttentionStruct(ctypes.Structure):
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
class Library:
    isa: int  # address of the instruction set's functions
    name: str
    pack: Callable[..., int]
    linear: Callable[..., int]
    experts: Callable[..., int]
    attention: Callable[..., int]
    block_front: Callable[..., int]
    block_back: Callable[..., int]


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
    library.small4_attention.argtypes = [pointer, integer, pointer, integer, ctypes.c_float, pointer]
    library.small4_block_front.argtypes = [pointer, integer, *[pointer] * 3, integer, integer, pointer, pointer]
    library.small4_block_back.argtypes = [
        pointer,
        integer,
        pointer,
        number,
        pointer,
        pointer,
        integer,
        integer,
        pointer,
    ]
    address = library.small4_isa(None if isa is None else isa.encode())
    if address is None:
        raise ValueError(f"this processor has no {isa}")
    name = library.small4_isa_name(address).decode()
    return Library(
        *(address, name, library.small4_pack, library.small4_linear, library.small4_experts, library.small4_attention),
        *(library.small4_block_front, library.small4_block_back),
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
