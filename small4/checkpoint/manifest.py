"""The manifest of a checkpoint: SHA-256 of every file and every tensor, written last and compared later."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from small4.checkpoint.fields import read_json
from small4.checkpoint.shards import Shards
from small4.checkpoint.write import raw_bytes, write_json
from small4.errors import Small4Error

MANIFEST = "small4-manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: a file's or a tensor's name."""

    where: str
    what: str


def write_manifest(directory: Path, format: str, tensors: dict[str, tuple[str, str]]) -> None:
    """The last file of a checkpoint: the digest of every other file, and of every tensor (its file, its digest)."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": _file_digest(file)} for file in sorted(directory.iterdir())
    }
    manifest = {
        "version": 1,
        "format": format,
        "files": files,
        "tensors": {name: {"file": file, "sha256": digest} for name, (file, digest) in tensors.items()},
    }
    write_json(directory / MANIFEST, manifest)


def manifest_problems(path: Path, only: Collection[str] | None = None) -> Iterator[Problem]:
    """Where the files (all, or `only` some) are not those that were saved; nothing where there is no manifest."""
    if not (path / MANIFEST).is_file():
        return
    try:
        manifest = read_json(path / MANIFEST, MAX_MANIFEST_BYTES)
    except Small4Error as error:
        yield Problem(MANIFEST, str(error))
        return
    files, tensors = manifest.get("files"), manifest.get("tensors")
    if not isinstance(files, dict) or not isinstance(tensors, dict) or not files:
        yield Problem(MANIFEST, "lists no files or tensors")
        return
    for name, claim in files.items():
        if only is None or name in only:
            yield from _file_problems(path, str(name), claim, tensors)


def _file_problems(path: Path, name: str, claim: Any, tensors: dict[str, Any]) -> Iterator[Problem]:
    file = path / Path(name).name  # a manifest has no business outside its directory
    if not isinstance(claim, dict) or file.name != name:
        yield Problem(MANIFEST, f"its entry {name[:100]!r} is malformed")
    elif not file.is_file():
        yield Problem(name, "is in the manifest, but not here")
    elif file.stat().st_size != claim.get("bytes"):
        yield Problem(name, f"has {file.stat().st_size} bytes, the manifest says {claim.get('bytes')}")
    elif _file_digest(file) != claim.get("sha256"):
        damaged = list(_damaged_tensors(file, tensors))
        yield Problem(name, "its digest is not the manifest's")
        yield from (Problem(tensor, f"its bytes in {name} are not those that were saved") for tensor in damaged)


def _damaged_tensors(file: Path, tensors: dict[str, Any]) -> Iterator[str]:
    """Which tensors of a damaged file are damaged; none where the damage is in its header."""
    if file.suffix != ".safetensors":
        return
    try:
        shards = Shards([file])
    except Small4Error:
        return
    for name in shards.names():
        claim = tensors.get(name)
        if isinstance(claim, dict) and _tensor_digest(shards.tensor(name)) != claim.get("sha256"):
            yield name
        shards.release(name)


def _file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()
