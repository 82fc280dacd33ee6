"""The manifest of a checkpoint: SHA-256 of every file and every tensor, written last and compared later."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from small4.checkpoint.digests import KnownDigests, file_digests
from small4.checkpoint.fields import read_json
from small4.checkpoint.shards import Shards
from small4.checkpoint.write import raw_bytes, write_json
from small4.errors import CheckpointError, Small4Error

MANIFEST = "small4-manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: a file's or a tensor's name."""

    where: str
    what: str


def write_manifest(directory: Path, format: str, tensors: dict[str, tuple[str, str]]) -> None:
    """The last file of a checkpoint: the digest of every other file, and of every tensor (its file, its digest)."""
    files = sorted(directory.iterdir())
    manifest = {
        "version": 1,
        "format": format,
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in zip(files, file_digests(files), strict=True)
        },
        "tensors": {name: {"file": file, "sha256": digest} for name, (file, digest) in tensors.items()},
    }
    write_json(directory / MANIFEST, manifest)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a save wrote down of its files, not yet compared with them."""

    directory: Path
    files: dict[str, Any]  # name -> bytes and sha256
    tensors: dict[str, Any]  # name -> file and sha256; empty for GGUF

    def covers(self, names: Collection[str]) -> bool:
        """Whether it is about these files; a GGUF file may lie beside a checkpoint that it is no part of."""
        return any(name in self.files for name in names)

    def problems(self, names: Collection[str], known: KnownDigests | None = None) -> Iterator[Problem]:
        """Where the files of these names are not those that were saved; `known` spares reading what was read before."""
        whole: list[str] = []
        for name in names:
            if problem := self._plain_problem(name):
                yield problem
            else:
                whole.append(name)
        digests = file_digests([self.directory / name for name in whole], known)
        for name, digest in zip(whole, digests, strict=True):
            file, claimed = self.directory / name, self.files[name].get("sha256")
            if digest == claimed or (known is not None and file_digests([file]) == [claimed]):
                continue  # what is remembered may be damaged too, so it never accuses a file by itself
            yield Problem(name, "its digest is not the manifest's")
            for tensor in _damaged_tensors(file, self.tensors):
                yield Problem(tensor, f"its bytes in {name} are not those that were saved")

    def _plain_problem(self, name: str) -> Problem | None:
        """What is wrong at first sight, without reading the file."""
        file, claim = self.directory / Path(name).name, self.files.get(name)
        if claim is None:
            return Problem(name, "is not in the manifest: it came here after the save")
        if not isinstance(claim, dict) or file.name != name:  # a manifest has no business outside its directory
            return Problem(MANIFEST, f"its entry {name[:100]!r} is malformed")
        if not file.is_file():
            return Problem(name, "is in the manifest, but not here")
        size = file.stat().st_size
        if size != claim.get("bytes"):
            return Problem(name, f"has {size} bytes, the manifest says {claim.get('bytes')}")
        return None


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a directory; None if there is none, CheckpointError if it is none that we wrote."""
    if not (directory / MANIFEST).is_file():
        return None
    content = read_json(directory / MANIFEST, MAX_MANIFEST_BYTES)
    files, tensors = content.get("files"), content.get("tensors")
    if not isinstance(files, dict) or not isinstance(tensors, dict) or not files:
        raise CheckpointError(f"{directory / MANIFEST} lists no files or tensors; fetch or save the checkpoint again")
    return Manifest(directory, files, tensors)


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


def _tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(raw_bytes(tensor)).hexdigest()
