"""The batches of a state directory: one file for each, replaced in one step whenever its status changes."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from small4.errors import RateLimitError, UnknownPathError
from small4.gateway.private_files import UNFINISHED, make_private, read_all, set_aside, write_private
from small4.server.bounds import Bounds
from small4.server.file_store import FULL_RETRY_SECONDS
from small4.wire.openai_batch import ENDED, BatchObject


class StoredBatch(msgspec.Struct, kw_only=True, eq=False):
    owner: str  # the id of a key
    output_id: str  # of the files that its output will be; drawn first, so that writing them twice makes no others
    error_id: str
    output_seconds: int | None  # that they are kept, if the caller said so
    batch: BatchObject

    @property
    def has_ended(self) -> bool:
        return self.batch.status in ENDED


class BatchStore:
    """The batches of one directory, for one event loop; `clock` gives seconds since 1970."""

    def __init__(self, directory: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._directory, self._bounds, self._clock = directory, bounds, clock
        self._batches: dict[str, StoredBatch] = {}  # the oldest first

    def open(self) -> list[Path]:
        """Read what is there; gives the files that cannot be read, which are set aside with their journals."""
        make_private(self._directory)
        found, damaged = read_all(self._directory, StoredBatch)
        damaged += [set_aside(path) for path in map(self._journal_beside, damaged) if path.exists()]
        self._batches = {stored.batch.id: stored for stored in sorted(found, key=self._age)}
        for path in self._directory.iterdir():
            owner = self._batches.get(path.stem)
            is_left_over = path.suffix == ".journal" and (owner is None or owner.has_ended)
            if is_left_over or path.name.endswith(UNFINISHED):
                path.unlink()
        return damaged

    def find(self, owner: str, batch_id: str) -> StoredBatch:
        """A caller's own batch; another's is not there."""
        stored = self._batches.get(batch_id)
        if stored is None or stored.owner != owner:
            raise UnknownPathError(f"there is no batch {batch_id[:80]!r}; it was never made, or ended long ago")
        return stored

    def own(self, owner: str) -> list[StoredBatch]:
        """All batches of a caller, the oldest first."""
        return [stored for stored in self._batches.values() if stored.owner == owner]

    def unfinished(self) -> list[StoredBatch]:
        """All that have not ended, the oldest first."""
        return [stored for stored in self._batches.values() if not stored.has_ended]

    def add(self, stored: StoredBatch) -> None:
        """Keep a new one; raises where its owner has too many."""
        limit = self._bounds.max_batches_per_key
        if len(self.own(stored.owner)) >= limit:
            raise RateLimitError(
                f"{limit} batches are kept for this key, the limit; come again later", FULL_RETRY_SECONDS
            )
        self.save(stored)
        self._batches[stored.batch.id] = stored

    def save(self, stored: StoredBatch) -> None:
        """Put what is known of it on the disk; what happens to its lines stands in its journal."""
        write_private(self._directory / f"{stored.batch.id}.json", msgspec.json.encode(stored))

    def journal(self, batch_id: str) -> Path:
        """Where the journal of a batch is."""
        return self._directory / f"{batch_id}.journal"

    def old(self) -> list[str]:
        """Ids of batches that have ended and whose time is over."""
        oldest = self._clock() - self._bounds.file_seconds
        return [
            stored.batch.id
            for stored in self._batches.values()
            if stored.has_ended and stored.batch.created_at < oldest
        ]

    def delete(self, batch_id: str) -> None:
        """Forget a batch that has ended."""
        (self._directory / f"{batch_id}.json").unlink(missing_ok=True)
        del self._batches[batch_id]

    def _age(self, stored: StoredBatch) -> tuple[int, bool, str]:
        """Of those made in the same second, what has been begun comes first."""
        return stored.batch.created_at, not self.journal(stored.batch.id).exists(), stored.batch.id

    def _journal_beside(self, damaged: Path) -> Path:
        return self.journal(damaged.name.partition(".")[0])
