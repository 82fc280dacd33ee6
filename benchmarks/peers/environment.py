"""The environment that llama.cpp runs in, apart from the project's own: python -m benchmarks.peers.environment

llama-cpp-python is built from its source distribution for this processor: release mode, OpenMP, no BLAS. That takes ten
to twenty minutes on two cores, once; the result stays in the user's cache under a digest of the lock, the build's
settings, the Python version and the processor. The lock is made by

    uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --exclude-newer "7 days" \
        benchmarks/peers/llama_cpp.in --output-file benchmarks/peers/llama_cpp.txt
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.report import processor_lines

LOCK = Path(__file__).with_name("llama_cpp.txt")
PEER = "llama-cpp-python"
BUILD = "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DGGML_BLAS=OFF -DLLAVA_BUILD=OFF"
JOBS = "2"  # compilers at once


class MissingPeerError(Exception):
    """llama.cpp is not built here."""


def python() -> Path:
    """The interpreter that can import llama_cpp."""
    if not (environment() / "complete").exists():
        raise MissingPeerError("llama.cpp is not built; python -m benchmarks.peers.environment does so, in ten minutes")
    return environment() / "bin" / "python"


def environment() -> Path:
    """Where the environment lies, or will lie."""
    processor = "\n".join(processor_lines("model name", "flags"))
    parts = [LOCK.read_text(encoding="utf-8"), BUILD, sys.version, processor]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return cache() / f"llama-cpp-{digest}"


def cache() -> Path:
    """Where benchmarks keep what is costly to make."""
    path = user_cache_path("small4") / "benchmarks"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def build() -> Path:
    """Make the environment; begins anew where an earlier attempt was cut off."""
    target = environment()
    if (target / "complete").exists():
        return target
    venv.create(target, clear=True, with_pip=True)
    blocks = re.split(r"\n(?=\S)", LOCK.read_text(encoding="utf-8").strip())
    others = [block for block in blocks if not block.startswith(PEER)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(others) + "\n")
        file.flush()
        pip(target, "--only-binary", ":all:", "--requirement", file.name)
    pip(target, "--no-build-isolation", "--no-binary", PEER, "--requirement", str(LOCK))
    (target / "complete").touch()
    return target


def pip(target: Path, *arguments: str) -> None:
    """Install by hash; the build finds its tools in the environment itself."""
    path = os.pathsep.join([str(target / "bin"), os.environ.get("PATH", "")])
    settings = {"CMAKE_ARGS": BUILD, "CMAKE_BUILD_PARALLEL_LEVEL": JOBS, "PATH": path}
    command = [str(target / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "--no-deps", *arguments]
    subprocess.run(command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    print(build())
