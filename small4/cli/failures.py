"""What the command line says when something fails, and the exit code that goes with it.

A `Small4Error` is the user's to mend: one message, exit code 2. So are files that the system refuses and extras that
are not installed. All else is a bug of ours: its traceback is kept in a file, since it is long and of use to us only.
"""

import os
import sys
import time
import traceback

from small4.cli.ink import Ink
from small4.errors import Small4Error

MENDABLE, BUG = 2, 1
EXTRAS = {"torch": "local", "safetensors": "local", "gguf": "local", "matplotlib": "train"}


def report(error: Exception, *, debug: bool = False) -> int:
    """Print what happened to standard error; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    ink = Ink(sys.stderr)
    message = mendable(error)
    if message is not None:
        ink.line(f"error: {message}", "error")
        return MENDABLE
    ink.line(f"small4 has a bug: {type(error).__name__}: {error}", "error")
    if not debug:
        ink.line(_keep_traceback(error))
    return BUG


def mendable(error: Exception) -> str | None:
    """What to tell the user about an error that the user can mend; None for a bug."""
    if isinstance(error, Small4Error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"{error.name} is not installed; run: pip install 'small4[{EXTRAS[error.name]}]'"
    return None


def _keep_traceback(error: Exception) -> str:
    from small4.places import state_directory

    try:
        directory = state_directory()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        # An exception can quote a prompt.
        with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as report:
            report.write("".join(traceback.format_exception(error)))
    except OSError:
        return "run `small4 --debug` with the same verb to see where"
    return f"the traceback is in {path}; please report it. `small4 --debug VERB` shows it here"
