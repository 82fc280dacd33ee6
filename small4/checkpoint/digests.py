"""SHA-256 of files, several at a time, and a memory of those that were read before.

A remembered digest stands for a file while the system gives the same device, inode, size, and times of its last change
in content and in status: nothing can write to a file and leave all of these as they were. Damage below the file system
is seen by reading only, which is what `small4 verify` does.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

from platformdirs import user_cache_path

MIN_REMEMBERED_BYTES = 32 * 1024 * 1024  # below, reading takes a tenth of a second even without SHA instructions
MIN_AGE_SECONDS = 2.0  # a younger file could change once more within the same tick of the file system's clock
BUFFER_BYTES = 1024 * 1024

Identity = tuple[int, int, int, int, int]


class KnownDigests:
    """Digests kept in a directory, one small file each; one that cannot be read or written is as if not there."""

    def __init__(
        self,
        directory: Path,
        *,
        min_bytes: int = MIN_REMEMBERED_BYTES,
        min_age_seconds: float = MIN_AGE_SECONDS,
    ) -> None:
        self.directory, self.min_bytes, self.min_age_seconds = directory, min_bytes, min_age_seconds

    @classmethod
    def of_user(cls) -> "KnownDigests":
        """Those in the user's cache."""
        return cls(user_cache_path("small4", appauthor=False) / "digests")

    def get(self, file: Path) -> str | None:
        """The digest of the file as it is now, if it has been read in this state."""
        if file.stat().st_size < self.min_bytes:
            return None
        with suppress(OSError, ValueError):
            entry = json.loads(self._place(file).read_text(encoding="utf-8"))
            if isinstance(entry, dict) and entry.get("identity") == list(_identity(file)):
                return str(entry.get("sha256"))
        return None

    def put(self, file: Path, identity: Identity, digest: str) -> None:
        """Remember the digest of a file that had this identity both before and after it was read."""
        age_seconds = time.time() - max(identity[3:]) / 1e9
        if identity[2] < self.min_bytes or age_seconds < self.min_age_seconds:
            return
        entry = {"path": str(file.resolve()), "identity": identity, "sha256": digest}
        with suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = self._place(file)
            partial = place.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(entry), encoding="utf-8")
            partial.replace(place)

    def _place(self, file: Path) -> Path:
        return self.directory / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()}.json"


def file_digests(files: Sequence[Path], known: KnownDigests | None = None) -> list[str]:
    """SHA-256 of every file, as many at a time as there are processors; large ones from `known` where it has them."""
    is_stopped = Event()

    def digest(file: Path) -> str:
        if known is not None and (remembered := known.get(file)):
            return remembered
        before = _identity(file)
        found = _read(file, is_stopped)
        if known is not None and not is_stopped.is_set() and _identity(file) == before:
            known.put(file, before, found)
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(pool.map(digest, files))
        finally:
            is_stopped.set()  # Ctrl-C must not wait for the end of a file of 50 GB


def _read(file: Path, is_stopped: Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    with file.open("rb", buffering=0) as stream:
        while not is_stopped.is_set() and (count := stream.readinto(buffer)):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _identity(file: Path) -> Identity:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
