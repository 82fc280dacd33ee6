"""Environments for SDKs, each made from its hashed lock when first asked for and kept in the user's cache."""

import hashlib
import re
import shutil
import subprocess
import venv
from pathlib import Path

from platformdirs import user_cache_path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
NUM_DIGITS = 12  # of the lock's digest, in a directory's name


def python_of(name: str) -> Path:
    """The interpreter of the environment of `requirements/NAME.txt`, which is made if it is not there."""
    lock = REQUIREMENTS / f"{name}.txt"
    place = _place_of(name, lock)
    python, done = place / "bin" / "python", place / "installed"
    if not done.exists():
        venv.EnvBuilder(clear=True, with_pip=True).create(place)
        install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
        subprocess.run(install, check=True)
        done.touch()
    return python


def node_modules_of(name: str) -> Path:
    """The packages of `requirements/NAME/package-lock.json`, which are installed if they are not there."""
    facts = REQUIREMENTS / name
    place = _place_of(name, facts / "package-lock.json")
    done = place / "installed"
    if not done.exists():
        shutil.copytree(facts, place, dirs_exist_ok=True)
        subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=place, check=True)
        done.touch()
    return place / "node_modules"


def _place_of(name: str, lock: Path) -> Path:
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:NUM_DIGITS]
    return user_cache_path("small4", appauthor=False) / "environments" / f"{name}-{digest}"


def versions_of(name: str) -> dict[str, str]:
    """The packages that `requirements/NAME.in` asks for, with the versions that the lock gives them."""
    asked = re.findall(r"^([\w-]+)", (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8"), re.MULTILINE)
    locked = dict(
        re.findall(r"^([\w-]+)==(\S+)", (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    return {package: locked[package] for package in asked}
