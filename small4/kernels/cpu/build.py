"""The C++ kernels as a shared library: found in the user's cache under the digest of its sources, or built there.

The name of the file holds a digest of every source and flag, so a library of other sources is never found. A build goes
to a directory of its own and is moved into place whole: two processes that build at once do not see each other's parts.
`python -m small4.kernels.cpu.build` builds ahead of first use, which otherwise takes some seconds longer.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread", "-ffp-contract=fast", "-fvisibility=default")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma")
AVX2 = ("-mavx2", "-mfma")
FLAGS_OF = {  # on x86-64; elsewhere these files are empty
    "avx512_bf16.cpp": (*AVX512, "-mavx512bf16"),
    "avx512.cpp": AVX512,
    "avx2.cpp": AVX2,
    "pack_avx512.cpp": AVX512,
    "pack_avx2.cpp": AVX2,
}
UNFUSED = ("-ffp-contract=off",)  # for the packer, which rounds as its definition does
BUILD_SECONDS = 300  # a compiler that takes longer hangs


class BuildError(Exception):
    """There is no library and none can be made; the message says why."""


def find_or_build() -> Path:
    """The library for these sources and this machine."""
    if os.name != "posix":
        raise BuildError("the kernels are written for Linux and macOS")
    directory = user_cache_path("small4") / "kernels"
    library = directory / f"small4-{digest()}.so"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if library.exists():
            refuse_if_shared(library)
        else:
            build(library)
    except OSError as error:
        raise BuildError(f"the cache directory cannot be used: {error}") from error
    return library


def digest() -> str:
    """Over all that decides what the library does."""
    parts = [
        platform.system(),
        platform.machine(),
        *FLAGS,
        *UNFUSED,
        *(flag for flags in FLAGS_OF.values() for flag in flags),
    ]
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def refuse_if_shared(library: Path) -> None:
    """A library that somebody else could have written must not be loaded."""
    found = library.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"{library} is not yours alone to write; remove it")


def build(library: Path) -> None:
    """Compile every source, each with its own instruction set, and link them into `library`."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise BuildError(f"no C++ compiler was found (looked for {', '.join(COMPILERS)})")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as scratch:
        commands = []
        for source in sorted(SOURCES.glob("*.cpp")):
            flags = FLAGS_OF.get(source.name, ()) if is_x86 else ()
            flags += UNFUSED if source.name.startswith("pack_") else ()
            commands.append([compiler, *FLAGS, *flags, "-c", str(source), "-o", f"{scratch}/{source.stem}.o"])
        run_all(commands)
        objects = [command[-1] for command in commands]
        run_all([[compiler, *FLAGS, "-shared", *objects, "-o", f"{scratch}/library.so"]])
        os.chmod(f"{scratch}/library.so", 0o755)
        os.replace(f"{scratch}/library.so", library)


def run_all(commands: list[list[str]]) -> None:
    """Run compilers side by side; the first failure is the error."""
    runs = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    failed = None
    for run in runs:
        try:
            output = run.communicate(timeout=BUILD_SECONDS)[0]
        except subprocess.TimeoutExpired:
            run.kill()
            output = f"took over {BUILD_SECONDS} s\n{run.communicate()[0]}"
        if run.returncode and failed is None:
            failed = output
    if failed is not None:
        raise BuildError(f"the C++ compiler failed:\n{failed.strip()}")


if __name__ == "__main__":
    try:
        print(find_or_build())
    except BuildError as error:
        sys.exit(f"no library, small4 will use torch's operators: {error}")
