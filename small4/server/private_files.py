"""Files that their owner alone may read, put in their place in one step: whole, or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

T = TypeVar("T")

UNFINISHED = ".unfinished"  # the end of the name of a file that is being written
DAMAGED = ".damaged"  # and of one that cannot be read


def make_private(directory: Path) -> None:
    """Make a directory and those above it, where there are none."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


class Unfinished:
    """A file that is being written; it gets its name with `finish`, and is gone without."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        self.stream: BinaryIO = os.fdopen(os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")

    def finish(self) -> None:
        """Put it in its place, so that a loss of power leaves what stood there before or all of it."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self._temporary.replace(self._path)
        _sync_directory(self._path.parent)

    def discard(self) -> None:
        """Remove it, unless it was finished."""
        with suppress(OSError):  # the disk is full, and what is left to write is not wanted
            self.stream.close()
        self._temporary.unlink(missing_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """A small file at once."""
    unfinished = Unfinished(path)
    try:
        unfinished.stream.write(data)
        unfinished.finish()
    finally:
        unfinished.discard()


def read_all(directory: Path, kind: type[T]) -> tuple[list[T], list[Path]]:
    """All descriptions in a directory; those that are damaged, which are set aside, come apart by their new names."""
    found, damaged = [], []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=kind))
        except msgspec.MsgspecError:
            damaged.append(set_aside(path))
    return found, damaged


def set_aside(path: Path) -> Path:
    """Give a file that cannot be read a name under which nothing looks for it, for a person to look at."""
    aside = path.with_name(path.name + DAMAGED)
    path.replace(aside)
    return aside


def append_private(path: Path) -> BinaryIO:
    """A file at its end, made if there is none; what is written is handed to the system at once."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), "ab", buffering=0)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
