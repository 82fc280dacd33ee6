"""Checks a checkpoint byte by byte: headers, tensors against the config, digests against the manifest, finite weights.

`verify` reports every problem that it can reach; it raises only where there is nothing to check.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from small4.checkpoint.gguf_read import GgufCheckpoint, is_gguf, open_gguf_files
from small4.checkpoint.inventory import Inventory
from small4.checkpoint.load import FileCheckpoint, open_files
from small4.checkpoint.locate import locate
from small4.checkpoint.manifest import MANIFEST, Problem, read_manifest
from small4.checkpoint.shards import Shards
from small4.checkpoint.stored import FP8, Format
from small4.checkpoint.tokenizer_file import TOKENIZER_FILE, has_tokenizer, tokenizer_error
from small4.errors import CheckpointNotFoundError, Small4Error, UnsafeFileError, VerificationError

CHUNK_ELEMENTS = 16 * 1024 * 1024
FP8_NAN = 0x7F  # with either sign; e4m3fn has no infinity


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found."""

    path: Path
    format: Format | None  # None: not readable enough to tell
    num_files: int
    num_tensors: int
    num_bytes: int
    has_manifest: bool  # without one, right-looking but altered weights cannot be told from good ones
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()  # what is no damage, and yet in the way

    @property
    def is_good(self) -> bool:
        return not self.problems

    def raise_if_bad(self) -> None:
        """VerificationError naming the first problems."""
        if self.problems:
            shown = "; ".join(f"{problem.where}: {problem.what}" for problem in self.problems[:5])
            more = f" and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
            raise VerificationError(f"{self.path} is damaged: {shown}{more}. Fetch or save it again")

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format,
            "files": self.num_files,
            "tensors": self.num_tensors,
            "bytes": self.num_bytes,
            "has_manifest": self.has_manifest,
            "problems": [{"where": problem.where, "what": problem.what} for problem in self.problems],
            "warnings": list(self.warnings),
        }


def verify(path: Path | str) -> Report:
    """Read everything and compare."""
    path = Path(path)
    return _verify_gguf(path) if is_gguf(path) else _verify_files(path)


def _verify_files(path: Path) -> Report:
    located = locate(path)
    checkpoint: FileCheckpoint | None = None
    problems: list[Problem] = []
    try:
        checkpoint = open_files(path)
    except (CheckpointNotFoundError, UnsafeFileError):
        raise
    except Small4Error as error:
        problems.append(Problem(path.name, str(error)))
    if checkpoint is not None:
        problems += _inventory_problems(checkpoint.inventory)
        problems += _value_problems(checkpoint.shards)
    num_tensors = 0 if checkpoint is None else len(checkpoint.shards.names())
    return _report(path, checkpoint, [located.config_file, *located.weight_files], num_tensors, problems)


def _verify_gguf(path: Path) -> Report:
    checkpoint: GgufCheckpoint | None = None
    problems: list[Problem] = []
    try:
        checkpoint = open_gguf_files(path)
    except CheckpointNotFoundError:
        raise
    except Small4Error as error:
        problems.append(Problem(path.name, str(error)))
    if checkpoint is not None:
        problems += _inventory_problems(checkpoint.inventory)
        for name in checkpoint.names():
            if not is_finite(checkpoint.read(name).tensor):
                problems.append(Problem(name, "holds NaN or infinity"))
            checkpoint.release(name)
    files = [path] if checkpoint is None and path.is_file() else [] if checkpoint is None else checkpoint.files
    return _report(path, checkpoint, files, 0 if checkpoint is None else len(checkpoint.types()), problems)


def _report(
    path: Path,
    checkpoint: FileCheckpoint | GgufCheckpoint | None,
    files: Sequence[Path],
    num_tensors: int,
    problems: Sequence[Problem],
) -> Report:
    """What was found in the weights, with what the manifest and the tokenizer add."""
    has_manifest, manifest_problems = _compare_with_manifest(path, [file.name for file in files])
    error = None if checkpoint is None else tokenizer_error(path, checkpoint.config)
    # Weights alone are a sound thing to keep; a tokenizer that is there and cannot be used is damage.
    is_damage = error is not None and has_tokenizer(path)
    return Report(
        path=path,
        format=None if checkpoint is None else checkpoint.format,
        num_files=len(files),
        num_tensors=num_tensors,
        num_bytes=sum(file.stat().st_size for file in files),
        has_manifest=has_manifest,
        problems=(*manifest_problems, *problems, *([Problem(TOKENIZER_FILE, str(error))] if is_damage else ())),
        warnings=(f"it cannot chat: {error}",) if error is not None and not is_damage else (),
    )


def _compare_with_manifest(path: Path, names: Sequence[str]) -> tuple[bool, list[Problem]]:
    """Whether there are digests of these files, and where files differ: those in use, or of a directory all."""
    try:
        manifest = read_manifest(path if path.is_dir() else path.parent)
    except Small4Error as error:
        return True, [Problem(MANIFEST, str(error))]
    if manifest is None or (path.is_file() and not manifest.covers(names)):
        return False, []
    return True, list(manifest.problems(dict.fromkeys([*manifest.files, *names]) if path.is_dir() else names))


def _inventory_problems(inventory: Inventory) -> Iterator[Problem]:
    for what, names in (("missing", inventory.missing), ("not part of the model", inventory.unexpected)):
        yield from (Problem(name, what) for name in names)
    for name in inventory.wrong:
        yield Problem(name.split(" ")[0], f"of another shape or type than the config asks for: {name}")


def _value_problems(shards: Shards) -> Iterator[Problem]:
    for name in shards.names():
        if not is_finite(shards.tensor(name)):
            yield Problem(name, "holds NaN or infinity")
        shards.release(name)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; a chunk at a time, so that little memory is taken."""
    flat = tensor.reshape(-1)
    if tensor.dtype == FP8:
        chunks = flat.view(torch.uint8).split(CHUNK_ELEMENTS)
        return not any(bool(((chunk & FP8_NAN) == FP8_NAN).any()) for chunk in chunks)
    if not tensor.is_floating_point() or tensor.dtype == torch.float8_e5m2:
        return True
    # The extremes are NaN where any value is, and infinite where one is.
    chunks = flat.split(CHUNK_ELEMENTS) if flat.numel() else ()
    return all(bool(torch.stack(torch.aminmax(chunk)).isfinite().all()) for chunk in chunks)
