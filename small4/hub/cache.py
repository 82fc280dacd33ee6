"""Which checkpoints of this architecture lie on this machine, and removing one of them.

Models are found in the hub cache, which other programs share, and in directories that the caller names.
"""

import json
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from small4.errors import CheckpointError, CheckpointNotFoundError

Layout = Literal["native", "hf"]

SHORT_NAMES = {
    "small4": "mistralai/Mistral-Small-4-119B-2603",
    "small4:nvfp4": "mistralai/Mistral-Small-4-119B-2603-NVFP4",
    "small4:eagle": "mistralai/Mistral-Small-4-119B-2603-eagle",
}
LAYOUTS: dict[Layout, tuple[str, re.Pattern[str]]] = {  # native first: the weights as their makers wrote them
    "native": ("params.json", re.compile(r"consolidated(-\d{5}-of-\d{5})?\.safetensors")),
    "hf": ("config.json", re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")),
}
MAX_CONFIG_BYTES = 1024 * 1024  # a config is a page or two
WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A checkpoint on disk; `name` is what `show`, `run` and `rm` take."""

    name: str
    path: Path
    bytes: int  # on disk; for the hub cache all revisions and partial files together
    format: str  # native, hf, gguf, or partial where a pull has brought no config yet
    modified: datetime
    is_complete: bool = True  # false: files are missing, a pull was interrupted


def list_models(directories: Iterable[Path] = (), *, cache_dir: Path | None = None) -> list[InstalledModel]:
    """Checkpoints in the hub cache whose config is of this architecture, then those in `directories`, by name."""
    found = [model for _, model in _cached_models(_cache(cache_dir))]
    for directory in directories:
        for path in (directory, *sorted(directory.glob("*"))):
            kind = _format(path) if path.is_dir() else None
            if kind and (path, kind) != (directory, "gguf"):  # its files follow one by one
                found.append(InstalledModel(str(path), path, _disk_bytes(path), kind, _modified(path)))
            elif path.suffix == ".gguf" and path.is_file():
                found.append(InstalledModel(str(path), path, path.stat().st_size, "gguf", _modified(path)))
    return sorted(found, key=lambda model: model.name)


def remove_model(name: str, *, cache_dir: Path | None = None) -> InstalledModel:
    """Delete a model of the hub cache, with all its revisions and partial files; returns what was there.

    Directories that the user made are left to the user, and so is everything that is not of this architecture.
    """
    models = list(_cached_models(_cache(cache_dir)))
    for storage, model in models:
        if name in (model.name, _repository(storage)):
            shutil.rmtree(storage)
            shutil.rmtree(storage.parent / ".locks" / storage.name, ignore_errors=True)
            return model
    if Path(name).exists():
        raise CheckpointError(f"{name} is not in the hub cache; small4 deletes only there. Remove it by hand")
    known = ", ".join(model.name for _, model in models) or "none"
    raise CheckpointNotFoundError(f"no model called {name!r} in {_cache(cache_dir)}; there is: {known}")


def complete_layouts(names: Iterable[str]) -> list[Layout]:
    """Of which layouts a config and all its shards are among the files of those names."""
    present = set(names)
    return [
        layout
        for layout, (config, weights) in LAYOUTS.items()
        if config in present and _all_shards({name for name in present if weights.fullmatch(name)})
    ]


def _all_shards(names: set[str]) -> bool:
    """Shards carry their number and their count; a set with a gap is no checkpoint."""
    for name in names:
        match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.safetensors", name)
        if match:
            stem, count = match.groups()
            return all(f"{stem}-{k:05}-of-{count}.safetensors" in names for k in range(1, int(count) + 1))
    return bool(names)


def _cache(cache_dir: Path | None) -> Path:
    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser()


def _cached_models(cache: Path) -> Iterator[tuple[Path, InstalledModel]]:
    """One entry per repository: its newest complete revision of this architecture, else what a pull has begun."""
    shorts = {repository: short for short, repository in SHORT_NAMES.items()}
    for storage in sorted(cache.glob("models--*--*")):
        repository = _repository(storage)
        snapshots = [path for path in storage.glob("snapshots/*") if path.is_dir()]
        found = [(_is_complete(path), _modified(path), path, kind) for path in snapshots if (kind := _format(path))]
        if not found and repository in shorts and any(storage.glob("blobs/*")):
            found = [(False, _modified(storage), storage, "partial")]
        if found:
            is_complete, modified, path, kind = max(found)
            name, size = shorts.get(repository, repository), _disk_bytes(storage)
            yield storage, InstalledModel(name, path, size, kind, modified, is_complete)


def _is_complete(snapshot: Path) -> bool:
    names = [path.name for path in snapshot.iterdir() if path.is_file()]
    return bool(complete_layouts(names)) or any(name.endswith(".gguf") for name in names)


def _repository(storage: Path) -> str:
    return storage.name.removeprefix("models--").replace("--", "/", 1)


def _format(directory: Path) -> str | None:
    """How the checkpoint in `directory` is laid out; None if it is none, or of another architecture."""
    if (params := _read_json(directory / "params.json")) is not None:
        return "native" if "kv_lora_rank" in params and "q_lora_rank" in params else None
    if (config := _read_json(directory / "config.json")) is not None:
        text = config.get("text_config", config)
        return "hf" if isinstance(text, dict) and text.get("model_type") == "mistral4" else None
    return "gguf" if any(directory.glob("*.gguf")) else None


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _disk_bytes(directory: Path) -> int:
    """Files below `directory`; what a link points to outside it is not counted."""
    statuses = (path.lstat() for path in directory.rglob("*"))
    return sum(status.st_size for status in statuses if stat.S_ISREG(status.st_mode))


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
