"""Writes safetensors files a tensor at a time, with a digest of each."""

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from small4.checkpoint.header import DTYPE_NAMES
from small4.errors import SaveError

HEADER_ALIGNMENT = 8
CHUNK_BYTES = 8 * 1024 * 1024


class TensorFile:
    """One safetensors file in the making: every tensor's place is fixed first, then they come in any order."""

    def __init__(self, path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """`tensors` may be without memory; only names, types and shapes count."""
        self.path = path
        self.digests: dict[str, str] = {}
        # Large types first, so that every tensor lies at an address that fits its type.
        ordered = sorted(tensors, key=lambda item: (-item[1].dtype.itemsize, item[0]))
        self._places: dict[str, tuple[torch.dtype, torch.Size, int]] = {}
        listing: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, tensor in ordered:
            stop = position + tensor.nbytes
            listing[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [position, stop],
            }
            self._places[name] = (tensor.dtype, tensor.shape, position)
            position = stop
        header = json.dumps(listing, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % HEADER_ALIGNMENT)
        self._data_start = 8 + len(header)
        self._file = path.open("xb", buffering=0)
        _reserve(self._file.fileno(), self._data_start + position)
        _write_all(self._file.fileno(), struct.pack("<Q", len(header)) + header, 0)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        missing = self._places.keys() - self.digests.keys()
        if error is None and missing:
            raise SaveError(f"{self.path.name} was left without {sorted(missing)[0]}; this is a bug of small4")

    def write(self, name: str, tensor: Tensor) -> None:
        dtype, shape, position = self._places[name]
        if tensor.dtype != dtype or tensor.shape != shape:
            raise SaveError(f"{name} changed its type or shape while it was saved; this is a bug of small4")
        raw = raw_bytes(tensor)
        _write_all(self._file.fileno(), raw, self._data_start + position)
        self.digests[name] = hashlib.sha256(raw).hexdigest()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor as it lies in a file."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Claim the space now: a disk that is too small is found before hours of conversion, not after."""
    if hasattr(os, "posix_fallocate"):
        with suppress(InterruptedError):
            os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.ftruncate(descriptor, num_bytes)


def _write_all(descriptor: int, raw: bytes | memoryview, position: int) -> None:
    view = memoryview(raw)
    while len(view):
        written = os.pwrite(descriptor, view[:CHUNK_BYTES], position)
        view, position = view[written:], position + written
