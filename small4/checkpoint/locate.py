"""Finds what makes up a checkpoint, and refuses to open what could run code or leads out of it.

Hugging Face: `config.json` with `model.safetensors`, or shards named by `model.safetensors.index.json`.
Official: `params.json` with `consolidated.safetensors` or `consolidated-*-of-*.safetensors`.
A directory with both is read in the Hugging Face form, whose experts are fused already.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from small4.checkpoint.fields import read_json
from small4.errors import CheckpointError, CheckpointNotFoundError, UnsafeFileError

CONFIG_FILES = {"hf": "config.json", "native": "params.json"}
STEMS = {"hf": "model", "native": "consolidated"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_INDEX_BYTES = 64 * 1024 * 1024

Family = Literal["hf", "native"]


@dataclass(frozen=True, slots=True)
class Located:
    """The files of one checkpoint; `weight_map` is the index's claim which tensor lies in which file."""

    directory: Path
    family: Family
    config_file: Path
    weight_files: tuple[Path, ...]
    weight_map: dict[str, str] | None = None


def locate(path: Path) -> Located:
    """The config and weight files of a model directory, in the form that will be read."""
    if path.is_file() or path.suffix in PICKLES:
        raise _not_a_directory(path)
    if not path.is_dir():
        raise CheckpointNotFoundError(f"{path} does not exist; give a directory with config.json or params.json")
    families: tuple[Family, ...] = ("hf", "native")
    configs = [family for family in families if (path / CONFIG_FILES[family]).is_file()]
    for family in configs:
        found = _weights(path, family)
        if found is not None:
            return found
    raise _nothing_found(path, bool(configs))


def _not_a_directory(path: Path) -> CheckpointError:
    if path.suffix in PICKLES:
        return UnsafeFileError(
            f"{path.name} is a pickle, which can run code when opened; small4 opens safetensors and GGUF only: "
            "convert it to safetensors where you trust it"
        )
    return CheckpointNotFoundError(f"{path} is a file; give the directory that holds it and its config")


def _nothing_found(path: Path, has_config: bool) -> CheckpointError:
    names = sorted(entry.name for entry in path.iterdir())
    pickles = [name for name in names if Path(name).suffix in PICKLES]
    if pickles:
        return UnsafeFileError(
            f"{path} holds weights only as pickles ({', '.join(pickles[:3])}), which can run code when opened; "
            "small4 does not open them: use the model's safetensors"
        )
    if not names:
        return CheckpointNotFoundError(f"{path} is empty; a checkpoint has a config and *.safetensors files")
    wanted = "model*.safetensors or consolidated*.safetensors" if has_config else "config.json or params.json"
    return CheckpointNotFoundError(f"{path} has no {wanted}; it is no checkpoint, or an incomplete one: pull it again")


def _weights(directory: Path, family: Family) -> Located | None:
    stem, config_file = STEMS[family], directory / CONFIG_FILES[family]
    index_file = directory / f"{stem}.safetensors.index.json"
    weight_map = None
    if index_file.is_file():
        weight_map = _read_index(index_file)
        names = sorted(set(weight_map.values()))
    elif (directory / f"{stem}.safetensors").is_file():
        names = [f"{stem}.safetensors"]
    else:
        names = sorted(file.name for file in directory.glob(f"{stem}-*.safetensors"))
    if not names:
        return None
    files = tuple(_checked(directory, name) for name in names)
    return Located(directory, family, config_file, files, weight_map)


def _read_index(index_file: Path) -> dict[str, str]:
    weight_map = read_json(index_file, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_file.name} has no weight_map: fetch it again")
    for name in set(map(str, weight_map.values())):
        _check_name(index_file, name)
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _check_name(index_file: Path, name: str) -> None:
    if PurePosixPath(name).suffix in PICKLES:
        raise UnsafeFileError(f"{index_file.name} points to the pickle {name!r}; small4 does not open pickles")
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", "..") or not name.endswith(".safetensors"):
        raise UnsafeFileError(
            f"{index_file.name} points to {name!r}; a shard must be a .safetensors file beside the index"
        )


def _checked(directory: Path, name: str) -> Path:
    """A weight file, unless it is absent, no regular file, or a link out of the checkpoint."""
    path = directory / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointNotFoundError(f"{directory} lacks {name}: pull or copy the checkpoint again") from error
    if path.is_symlink() and real.parent not in _link_targets(directory):
        raise UnsafeFileError(f"{name} is a link to {real}, outside the checkpoint; copy the file here instead")
    if not real.is_file():
        raise UnsafeFileError(f"{name} is no regular file; small4 opens nothing else")
    return path


def _link_targets(directory: Path) -> tuple[Path, ...]:
    """Where a weight file may be linked to: its own directory, or the blobs of the hub cache that it lies in."""
    real = directory.resolve()
    if real.parent.name == "snapshots":
        return real, real.parent.parent / "blobs"
    return (real,)
