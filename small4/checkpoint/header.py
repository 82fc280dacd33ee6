"""Reads the header of a safetensors file and believes nothing that does not add up.

A file is 8 bytes of header length (little endian), the header as JSON, then the data. The header maps every tensor to
its type, shape and byte range. Accepted is only a header of at most 16 MiB and 200,000 tensors in which every span
equals type times shape, the spans follow one another without gap or overlap, and the last one ends where the file ends.
"""

import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from small4.errors import HeaderError

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 200_000
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 8
MAX_FILE_BYTES = 2**63 - 1

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in its file: bytes `start` to `stop`, counted from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds, in the order of its data."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int
    file_bytes: int


def check_header(path: Path) -> Header:
    """The header of a file, once every claim in it has been checked against the file's size."""
    try:
        with path.open("rb") as file:
            return read_header(file, os.fstat(file.fileno()).st_size, path.name)
    except OSError as error:
        raise HeaderError(f"{path} cannot be read: {error.strerror or error}") from error


def read_header(file: BinaryIO, file_bytes: int, name: str) -> Header:
    """The checked header of an open file of `file_bytes`; `name` is for the messages."""

    def fail(problem: str) -> HeaderError:
        return HeaderError(f"{name}: {problem}; the file is damaged or not safetensors, fetch or write it again")

    start = file.read(8)
    if len(start) < 8:
        raise fail(f"the file has {file_bytes} bytes, a header needs at least 8")
    (num_bytes,) = struct.unpack("<Q", start)
    if num_bytes > MAX_HEADER_BYTES:
        raise fail(f"the header claims {num_bytes} bytes, the limit is {MAX_HEADER_BYTES}")
    if 8 + num_bytes > file_bytes:
        raise fail(f"the header claims {num_bytes} bytes, the file has {file_bytes}")
    raw = file.read(num_bytes)
    if len(raw) < num_bytes:
        raise fail(f"the header has {len(raw)} of {num_bytes} bytes")
    listing = _decode(raw, fail)
    metadata = _metadata(listing.pop("__metadata__", {}), fail)
    if len(listing) > MAX_TENSORS:
        raise fail(f"it lists {len(listing)} tensors, the limit is {MAX_TENSORS}")
    entries = {tensor: _entry(tensor, value, 8 + num_bytes, fail) for tensor, value in listing.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_cover(ordered, 8 + num_bytes, file_bytes, fail)
    return Header(ordered, metadata, 8 + num_bytes, file_bytes)


def _decode(raw: bytes, fail: Callable[[str], HeaderError]) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise fail(f"the header names {twice[:MAX_NAME_BYTES]!r} twice")
        return mapping

    if not raw.startswith(b"{"):
        raise fail("the header does not begin with '{'")
    try:
        listing = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise fail("the header is not valid JSON") from error
    if not isinstance(listing, dict):
        raise fail("the header is not a JSON object")
    return listing


def _metadata(value: Any, fail: Callable[[str], HeaderError]) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise fail("its metadata is not a mapping of texts")
    return value


def _entry(name: str, value: Any, data_start: int, fail: Callable[[str], HeaderError]) -> Entry:
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise fail(f"a tensor's name has over {MAX_NAME_BYTES} bytes")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise fail(f"the entry of {name!r} needs exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise fail(f"{name!r} has the unknown type {str(value['dtype'])[:40]!r}; known are {', '.join(DTYPES)}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise fail(f"the shape of {name!r} is not a list of at most {MAX_DIMENSIONS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise fail(f"the offsets of {name!r} are not two sizes")
    # Python's integers do not overflow, so the product is the true one however large the sizes are.
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > MAX_FILE_BYTES or num_bytes != offsets[1] - offsets[0]:
        raise fail(f"{name!r} is {value['dtype']} {shape}, {num_bytes} bytes, but its span is {offsets}")
    return Entry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= MAX_FILE_BYTES for size in value)


def _check_cover(
    ordered: dict[str, Entry], data_start: int, file_bytes: int, fail: Callable[[str], HeaderError]
) -> None:
    position = data_start
    for name, entry in ordered.items():
        if entry.start != position:
            problem = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            raise fail(f"{name!r} {problem}: it starts at byte {entry.start}, expected {position}")
        position = entry.stop
    if position != file_bytes:
        raise fail(f"its tensors end at byte {position}, the file at {file_bytes}")
