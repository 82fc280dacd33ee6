"""Files that their owner alone may read, put in their place in one step: whole, or not at all."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from small4.errors import ConfigError

T = TypeVar("T")

UNFINISHED = ".unfinished"  # the end of the name of a file that is being written
DAMAGED = ".damaged"  # and of one that cannot be read
SECRET_BYTES = 32
LOCK_SECONDS = 10.0  # to wait for another program that changes the same file


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


def secret_in(path: Path, way_out: str) -> bytes:
    """The random secret that a file holds, made if there is none; whoever comes first makes it."""
    with suppress(FileNotFoundError):
        return _checked_secret(path, way_out)
    make_private(path.parent)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secrets.token_bytes(SECRET_BYTES))
        stream.flush()
        os.fsync(descriptor)
    try:
        os.link(temporary, path)  # fails where another program was first
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return _checked_secret(path, way_out)


def _checked_secret(path: Path, way_out: str) -> bytes:
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{path} is damaged; {way_out}")
    return secret


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Keep every other program out that asks for the same lock; one whose holder died is free."""
    deadline = time.monotonic() + LOCK_SECONDS
    while (handle := try_lock(lock)) is None:
        if time.monotonic() > deadline:
            raise ConfigError(f"another program holds {lock}; try again once it has ended")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(handle)


def try_lock(lock: Path) -> int | None:
    """A handle that holds the lock of this file until it is closed; None if another has it."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def append_private(path: Path) -> BinaryIO:
    """A file at its end, made if there is none; what is written is handed to the system at once."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), "ab", buffering=0)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
