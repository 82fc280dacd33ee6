"""From what the user calls a model to where it lies, with a suggestion where nothing is called so."""

import difflib
import re
from pathlib import Path

from small4.errors import CheckpointNotFoundError

NANO = "nano"
NANO_NOTE = "a small demonstration model of the same architecture, not Mistral Small 4"


def locate(model: str) -> Path:
    """The checkpoint of that name: the shipped nano, a path, or a model of the hub cache."""
    if model == NANO:
        return nano_directory()
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model.startswith((".", "/", "~")) or model.endswith((".gguf", ".safetensors")) or model.count("/") > 1:
        raise CheckpointNotFoundError(f"there is nothing at {path}; check the path")
    return _cached(model)


def nano_directory() -> Path:
    """The checkpoint inside this installation."""
    root = Path(__file__).parents[1] / "nano"
    for directory in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if any(directory.glob("*.safetensors")):
            return directory
    raise CheckpointNotFoundError(
        "this installation of small4 carries no nano; install a released version, or give the path of a checkpoint"
    )


def is_model(word: str) -> bool:
    """Whether a lone word names a model, not a question; a near miss of a name is an error, lest it be asked."""
    if word == NANO or _is_checkpoint(Path(word).expanduser()):
        return True
    if not re.fullmatch(r"[\w.:~/-]+", word) or re.fullmatch(r"[\d./-]+", word):
        return False  # a question: it has blanks, or it is nothing but numbers
    if "/" in word:
        return True  # a path or a repository
    known = known_names()
    if word in known:
        return True
    if similar := difflib.get_close_matches(word, known, n=1):
        raise CheckpointNotFoundError(
            f"no model is called {word!r}; did you mean {similar[0]}? To ask the nano this very word: "
            f"small4 run nano {word}"
        )
    return False


def known_names() -> list[str]:
    """All names that can be given here: shipped, official, and in the hub cache."""
    from small4.hub.cache import SHORT_NAMES, list_models

    return list(dict.fromkeys([NANO, *SHORT_NAMES, *(model.name for model in list_models())]))


def _is_checkpoint(path: Path) -> bool:
    try:
        weights = (file for kind in ("*.safetensors", "*.gguf") for file in path.glob(kind))
        return path.suffix == ".gguf" or (path.is_dir() and any(weights))
    except OSError:  # a question can be too long for a file name
        return False


def _cached(name: str) -> Path:
    from small4.hub.cache import SHORT_NAMES, list_models

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
