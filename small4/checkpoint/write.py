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


class FilePlan:
    """Where every tensor of one file will lie, and the header that says so; no memory is needed to plan."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        # Large types first, so that every tensor lies at an address that fits its type.
        ordered = sorted(tensors, key=lambda item: (-item[1].dtype.itemsize, item[0]))
        listing: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self.places: dict[str, tuple[torch.dtype, torch.Size, int]] = {}  # type, shape, bytes after the header
        position = 0
        for name, tensor in ordered:
            self.places[name] = tensor.dtype, tensor.shape, position
            offsets = [position, position + tensor.nbytes]
            listing[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
            position = offsets[1]
        text = json.dumps(listing, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % HEADER_ALIGNMENT)
        self.header = struct.pack("<Q", len(text)) + text
        self.num_bytes = len(self.header) + position


class TensorFile:
    """One safetensors file in the making; its tensors may come in any order."""

    def __init__(self, path: Path, plan: FilePlan) -> None:
        self.path = path
        self.plan = plan
        self.digests: dict[str, str] = {}
        self._file = path.open("xb", buffering=0)

    def __enter__(self) -> "TensorFile":
        try:
            _reserve(self._file.fileno(), self.plan.num_bytes)
            _write_all(self._file.fileno(), self.plan.header, 0)
        except OSError:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        missing = self.plan.places.keys() - self.digests.keys()
        if error is None and missing:
            raise SaveError(f"{self.path.name} was left without {sorted(missing)[0]}; this is a bug of small4")

    def write(self, name: str, tensor: Tensor) -> None:
        dtype, shape, position = self.plan.places[name]
        if tensor.dtype != dtype or tensor.shape != shape:
            raise SaveError(f"{name} changed its type or shape while it was saved; this is a bug of small4")
        raw = raw_bytes(tensor)
        _write_all(self._file.fileno(), raw, len(self.plan.header) + position)
        self.digests[name] = hashlib.sha256(raw).hexdigest()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor as it lies in a file."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


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
