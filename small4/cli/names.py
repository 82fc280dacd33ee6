"""Whether a lone word names a model or is a question."""

import difflib
import re
from pathlib import Path

from small4.errors import CheckpointNotFoundError
from small4.hub.names import NANO, known_names


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


def _is_checkpoint(path: Path) -> bool:
    try:
        weights = (file for kind in ("*.safetensors", "*.gguf") for file in path.glob(kind))
        return path.suffix == ".gguf" or (path.is_dir() and any(weights))
    except OSError:  # a question can be too long for a file name
        return False
