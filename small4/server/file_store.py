"""Files that callers have sent, and the output of their batches: on disk, within bounds, each key's apart from others'.

A file is two: its bytes, and beside them what is known of it, which is written last. Bytes without that are what an
upload left that was cut, and are removed at the next start. Where it is damaged, both are set aside.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from small4.errors import RateLimitError, TooLargeError, UnknownPathError
from small4.gateway.private_files import UNFINISHED, Unfinished, make_private, read_all, set_aside, write_private
from small4.server.bounds import Bounds
from small4.wire.openai_batch import FileObject, Purpose

FULL_RETRY_SECONDS = 3600.0


class StoredFile(msgspec.Struct):
    owner: str  # the id of a key
    file: FileObject


class FileStore:
    """The files of one directory, for one event loop; `clock` gives seconds since 1970."""

    def __init__(self, directory: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._directory, self._bounds, self._clock = directory, bounds, clock
        self._files: dict[str, StoredFile] = {}  # the oldest first
        self._held: Counter[str] = Counter()  # bytes by owner, those that are arriving among them

    def open(self) -> list[Path]:
        """Read what is there; gives the files that cannot be told from their descriptions, and are set aside."""
        make_private(self._directory)
        found, damaged = read_all(self._directory, StoredFile)
        damaged += [set_aside(path) for path in map(self._data_beside, damaged) if path.exists()]
        found.sort(key=lambda stored: (stored.file.created_at, stored.file.id))
        self._files = {stored.file.id: stored for stored in found}
        self._held = Counter()
        for stored in found:
            self._held[stored.owner] += stored.file.bytes
        for path in self._directory.iterdir():
            is_left_over = path.suffix == ".data" and path.stem not in self._files
            if is_left_over or path.name.endswith(UNFINISHED):
                path.unlink()
        return damaged

    def find(self, owner: str, file_id: str) -> FileObject:
        """A caller's own file; another's is not there."""
        stored = self._files.get(file_id)
        if stored is None or stored.owner != owner or stored.file.expires_at <= self._clock():
            raise UnknownPathError(f"there is no file {file_id[:80]!r}; it was never sent, was deleted, or has expired")
        return stored.file

    def own(self, owner: str) -> list[FileObject]:
        """All files of a caller, the oldest first."""
        now = self._clock()
        return [found.file for found in self._files.values() if found.owner == owner and found.file.expires_at > now]

    def path(self, file_id: str) -> Path:
        """Where the bytes of a known file are."""
        return self._directory / f"{file_id}.data"

    def begin(self, owner: str) -> "Incoming":
        """Take a file that arrives."""
        num_files = sum(stored.owner == owner for stored in self._files.values())
        if num_files >= self._bounds.max_files_per_key:
            limit = self._bounds.max_files_per_key
            raise RateLimitError(
                f"{num_files} files are kept for this key, the limit is {limit}; delete some", FULL_RETRY_SECONDS
            )
        return Incoming(self, owner, new_file_id())

    async def write(
        self, owner: str, file_id: str, lines: Iterable[bytes], seconds: float | None, threads: Executor
    ) -> bool:
        """Keep the output of a batch under an id that it has had before; False where it has no line."""
        incoming = Incoming(self, owner, file_id)
        try:
            await incoming.take_all(lines, threads)
            if incoming.num_bytes:
                await incoming.keep(f"{file_id}.jsonl", "batch_output", seconds)
            return incoming.num_bytes > 0
        finally:
            incoming.discard()

    def delete(self, file_id: str) -> None:
        """Remove a known file."""
        (self._directory / f"{file_id}.json").unlink(missing_ok=True)
        stored = self._files.pop(file_id)
        self._held[stored.owner] -= stored.file.bytes
        self.path(file_id).unlink(missing_ok=True)

    def old(self) -> list[str]:
        """Ids of files that have expired."""
        now = self._clock()
        return [file_id for file_id, stored in self._files.items() if stored.file.expires_at <= now]

    def unfinished(self, file_id: str) -> Unfinished:
        """Bytes of a file that is not known yet."""
        return Unfinished(self.path(file_id))

    def hold(self, owner: str, size: int) -> None:
        """Count bytes that arrive; raises where there is no room for them."""
        bounds = self._bounds
        if self._held[owner] + size > bounds.max_files_bytes_per_key:
            limit = bounds.max_files_bytes_per_key
            raise RateLimitError(
                f"the files of this key would have more than {limit} bytes, the limit; delete some", FULL_RETRY_SECONDS
            )
        if self._held.total() + size > bounds.max_files_bytes:
            raise RateLimitError("there is no room for more files here; come again later", FULL_RETRY_SECONDS)
        self.count(owner, size)

    def count(self, owner: str, size: int) -> None:
        """Count bytes whether there is room for them or not; less than 0 gives them back."""
        self._held[owner] += size

    def check_size(self, num_bytes: int) -> None:
        """Raises if one file has more bytes than any may."""
        if num_bytes > self._bounds.max_file_bytes:
            raise TooLargeError(
                f"the file is larger than {self._bounds.max_file_bytes} bytes, the limit; send it in several"
            )

    def describe(
        self, file_id: str, num_bytes: int, filename: str, purpose: Purpose, seconds: float | None
    ) -> FileObject:
        """What is said of a file from now on; it is kept no longer than any may be."""
        now = self._clock()
        lifetime = min(self._bounds.file_seconds, seconds or self._bounds.file_seconds)
        return FileObject(
            id=file_id,
            bytes=num_bytes,
            created_at=int(now),
            expires_at=int(now + lifetime),
            filename=filename,
            purpose=purpose,
        )

    async def add(self, stored: StoredFile) -> None:
        """Know a file whose bytes are in their place."""
        path = self._directory / f"{stored.file.id}.json"
        await asyncio.to_thread(write_private, path, msgspec.json.encode(stored))
        if stored.file.id in self._files:  # the output of a batch, written again after the server ended in between
            self.count(stored.owner, -self._files[stored.file.id].file.bytes)
        self._files[stored.file.id] = stored

    def _data_beside(self, damaged: Path) -> Path:
        return self.path(damaged.name.partition(".")[0])


class Incoming:
    """A file that arrives: `take` what came of it, then `keep` or `discard` it."""

    def __init__(self, store: FileStore, owner: str, file_id: str) -> None:
        self._store, self._owner, self._id = store, owner, file_id
        self._unfinished = store.unfinished(file_id)
        self._is_kept = False
        self.num_bytes = 0

    async def take(self, data: bytes) -> None:
        """The next bytes of a caller's file; raises where there is no room for them."""
        self._store.check_size(self.num_bytes + len(data))
        self._store.hold(self._owner, len(data))
        self.num_bytes += len(data)
        await asyncio.to_thread(self._unfinished.stream.write, data)

    async def take_all(self, lines: Iterable[bytes], threads: Executor) -> None:
        """A whole file of our own, for which there must be room."""
        self.num_bytes = await asyncio.get_running_loop().run_in_executor(threads, self._write_all, lines)
        self._store.count(self._owner, self.num_bytes)

    def _write_all(self, lines: Iterable[bytes]) -> int:
        return sum(self._unfinished.stream.write(line) for line in lines)

    async def keep(self, filename: str, purpose: Purpose, seconds: float | None) -> FileObject:
        """Make it a file, once it is on the disk."""
        await asyncio.to_thread(self._unfinished.finish)
        file = self._store.describe(self._id, self.num_bytes, filename, purpose, seconds)
        await self._store.add(StoredFile(self._owner, file))
        self._is_kept = True
        return file

    def discard(self) -> None:
        """Forget it, unless it was kept."""
        self._unfinished.discard()
        if not self._is_kept:
            self._store.count(self._owner, -self.num_bytes)


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"
