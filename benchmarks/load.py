"""How long a 2 GB checkpoint takes to load, against reading its bytes, and how much memory that takes.

    python benchmarks/load.py

Makes a random bfloat16 checkpoint in Hugging Face form. Then fresh processes, several times: read the file through one
buffer, and load the model and touch every page of every weight, so that nothing is left for later. A first load also
reads the file for its digest, which later loads remember. Warm means that the file lies in the system cache, cold that
it was dropped from it just before. CPU seconds are given beside the time that passed, because on a busy machine only
they can be compared. Writes benchmarks/results/load.json.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from small4.checkpoint.blank import blank_model
from small4.checkpoint.digests import KnownDigests
from small4.checkpoint.load import build_model, compare_digests, open_checkpoint
from small4.checkpoint.save import save_model
from small4.model.config import ModelConfig, MoeConfig
from small4.model.transformer import Transformer

CONFIG = ModelConfig(
    dim=1024, n_layers=10, n_heads=16, q_lora_rank=256, kv_lora_rank=128, hidden_dim=2048, vocab_size=32768,
    vision=None, moe=MoeConfig(num_experts=32, num_experts_per_tok=4, expert_hidden_dim=928),
)  # fmt: skip
TIME_LIMIT = 1.25  # of the time of reading
MEMORY_LIMIT = 1.15  # of the file's size, and
MEMORY_ALLOWANCE = 400e6  # bytes for the interpreter and torch
BUFFER_BYTES = 16 * 1024 * 1024
CASES = ("load", "first load", "unchecked load", "load official")  # the last has experts apart, to be copied together
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Make the checkpoints, run every case in its own process, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where the 4 GB of checkpoints are made (default: temporary)")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments.case, arguments.directory)))
        return
    directory = Path(tempfile.mkdtemp(prefix="small4-load-", dir=arguments.directory))
    try:
        model = random_model()
        save_model(model, directory / "hf", format="hf-bf16")
        save_model(model, directory / "native", format="native-bf16")
        del model
        result = measure(directory, arguments.repeats)
    finally:
        shutil.rmtree(directory)
    print_table(result)
    target = ROOT / "benchmarks" / "results" / "load.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def random_model() -> Transformer:
    """Weights from one stretch of random numbers, used again and again: a disk cannot tell, and it is quickly made."""
    model = blank_model(CONFIG)
    numbers = torch.randn(4_000_003).bfloat16()
    for name, parameter in model.named_parameters():
        module, _, attribute = name.rpartition(".")
        size = parameter.numel()
        values = numbers[:size] if size <= numbers.numel() else numbers.repeat(-(-size // numbers.numel()))[:size]
        setattr(model.get_submodule(module), attribute, nn.Parameter(values.view(parameter.shape)))
    if not isinstance(model, Transformer):
        raise TypeError("the benchmark's config is that of a model")
    return model


def measure(directory: Path, repeats: int) -> dict[str, Any]:
    """Every case `repeats` times, one after the other, so that a busy machine troubles all alike."""
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(repeats):
        for case, seen in runs.items():
            command = [sys.executable, __file__, "--case", case, "--directory", str(directory)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=child_environment())
            seen.append(json.loads(output.stdout))
    cases = {
        case: {key: round(statistics.median(run[key] for run in seen), 3) for key in seen[0]}
        | {"all_warm_seconds": [round(run["warm_seconds"], 3) for run in seen]}
        for case, seen in runs.items()
    }
    size, plain = weight_file("load", directory).stat().st_size, cases["load"]
    return {
        "benchmark": "load",
        "file_bytes": size,
        "cases": cases,
        "ratio": {
            kind: round(plain[f"{kind}_seconds"] / plain[f"read_{kind}_seconds"], 3)
            for kind in ("warm", "warm_cpu", "cold")
        },
        "ratio_limit": TIME_LIMIT,
        "peak_bytes": plain["peak_bytes"],
        "peak_limit_bytes": int(MEMORY_LIMIT * size + MEMORY_ALLOWANCE),
        **environment(),
    }


def run_case(case: str, directory: Path) -> dict[str, float]:
    """Reading and loading one file in one process; imports are not counted, memory is that of the whole process."""
    file = weight_file(case, directory)
    known = None if case == "first load" else KnownDigests(directory / "digests")

    def load() -> None:
        checkpoint = open_checkpoint(file.parent)
        if case != "unchecked load":
            compare_digests(checkpoint, known)
        touch(build_model(checkpoint, dtype=torch.bfloat16))

    compare_digests(open_checkpoint(file.parent), known)  # so that its digest is known
    read(file)
    figures: dict[str, float] = {}
    for name, action in (("read_", lambda: read(file)), ("", load)):
        figures[f"{name}warm_seconds"], figures[f"{name}warm_cpu_seconds"] = timed(action)
        drop_from_cache(file)
        figures[f"{name}cold_seconds"], _ = timed(action)
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    return figures


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Seconds that passed, and seconds of processor time."""
    started, started_cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - started_cpu


def weight_file(case: str, directory: Path) -> Path:
    official = case == "load official"
    return directory / ("native/consolidated.safetensors" if official else "hf/model.safetensors")


def read(file: Path) -> None:
    """All bytes through one buffer, which is the fastest way to have seen them."""
    buffer = bytearray(BUFFER_BYTES)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def touch(model: nn.Module) -> None:
    """Read a byte of every page."""
    for parameter in model.parameters():
        parameter.detach().view(-1).view(torch.uint8)[::4096].sum()


def drop_from_cache(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def environment() -> dict[str, Any]:
    """Machine, versions and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "machine": {"system": platform.system(), "processor": processor(), "cores": os.cpu_count()},
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_table(result: dict[str, Any]) -> None:
    print(f"checkpoint of {result['file_bytes'] / 1e9:.2f} GB, bfloat16; load average {result['load_average']}")
    print(f"{'median seconds':20}{'read':>8}{'load':>8}{'read cpu':>10}{'load cpu':>10}{'peak GB':>9}  (warm)")
    for name, case in result["cases"].items():
        columns = [
            case[key] for key in ("read_warm_seconds", "warm_seconds", "read_warm_cpu_seconds", "warm_cpu_seconds")
        ]
        read_s, load_s, read_cpu, load_cpu = columns
        print(
            f"{name:20}{read_s:>8.3f}{load_s:>8.3f}{read_cpu:>10.3f}{load_cpu:>10.3f}{case['peak_bytes'] / 1e9:>9.2f}"
        )
    cold = result["cases"]["load"]
    print(f"cold: read {cold['read_cold_seconds']:.3f}, load {cold['cold_seconds']:.3f}")
    for kind, ratio in result["ratio"].items():
        print(f"load / read, {kind}: {ratio:.2f} (limit {TIME_LIMIT})")
    print(f"peak: {result['peak_bytes'] / 1e9:.2f} GB (limit {result['peak_limit_bytes'] / 1e9:.2f})")


if __name__ == "__main__":
    main()
