"""Replaces a directory in one step: whoever looks sees the old one whole or the new one whole, also after a kill.

The new files are written to a hidden directory beside the target, brought to disk, and only then take the target's
place by exchanging the two names, which Linux and macOS do in one step. Elsewhere the old directory is moved aside
first; a kill between the two moves leaves it under `.NAME.replaced`, from where the next save puts it back.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from small4.errors import SaveError

Replaceable = Callable[[Path], None]  # raises SaveError where a directory must not be replaced


@contextmanager
def replaced_directory(target: Path, check: Replaceable) -> Iterator[Path]:
    """A new directory to fill. On leaving it becomes `target`; on an error it is removed and `target` is as it was."""
    # A link stays a link: what it points to is replaced.
    target = target.resolve()
    temporary = target.parent / f".{target.name}.saving-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target)
        check(target)
        temporary.mkdir()
    except OSError as error:
        raise SaveError(f"{target} cannot be written: {error.strerror or error}") from error
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _take_place(temporary, target)
        sync(target.parent)
    except OSError as error:
        raise SaveError(
            f"saving to {target} failed: {error.strerror or error}. What stood there before is untouched; "
            "free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or a directory's list of files to disk; an error here means that the bytes may be lost."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX opens directories
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        aside = _aside(target)
        target.rename(aside)
        new.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or its file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at_working_directory, exchange = -100, 2
        return bool(library.renameat2(at_working_directory, names[0], at_working_directory, names[1], exchange) == 0)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2
        return bool(library.renamex_np(names[0], names[1], swap) == 0)
    return False


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


def _tidy(target: Path) -> None:
    """Finish what a killed save left: put an old directory back, remove directories of processes that are gone."""
    aside = _aside(target)
    if aside.exists():
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)
    prefix = f".{target.name}.saving-"
    for entry in target.parent.iterdir():
        owner = entry.name.removeprefix(prefix)
        if entry.name.startswith(prefix) and owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(entry, ignore_errors=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False  # this process begins a save, so it is in none
    if os.name != "posix":
        return True  # cannot be asked there without harm; the directory stays until its owner removes it
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
