"""The tensors of a set of safetensors files, mapped into memory: none is read before it is used.

A tensor shares its memory with the file's pages, privately: writing to it changes this process's copy of the touched
pages and never the file. Headers are checked first (`header.py`), through the same open file that is then mapped.
"""

import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from small4.checkpoint.header import Entry, Header, read_header
from small4.errors import CheckpointNotFoundError, HeaderError, TensorMismatchError

# Without this flag Linux counts a private mapping against free memory, and refuses a shard larger than that.
MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class Shard:
    """One open file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.header: Header = read_header(file, os.fstat(file.fileno()).st_size, path.name)
                self._map = _map(file.fileno(), self.header.file_bytes)
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(f"{path} does not exist") from error
        except (OSError, ValueError) as error:
            raise HeaderError(f"{path} cannot be read: {error}") from error

    def tensor(self, entry: Entry) -> Tensor:
        """The numbers in the file's own pages; copied only where they lie at an address that their type forbids."""
        if entry.num_bytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.num_bytes, offset=entry.start)
        if entry.start % entry.dtype.itemsize:
            raw = raw.clone()
        return raw.view(entry.dtype).view(entry.shape)

    def release(self, entry: Entry) -> None:
        """Let go of the pages that lie wholly within a tensor; they are read again if it is used again."""
        page = mmap.PAGESIZE
        start, stop = -(-entry.start // page) * page, entry.stop // page * page
        if stop > start and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


class Shards:
    """All tensors of a checkpoint by name."""

    def __init__(self, files: Sequence[Path], weight_map: dict[str, str] | None = None) -> None:
        self.shards = [Shard(path) for path in files]
        self._places: dict[str, tuple[Shard, Entry]] = {}
        for shard in self.shards:
            for name, entry in shard.header.entries.items():
                if name in self._places:
                    other = self._places[name][0].path.name
                    raise TensorMismatchError(f"{name} lies both in {other} and in {shard.path.name}")
                self._places[name] = shard, entry
        if weight_map is not None:
            self._check_index(weight_map)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        return list(self._places)

    def entry(self, name: str) -> Entry:
        return self._places[name][1]

    def file(self, name: str) -> Path:
        return self._places[name][0].path

    def tensor(self, name: str) -> Tensor:
        shard, entry = self._places[name]
        return shard.tensor(entry)

    def release(self, name: str) -> None:
        shard, entry = self._places[name]
        shard.release(entry)

    def _check_index(self, weight_map: dict[str, str]) -> None:
        for name, file in weight_map.items():
            place = self._places.get(name)
            if place is None or place[0].path.name != file:
                there = "no file has it" if place is None else f"it lies in {place[0].path.name}"
                raise TensorMismatchError(
                    f"the index places {name[:200]} in {file}, but {there}: fetch the index again"
                )


def _map(descriptor: int, num_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_COPY)
    return mmap.mmap(
        descriptor, num_bytes, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )
