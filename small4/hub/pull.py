"""Bring an official checkpoint from the hub into the user's own hub cache: the needed files only, each one verified.

A repository may hold the same weights twice, in Mistral's own layout and in that of transformers; one set is taken.
Files that can run code when opened (pickle and its like) are never asked for. Other programs find what is pulled here,
and what they pulled is not fetched again.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from small4.errors import CheckpointNotFoundError, DownloadError, UnsafeFileError
from small4.hub.cache import LAYOUTS, SHORT_NAMES, Layout, complete_layouts
from small4.hub.fetch import BlobStore, Meter, PullProgress, RemoteFile

UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".msgpack", ".h5")
PARALLEL_FILES = 4  # connections at once
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # waits between tries that bring nothing
API_SECONDS = 30.0  # for one answer of the hub's API


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A checkpoint on disk, or what a dry run would bring."""

    path: Path  # directory with the files below
    files: tuple[str, ...]
    bytes: int  # all files together
    revision: str  # commit that the files belong to
    bytes_fetched: int = 0  # moved over the network by this call; in a dry run: what a pull would move
    is_offline: bool = False  # the hub could not be asked; this is what the cache holds


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
    layout: Layout | None = None,
    dry_run: bool = False,
    on_progress: Callable[[PullProgress], None] | None = None,
    retry_seconds: Sequence[float] = RETRY_SECONDS,
) -> PulledModel:
    """Complete the checkpoint in the hub cache (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN are honoured).

    `repo_id` is a repository or a short name; `nano` lies in the package and needs no network. `on_progress` is called
    from worker threads, never from two at once. Files of an interrupted call are continued, not fetched again.
    """
    if repo_id == "nano":
        return _shipped_nano()
    repo_id = resolve_repository(repo_id)
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    store = BlobStore(cache / f"models--{repo_id.replace('/', '--')}", endpoint, retry_seconds)
    wanted = revision or constants.DEFAULT_REVISION
    _check_revision(wanted)
    try:
        commit, listed = _list_remote(repo_id, wanted, endpoint)
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        found = _already_there(store.storage, wanted, layout)
        if found is None:
            raise _explain(error, repo_id, wanted, endpoint) from error
        return found
    except (HfHubHTTPError, HFValidationError) as error:
        raise _explain(error, repo_id, wanted, endpoint) from error
    files = choose_files(listed, layout, is_cached=store.has)
    missing = [file for file in files if not store.has(file)]
    fetched = sum(store.bytes_missing(file) for file in missing)
    if not dry_run:
        _check_space(store.storage, fetched)
        try:
            _bring(store, repo_id, commit, missing, on_progress)
            for file in files:
                hf_hub_download(repo_id, file.name, revision=commit, cache_dir=cache, endpoint=endpoint)
        except (HfHubHTTPError, httpx2.TransportError) as error:
            raise _explain(error, repo_id, wanted, endpoint) from error
        _point_at(store.storage, wanted, commit)
    snapshot = store.storage / "snapshots" / commit
    return PulledModel(snapshot, tuple(f.name for f in files), sum(f.bytes for f in files), commit, fetched)


def resolve_repository(name: str) -> str:
    """The repository behind a short name; a full id stays as it is."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if "/" not in name:
        known = ", ".join([*SHORT_NAMES, "nano"])
        raise CheckpointNotFoundError(
            f"no model is called {name!r}; give one of {known}, or a repository as organisation/name"
        )
    return name


def choose_files(
    listed: Sequence[RemoteFile],
    layout: Layout | None = None,
    *,
    is_cached: Callable[[RemoteFile], bool] = lambda file: False,
) -> list[RemoteFile]:
    """One complete set of weights with its config and tokenizer, small files first.

    Without a wish the layout of which most is cached is taken, and the native one before the other.
    """
    sets: dict[Layout, list[RemoteFile]] = {}
    for name in complete_layouts(file.name for file in listed):
        sets[name] = [file for file in listed if LAYOUTS[name][1].fullmatch(file.name)]
    if layout is not None and layout not in sets:
        config, _ = LAYOUTS[layout]
        raise DownloadError(f"the repository has no complete {layout} checkpoint ({config} and all its shards)")
    if not sets:
        raise _no_weights(listed)
    cached = {name: sum(file.bytes for file in shards if is_cached(file)) for name, shards in sets.items()}
    chosen = max(sets, key=lambda name: cached[name]) if layout is None else layout
    config, _ = LAYOUTS[chosen]
    index = "consolidated.safetensors.index.json" if chosen == "native" else "model.safetensors.index.json"
    small = [file for file in listed if file.name in (config, index, "tekken.json")]
    return [*small, *sorted(sets[chosen], key=lambda file: file.name)]


def _no_weights(listed: Sequence[RemoteFile]) -> Exception:
    unsafe = [file.name for file in listed if file.name.endswith(UNSAFE_SUFFIXES)]
    if unsafe:
        return UnsafeFileError(
            f"the repository has weights only in files that can run code when opened ({', '.join(unsafe[:3])}); "
            "they are not fetched. Use a repository with safetensors files"
        )
    return DownloadError(
        "the repository has no complete checkpoint: it needs params.json with consolidated*.safetensors, or "
        "config.json with model*.safetensors"
    )


def _list_remote(repo_id: str, revision: str, endpoint: str) -> tuple[str, list[RemoteFile]]:
    """The commit that `revision` stands for now, and the files at its top."""
    api = HfApi(endpoint=endpoint, library_name="small4")
    commit = api.model_info(repo_id, revision=revision, timeout=API_SECONDS).sha or ""
    _check_digest(commit, endpoint)
    files = []
    for entry in api.list_repo_tree(repo_id, revision=commit):
        if isinstance(entry, RepoFile) and "/" not in entry.path:
            size, digest = (entry.size, entry.blob_id) if entry.lfs is None else (entry.lfs.size, entry.lfs.sha256)
            _check_digest(digest, endpoint)
            files.append(RemoteFile(entry.path, size, digest))
    return commit, files


def _check_digest(text: str, endpoint: str) -> None:
    # It becomes the name of a file or directory in the cache.
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise DownloadError(f"{endpoint} names a commit or a file by {text!r}, which is no digest; is it a hub?")


def _check_revision(revision: str) -> None:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) or ".." in revision:
        raise DownloadError(f"{revision!r} cannot be a revision; give a branch, a tag or a commit")


def _check_space(target: Path, needed: int) -> None:
    place = next(path for path in (target, *target.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DownloadError(
            f"the download needs {readable_bytes(needed)}, the disk under {place} has {readable_bytes(free)} free; "
            "make room, or set HF_HUB_CACHE to a directory on a larger disk"
        )


def _bring(
    store: BlobStore,
    repo_id: str,
    commit: str,
    missing: Sequence[RemoteFile],
    on_progress: Callable[[PullProgress], None] | None,
) -> None:
    """Download what is missing, then check all of it; each in a few threads."""
    total = sum(file.bytes for file in missing)
    download_meter = Meter(on_progress, "downloading", total, len(missing))
    urls = {file: hf_hub_url(repo_id, file.name, revision=commit, endpoint=store.endpoint) for file in missing}
    _in_threads(missing, lambda file, stop: store.download(urls[file], file, download_meter, stop))
    verify_meter = Meter(on_progress, "verifying", total, len(missing))
    _in_threads(missing, lambda file, stop: store.verify(file, verify_meter, stop))


def _in_threads(files: Sequence[RemoteFile], work: Callable[[RemoteFile, Event], None]) -> None:
    """Run `work` on every file; the first failure, or Ctrl-C, stops the others and is raised."""
    stop = Event()
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        futures: list[Future[None]] = [pool.submit(work, file, stop) for file in files]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _point_at(storage: Path, revision: str, commit: str) -> None:
    """Write down which commit a branch or tag stands for, as the hub's client does; it finds the files offline so."""
    if revision != commit:
        ref = storage / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        temporary.write_text(commit, encoding="ascii")
        temporary.replace(ref)


def _already_there(storage: Path, revision: str, layout: Layout | None) -> PulledModel | None:
    """The cached checkpoint, when the hub cannot be asked and no file is missing."""
    ref = storage / "refs" / revision
    commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else revision
    snapshot = storage / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    present = [RemoteFile(path.name, path.stat().st_size, "") for path in snapshot.iterdir() if path.is_file()]
    try:
        files = choose_files(present, layout)
    except (DownloadError, UnsafeFileError):
        return None
    return PulledModel(snapshot, tuple(f.name for f in files), sum(f.bytes for f in files), commit, is_offline=True)


def _shipped_nano() -> PulledModel:
    """The nano checkpoint inside the installed package."""
    root = Path(__file__).parents[1] / "nano"
    shipped = ("config.json", "params.json", "tekken.json")
    for directory in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        weights = sorted(directory.glob("*.safetensors"))
        if weights:
            files = [*weights, *(p for p in sorted(directory.glob("*.json")) if p.name in shipped)]
            return PulledModel(directory, tuple(f.name for f in files), sum(f.stat().st_size for f in files), "shipped")
    raise CheckpointNotFoundError("this installation of small4 carries no nano model; install a released version")


def _explain(error: Exception, repo_id: str, revision: str, endpoint: str) -> DownloadError:
    """What happened, and the way out."""
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(
            f"{repo_id} is not complete in the cache and HF_HUB_OFFLINE forbids to ask the hub; unset it and run "
            "again, or copy the cache directory from a machine that has it"
        )
    if isinstance(error, HFValidationError):
        return DownloadError(f"{repo_id!r} is not the name of a repository; write organisation/name")
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(f"{repo_id} has no revision {revision!r}; leave the revision out to take the newest")
    if isinstance(error, HfHubHTTPError):
        return DownloadError(_explain_status(error, error.response.status_code, repo_id))
    return DownloadError(
        f"{endpoint} cannot be reached or broke off ({type(error).__name__}); check the connection and the proxy, then "
        "run the command again: it goes on where it stopped"
    )


def _explain_status(error: HfHubHTTPError, status: int, repo_id: str) -> str:
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"access to {repo_id} is refused (HTTP {status}); accept its terms on its web page while logged in, give a "
            "token of that account by `hf auth login` or HF_TOKEN, and run the command again"
        )
    if status == 401:
        return (
            f"{repo_id} does not exist, or asks for a login (HTTP 401); check the name, then log in by `hf auth login` "
            "or set HF_TOKEN"
        )
    if status == 404 or isinstance(error, RepositoryNotFoundError):
        return f"{repo_id} does not exist or lacks a file (HTTP {status}); check the name and the revision"
    if status == 429:
        return "the hub asks to slow down (HTTP 429); wait some minutes and run the command again, logged in if you can"
    return f"the hub answered with HTTP {status}; run the command again later: it goes on where it stopped"


def readable_bytes(num_bytes: float) -> str:
    """123456789 -> '123.5 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
