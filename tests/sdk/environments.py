"""Environments for SDKs, each made from its hashed lock when first asked for and kept in the user's cache."""

import hashlib
import re
import subprocess
import venv
from pathlib import Path

from platformdirs import user_cache_path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
NUM_DIGITS = 12  # of the lock's digest, in a directory's name


def python_of(name: str) -> Path:
    """The interpreter of the environment of `requirements/NAME.txt`, which is made if it is not there."""
    lock = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:NUM_DIGITS]
    place = user_cache_path("small4", appauthor=False) / "environments" / f"{name}-{digest}"
    python, done = place / "bin" / "python", place / "installed"
    if not done.exists():
        venv.EnvBuilder(clear=True, with_pip=True).create(place)
        install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
        subprocess.run(install, check=True)
        done.touch()
    return python


def versions_of(name: str) -> dict[str, str]:
    """The packages that `requirements/NAME.in` asks for, with the versions that the lock gives them."""
    asked = re.findall(r"^([\w-]+)", (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8"), re.MULTILINE)
    locked = dict(
        re.findall(r"^([\w-]+)==(\S+)", (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    return {package: locked[package] for package in asked}
