"""From what the user calls a model to where it lies: the shipped nano, a path, or a model of the hub cache."""

import difflib
import re
from pathlib import Path

from small4.errors import CheckpointNotFoundError
from small4.hub.cache import SHORT_NAMES, list_models

NANO = "nano"


def locate(model: str | Path) -> Path:
    """The checkpoint of that name; a `Path` is taken as a path, whatever it is called."""
    if model == NANO:
        return nano_directory()
    if model in SHORT_NAMES:  # before paths: a clone of this project holds a directory that is called small4
        return _cached(str(model))
    path = Path(model).expanduser()
    if path.exists():
        return path
    name = str(model)
    if isinstance(model, Path) or _is_plainly_a_path(name):
        raise CheckpointNotFoundError(f"there is nothing at {path}; check the path")
    return _cached(name)


def nano_directory() -> Path:
    """The checkpoint inside this installation."""
    directory = Path(__file__).parents[1] / "nano"
    if any(directory.glob("*.safetensors")):
        return directory
    raise CheckpointNotFoundError(
        "this installation of small4 carries no nano; install a released version, or give the path of a checkpoint"
    )


def known_names() -> list[str]:
    """All names that can be given here: shipped, official, and in the hub cache."""
    return list(dict.fromkeys([NANO, *SHORT_NAMES, *(model.name for model in list_models())]))


def _is_plainly_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith((".gguf", ".safetensors")) or name.count("/") > 1


def _cached(name: str) -> Path:
    short_names = {repository: short for short, repository in SHORT_NAMES.items()}
    for model in list_models():
        if model.name == short_names.get(name, name):
            if not model.is_complete:
                raise CheckpointNotFoundError(f"{name} is not complete on this disk; go on with: small4 pull {name}")
            return model.path
    if name in SHORT_NAMES or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointNotFoundError(
            f"{name} is not on this disk, as a path or in the hub cache; fetch it with: small4 pull {name}"
        )
    known = known_names()
    similar = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(known)}, or give a path"
    raise CheckpointNotFoundError(f"no model is called {name!r}; {hint}")
