"""Writes a model, a draft head or another checkpoint to a directory, in the format asked for, all or nothing.

Parameters are converted and written one at a time. A manifest with the digest of every file and tensor is written last;
then the directory takes the place of what stood there (`atomic.py`).
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from small4.checkpoint.atomic import replaced_directory
from small4.checkpoint.configs import to_params
from small4.checkpoint.encode import FILE_FORMATS, ActivationScales, encode, file_layout
from small4.checkpoint.fields import read_json
from small4.checkpoint.gguf_read import GgufCheckpoint
from small4.checkpoint.gguf_write import KINDS as GGUF_KINDS
from small4.checkpoint.gguf_write import Kind, write_gguf
from small4.checkpoint.hf_config import to_hf
from small4.checkpoint.load import FileCheckpoint
from small4.checkpoint.locate import CONFIG_FILES, STEMS, Family
from small4.checkpoint.manifest import MANIFEST, MAX_MANIFEST_BYTES, write_manifest
from small4.checkpoint.stored import Checkpoint, Config, Dense, Format, Stored
from small4.checkpoint.write import FilePlan, TensorFile, write_json
from small4.errors import SaveError, UnsupportedModelError
from small4.model.config import DraftConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer

MAX_SHARD_BYTES = 5 * 10**9
COMPANIONS = (
    "tekken.json", "generation_config.json", "chat_template.jinja", "SYSTEM_PROMPT.txt", "processor_config.json",
    "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip

Layout = dict[str, list[tuple[str, Tensor]]]


def save_model(
    source: Transformer | DraftHead | Checkpoint,
    path: Path | str,
    *,
    format: Format,
    activation_scales: ActivationScales | None = None,
    extra_files: Mapping[str, Path] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `source` to the directory `path`; what was saved there before stays whole until the new one is complete.

    `activation_scales` maps parameters to the input scales that FP8 and NVFP4 files carry for engines that quantise
    activations too; without them, and without any in `source`, they are 1. `extra_files` are copied in under their
    names; a tokenizer beside a checkpoint that is converted comes along by itself. Saving over a directory is refused
    unless small4 wrote it; files of others in it are kept.
    """
    known = (*FILE_FORMATS, *GGUF_KINDS)
    if format not in known:
        raise UnsupportedModelError(f"{format!r} is no format that save_model writes; known: {', '.join(known)}")
    checkpoint = LiveModel(source) if isinstance(source, Transformer | DraftHead) else source
    path = Path(path)
    if format == "gguf-bf16" or format == "gguf-q8_0":
        _save_gguf(checkpoint, path, format, {**_companions(checkpoint), **(extra_files or {})})
        return
    config = checkpoint.config
    raw = _config_file(config, format)
    copied = {**_companions(checkpoint), **(extra_files or {})}
    with replaced_directory(path, _check_replaceable) as directory:
        tensors = _write_tensors(checkpoint, directory, format, activation_scales, max_shard_bytes)
        write_json(directory / CONFIG_FILES[_family(format)], raw)
        for name, file in copied.items():
            _copy(file, directory / name)
        write_manifest(directory, format, tensors)
        _keep_foreign_files(path, directory)


def _save_gguf(checkpoint: Checkpoint, path: Path, format: Kind, copied: Mapping[str, Path]) -> None:
    """A single file (and its projector) where `path` names one, else a directory with a manifest."""
    tekken = copied.get("tekken.json")
    if path.suffix == ".gguf":
        write_gguf(checkpoint, path, format, tokenizer=tekken)
        return
    with replaced_directory(path, _check_replaceable) as directory:
        write_gguf(checkpoint, directory, format, tokenizer=tekken)
        for name, file in copied.items():
            if name != "tekken.json":
                _copy(file, directory / name)
        write_manifest(directory, format, {})
        _keep_foreign_files(path, directory)


class LiveModel:
    """A model in memory, seen as a checkpoint."""

    def __init__(self, model: Transformer | DraftHead) -> None:
        self.config: Config = model.config
        self.format: Format = "native-bf16"
        self._parameters = dict(model.named_parameters())

    def names(self) -> list[str]:
        return list(self._parameters)

    def read(self, name: str) -> Stored:
        return Dense(self._parameters[name].detach())

    def release(self, name: str) -> None:
        """Nothing to give back: the model keeps its memory."""


def _write_tensors(
    checkpoint: Checkpoint,
    directory: Path,
    format: Format,
    activation_scales: ActivationScales | None,
    max_shard_bytes: int,
) -> dict[str, tuple[str, str]]:
    """All weight files and, with several, their index. Each tensor's file and digest."""
    config, stem = checkpoint.config, STEMS[_family(format)]
    shards = _shards(file_layout(config, format), max_shard_bytes)
    written: dict[str, tuple[str, str]] = {}
    for number, layout in enumerate(shards, start=1):
        part = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        name = f"{stem}{part}.safetensors"
        with TensorFile(directory / name, _plan(layout)) as file:
            for parameter in layout:
                for tensor_name, tensor in encode(
                    parameter, checkpoint.read(parameter), config, format, activation_scales
                ):
                    file.write(tensor_name, tensor)
                checkpoint.release(parameter)
        written |= {tensor: (name, digest) for tensor, digest in file.digests.items()}
    if len(shards) > 1:
        total = sum(tensor.nbytes for layout in shards for tensors in layout.values() for _, tensor in tensors)
        weight_map = {tensor: file for tensor, (file, _) in sorted(written.items())}
        write_json(
            directory / f"{stem}.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )
    return written


def file_sizes(config: Config, format: Format, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[int]:
    """Bytes of the weight files that `save_model` would write, computed by its own planning."""
    return [_plan(layout).num_bytes for layout in _shards(file_layout(config, format), max_shard_bytes)]


def _plan(layout: Layout) -> FilePlan:
    return FilePlan(item for tensors in layout.values() for item in tensors)


def _shards(layout: Layout, max_bytes: int) -> list[Layout]:
    """Files of at most `max_bytes` (unless one parameter is larger), in the order of names with numbers as numbers.

    With transformers' 50 GB this is how the release was divided: its total size comes out to the byte.
    """
    shards: list[Layout] = [{}]
    used = 0
    for name, tensors in sorted(layout.items(), key=lambda item: _by_number(item[1][0][0])):
        size = sum(tensor.nbytes for _, tensor in tensors)
        if shards[-1] and used + size > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensors
        used += size
    return shards


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _config_file(config: Config, format: Format) -> dict[str, Any]:
    if _family(format) == "native":
        return to_params(config, format)
    if isinstance(config, DraftConfig):
        raise UnsupportedModelError("a draft head has no Hugging Face form; save it in a native format")
    return to_hf(config, format)


def _family(format: Format) -> Family:
    return "hf" if format.startswith("hf-") else "native"


def _companions(checkpoint: Checkpoint) -> dict[str, Path]:
    if isinstance(checkpoint, FileCheckpoint):
        directory = checkpoint.located.directory
    elif isinstance(checkpoint, GgufCheckpoint):
        directory = checkpoint.path.parent
    else:
        return {}
    return {name: directory / name for name in COMPANIONS if (directory / name).is_file()}


def _copy(file: Path, target: Path) -> None:
    if target.exists():
        raise SaveError(f"{target.name} is written by the save itself; give the extra file another name")
    shutil.copyfile(file, target)


def _check_replaceable(target: Path) -> None:
    """Only an empty directory or a checkpoint that small4 wrote may be replaced: a save must not eat other work."""
    if not target.exists():
        return
    if not target.is_dir():
        raise SaveError(f"{target} is a file; a checkpoint is a directory, choose another path")
    if any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise SaveError(f"{target} holds files that small4 did not write; choose an empty or a new directory")
    folders = [entry.name for entry in target.iterdir() if entry.is_dir()]
    if folders:
        raise SaveError(f"{target} holds the directory {folders[0]}, which a save would lose; choose another path")


def _keep_foreign_files(target: Path, directory: Path) -> None:
    """Files beside the old checkpoint that are not part of it move with it."""
    if not (target / MANIFEST).is_file():
        return
    own = read_json(target / MANIFEST, MAX_MANIFEST_BYTES).get("files")
    for file in target.iterdir():
        known = isinstance(own, dict) and file.name in own
        if not known and file.name != MANIFEST and not (directory / file.name).exists():
            os.link(file, directory / file.name, follow_symlinks=False)
