"""Makes `.venv` what the lock says, and does nothing where it already is.

    python3 tools/environment.py run    what `make run` needs
    python3 tools/environment.py dev    that, and the tools that `make test` and `make check` need

The order: every package but torch from the hashed lock, wheels only; then torch, whose own dependencies the lock
holds; then small4 itself, in place, and its kernel library. Stamps inside `.venv` hold digests of what went in; a
changed lock starts afresh.
"""

import hashlib
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TORCH = ROOT / "requirements" / "torch.txt"
MIN_PYTHON = (3, 11)


def main(kind: str) -> None:
    """Bring `.venv` up to the lock named `kind`, "run" or "dev"; "dev" holds all of "run"."""
    if sys.version_info < MIN_PYTHON:
        sys.exit(f"small4 needs Python 3.11 or newer, this is {sys.version.split()[0]}: try make PYTHON=python3.12")
    if not (is_fresh("dev") or is_fresh(kind)):
        install_lock(kind)
    if not is_fresh("project"):
        pip("small4, in place", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        build_kernels()
        stamp("project")


def install_lock(kind: str) -> None:
    """Install the lock `kind` and torch, over a fresh "run" environment or into an empty one."""
    if not is_fresh("run"):
        say(f"new environment in {VENV.relative_to(ROOT)} (Python {sys.version.split()[0]})")
        try:
            venv.create(VENV, clear=True, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit("environment: this Python cannot make an environment with pip; install its venv package")
    lock = lock_file(kind)
    packages = sum("==" in line for line in lock.read_text().splitlines())
    pip(
        f"up to {packages} packages from requirements/{lock.name}, by hash",
        *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(lock)),
    )
    pip(TORCH.read_text().strip(), "--only-binary", ":all:", "--requirement", str(TORCH))
    stamp(kind)


def pip(what: str, *arguments: str) -> None:
    """Run pip's install inside `.venv`; a failure ends the program with pip's own message above ours."""
    say(f"installing {what}")
    start = time.monotonic()
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *quiet, *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"environment: could not install {what}; pip's message is above. Is the package registry in reach?")
    say(f"done in {time.monotonic() - start:.0f} s")


def build_kernels() -> None:
    """Compile the kernel library now rather than before the first answer; without a compiler torch's operators run."""
    say("building the kernel library")
    start = time.monotonic()
    run = subprocess.run(
        [str(PYTHON), "-m", "small4.kernels.cpu.build"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    say(f"done in {time.monotonic() - start:.0f} s" if run.returncode == 0 else run.stderr.strip())


def lock_file(kind: str) -> Path:
    """The hashed lock of that name."""
    return ROOT / "requirements" / f"{kind}.txt"


def digest(kind: str) -> str:
    """SHA-256 over all that decides what an installation of `kind` ("run", "dev" or "project") holds."""
    files = [ROOT / "pyproject.toml"] if kind == "project" else [lock_file(kind), TORCH]
    parts = [str(ROOT), str(sys.version_info[:2]), *(file.read_text() for file in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_fresh(kind: str) -> bool:
    """Whether `.venv` already holds `kind` as the files say now."""
    stamp_file = VENV / f"small4-{kind}.sha256"
    return stamp_file.exists() and stamp_file.read_text() == digest(kind)


def stamp(kind: str) -> None:
    """Note that `kind` is installed; written last, so that a broken installation is begun anew."""
    (VENV / f"small4-{kind}.sha256").write_text(digest(kind))


def say(text: str) -> None:
    """One line of progress."""
    print(f"environment: {text}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] not in (["run"], ["dev"]):
        sys.exit(__doc__)
    main(sys.argv[1])
