"""Bring one file of a hub repository to disk, going on where an earlier try stopped.

The hub's own client starts every file anew in a fresh temporary file, so a connection that breaks at 39 of 40 GB
costs 39 GB. Here the bytes go to `blobs/<digest>.incomplete`, a second try asks for the rest by a Range request, and
nothing takes its place in the cache before its digest is the one that the repository's listing names. That check is
also what makes the shared partial file safe on file systems whose locks do not hold.
"""

import errno
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Literal
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from small4.errors import DownloadError

CHUNK_BYTES = 4 * 1024 * 1024  # read at once while a digest is computed
REPORT_SECONDS = 0.1  # least time between two reports
RATE_SECONDS = 5.0  # the transfer rate is the mean over so long
PASSING_STATUS = (408, 429, 500, 502, 503, 504)  # worth another try

Phase = Literal["downloading", "verifying"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the repository lists it; `digest` is SHA-256 for large files and git's SHA-1 for small ones."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is, over all its files together."""

    phase: Phase
    bytes_done: int  # of `bytes_total`, those of earlier tries included
    bytes_total: int
    bytes_per_second: float  # read or received during the last seconds; nothing that was there before
    files_done: int  # complete in this phase
    num_files: int
    file_name: str  # the file last worked on

    @property
    def seconds_left(self) -> float | None:
        if self.bytes_per_second <= 0:
            return None
        return (self.bytes_total - self.bytes_done) / self.bytes_per_second


@dataclass(slots=True)
class Meter:
    """Adds up the progress of all files and reports it, a few times a second; called from several threads."""

    on_progress: Callable[[PullProgress], None] | None
    phase: Phase
    bytes_total: int
    num_files: int
    bytes_done: int = 0
    files_done: int = 0
    file_name: str = ""
    _lock: Lock = field(default_factory=Lock)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _reported_at: float = float("-inf")

    def had(self, num_bytes: int) -> None:
        """Bytes of an earlier try; negative when they turn out to be of no use."""
        with self._lock:
            self.bytes_done += num_bytes

    def moved(self, num_bytes: int, file_name: str) -> None:
        """Bytes received or read just now."""
        with self._lock:
            now = time.monotonic()
            self.bytes_done += num_bytes
            self.file_name = file_name
            self._recent.append((now, num_bytes))
            while self._recent[0][0] < now - RATE_SECONDS:
                self._recent.popleft()
            if now - self._reported_at >= REPORT_SECONDS:
                self._report(now)

    def finished_file(self, file_name: str) -> None:
        with self._lock:
            self.files_done += 1
            self.file_name = file_name
            self._report(time.monotonic())

    def _report(self, now: float) -> None:
        self._reported_at = now
        if self.on_progress is None:
            return
        seconds = now - self._recent[0][0] if self._recent else 0.0
        rate = sum(num_bytes for _, num_bytes in self._recent) / seconds if seconds > 0 else 0.0
        self.on_progress(
            PullProgress(
                self.phase, self.bytes_done, self.bytes_total, rate, self.files_done, self.num_files, self.file_name
            )
        )


@dataclass(frozen=True, slots=True)
class BlobStore:
    """Where one repository's files lie in the hub's cache, and where they come from."""

    storage: Path  # <cache>/models--org--name
    endpoint: str
    retry_seconds: Sequence[float]  # waits before another try after a try that brought nothing

    def blob(self, file: RemoteFile) -> Path:
        return self.storage / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        return self.storage / "blobs" / f"{file.digest}.incomplete"

    def has(self, file: RemoteFile) -> bool:
        return _size(self.blob(file)) == file.bytes

    def bytes_missing(self, file: RemoteFile) -> int:
        if self.has(file):
            return 0
        partial_bytes = _size(self.partial(file)) or 0
        return file.bytes if partial_bytes > file.bytes else file.bytes - partial_bytes

    def download(self, url: str, file: RemoteFile, meter: Meter, cancelled: Event) -> None:
        """Complete the partial file, trying again as long as tries bring bytes."""
        waits = iter(self.retry_seconds)
        with self._lock(file):
            if self.has(file):
                meter.had(file.bytes)
                return
            partial = self.partial(file)
            if (_size(partial) or 0) > file.bytes:
                partial.unlink()
            meter.had(_size(partial) or 0)
            while (have := _size(partial) or 0) < file.bytes:
                try:
                    self._append(url, file, meter, cancelled)
                except (httpx2.TransportError, HfHubHTTPError) as error:
                    if isinstance(error, HfHubHTTPError) and error.response.status_code not in PASSING_STATUS:
                        raise
                    if (_size(partial) or 0) > have:
                        waits = iter(self.retry_seconds)
                    wait = next(waits, None)
                    if wait is None or cancelled.wait(wait):
                        raise
            partial.touch()  # a file of no bytes needs no request
        meter.finished_file(file.name)

    def _append(self, url: str, file: RemoteFile, meter: Meter, cancelled: Event) -> None:
        """One request for what is still missing, at a fresh address: the signed ones behind `url` expire."""
        partial = self.partial(file)
        have = _size(partial) or 0
        location, headers = self._locate(url, file)
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", location, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:  # the partial file is of no use to this server
                partial.unlink()
                meter.had(-have)
                return
            hf_raise_for_status(response)
            if have and not (response.status_code == 206 and _range_start(response) == have):
                partial.unlink()
                meter.had(-have)
                if response.status_code == 206:
                    return
                have = 0
            with partial.open("ab") as out:
                for chunk in response.iter_raw():
                    if cancelled.is_set():
                        raise DownloadError("the download was stopped; run the command again to go on")
                    have += len(chunk)
                    if have > file.bytes:
                        raise DownloadError(
                            f"{file.name}: the server sends more than the {file.bytes} bytes that the repository "
                            "lists; try again later"
                        )
                    _write(out.write, chunk, self.storage)
                    meter.moved(len(chunk), file.name)
        if have < file.bytes:
            raise httpx2.RemoteProtocolError(f"{file.name}: {have} of {file.bytes} bytes arrived")

    def _locate(self, url: str, file: RemoteFile) -> tuple[str, dict[str, str]]:
        metadata = get_hf_file_metadata(url, endpoint=self.endpoint, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if metadata.etag != file.digest or metadata.size not in (None, file.bytes):
            raise DownloadError(
                f"{file.name}: the server offers {metadata.size} bytes with digest {metadata.etag}, the repository "
                f"lists {file.bytes} bytes with digest {file.digest}; nothing was fetched. Try again later"
            )
        headers = dict(build_hf_headers(), **{"Accept-Encoding": "identity"})
        if _origin(metadata.location) != _origin(self.endpoint):
            headers.pop("authorization", None)  # a token is for the hub alone, not for where it stores its files
        return metadata.location, headers

    def verify(self, file: RemoteFile, meter: Meter, cancelled: Event) -> None:
        """Read the partial file back, compare its digest and move it to its place."""
        with self._lock(file):
            if not self.has(file):
                partial = self.partial(file)
                if _digest(partial, file, meter, cancelled) != file.digest:
                    partial.unlink()
                    raise DownloadError(
                        f"{file.name}: the {file.bytes} bytes that arrived do not have the digest {file.digest} that "
                        "the repository lists; they were deleted. Run the command again to fetch the file anew"
                    )
                partial.replace(self.blob(file))
        meter.finished_file(file.name)

    @contextmanager
    def _lock(self, file: RemoteFile) -> Iterator[None]:
        # The hub's client waits at the same place, so two programs never fetch one file side by side.
        lock = self.storage.parent / ".locks" / self.storage.name / f"{file.digest}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        self.blob(file).parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            yield


def _digest(path: Path, file: RemoteFile, meter: Meter, cancelled: Event) -> str:
    is_sha256 = len(file.digest) == 64
    digest = hashlib.sha256() if is_sha256 else hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            if cancelled.is_set():
                raise DownloadError("the check was stopped; run the command again to go on")
            digest.update(chunk)
            meter.moved(len(chunk), file.name)
    return digest.hexdigest()


def _write(write: Callable[[bytes], int], chunk: bytes, target: Path) -> None:
    try:
        write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"the disk under {target} is full; what arrived is kept. Make room and run the command again"
            ) from error
        raise


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _range_start(response: httpx2.Response) -> int | None:
    unit, _, span = str(response.headers.get("Content-Range", "")).partition(" ")
    start = span.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
