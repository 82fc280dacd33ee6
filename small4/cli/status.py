"""`small4` without a verb: what is ready on this machine in six lines, the last one the next step.

Nothing heavy is loaded for it: torch is looked up in the installed packages, not imported.
"""

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from small4.cli.ink import Ink
from small4.cli.readable import bytes_text
from small4.errors import CheckpointNotFoundError
from small4.hub.names import nano_directory

OFFICIAL_BYTES = 120_970_000_000  # the FP8 release: what a pull of small4 brings


@dataclass(frozen=True, slots=True)
class Status:
    """What this machine has for small4."""

    version: str
    python: str
    machine: str
    cpu_cores: int
    memory_bytes: int | None
    nano_path: str | None
    nano_bytes: int
    small4_path: str | None
    small4_bytes: int
    torch: str | None
    cache_path: str
    cache_models: int
    cache_free_bytes: int | None
    next: str


def print_status(*, as_json: bool) -> None:
    """Print the status to standard output."""
    status = look_around()
    if as_json:
        print(json.dumps(asdict(status)))
        return
    ink = Ink(sys.stdout)
    for name, text in lines(status):
        ink.write(f"{name:<8}", "bold")
        ink.line(text)


def look_around() -> Status:
    """Gather the status."""
    from huggingface_hub import constants

    from small4.hub.cache import list_models

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    models = list_models()
    official = next((model for model in models if model.name.startswith("small4") and model.is_complete), None)
    nano, nano_bytes = _nano()
    torch = _version("torch")
    return Status(
        version=own_version(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        cpu_cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        nano_path=nano,
        nano_bytes=nano_bytes,
        small4_path=None if official is None else str(official.path),
        small4_bytes=0 if official is None else official.bytes,
        torch=torch,
        cache_path=str(cache),
        cache_models=len(models),
        cache_free_bytes=_free_bytes(cache),
        next=_next_step(torch, nano),
    )


def lines(status: Status) -> list[tuple[str, str]]:
    """The six lines, each with its name."""
    memory = "" if status.memory_bytes is None else f", {bytes_text(status.memory_bytes)} of memory"
    free = "" if status.cache_free_bytes is None else f", {bytes_text(status.cache_free_bytes)} free on its disk"
    return [
        (
            "small4",
            f"{status.version}, Python {status.python}, {status.machine}, {status.cpu_cores} CPU cores{memory}",
        ),
        ("nano", f"ready, {bytes_text(status.nano_bytes)}" if status.nano_path else "not part of this installation"),
        (
            "model",
            f"Mistral Small 4, {bytes_text(status.small4_bytes)}, {status.small4_path}"
            if status.small4_path
            else f"Mistral Small 4 is not on this disk; small4 pull fetches it ({bytes_text(OFFICIAL_BYTES)})",
        ),
        ("torch", status.torch or "missing: nothing can run without it"),
        ("cache", f"{status.cache_path}, {status.cache_models} of our models in it{free}"),
        ("next", status.next),
    ]


def _nano() -> tuple[str | None, int]:
    try:
        directory = nano_directory()
    except CheckpointNotFoundError:
        return None, 0
    return str(directory), sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _next_step(torch: str | None, nano: str | None) -> str:
    if torch is None:
        return "pip install 'small4[local]'"
    return 'small4 run nano "17+48+36", or: small4 chat' if nano else "small4 pull"


def own_version() -> str:
    """The installed version; a source tree that was not installed says so."""
    return _version("small4") or "(not installed: running from source)"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return None


def _free_bytes(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.is_dir())).free
    except (OSError, StopIteration):
        return None
