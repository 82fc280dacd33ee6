"""The CPU kernels against torch's operators and the memory: python -m benchmarks.kernels [--repeats 9] [--threads 2]

Matrices of the miniature (1024 x 1024, and its experts) rotate through a pool that is larger than the cache, so that
every product reads from memory. Contenders take turns. A row has the time of one product, the weights' bytes over it,
that as a share of what a plain read of memory reaches in the same minute, and operations per second. Figures are
medians.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from benchmarks.report import print_table, write_results
from small4.kernels.ops import Kernels, Weight, backend
from small4.kernels.pages import Pages
from small4.kernels.quantized import Kind, PackedWeight
from small4.kernels.reference import paged_latent_attention

ROWS = COLUMNS = 1024
EXPERTS, EXPERT_WIDTH, PER_TOKEN = 64, 512, 4
POOL_BYTES = 160 * 2**20
KINDS: tuple[Kind | None, ...] = ("int4", "int8", None)
INNER = 24  # products per measurement


@dataclass(frozen=True)
class Case:
    """One thing to time: a call that takes the next weights of its pool each time."""

    name: str
    contender: str
    run: Callable[[], object]
    num_bytes: float  # of weights or cached rows, per call
    num_operations: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the CPU kernels beside torch's operators.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    both = {"small4": backend(), "torch": backend(native=False)}
    print(f"small4: {both['small4'].name}")
    cases = [
        *(*pack_cases(both), *linear_cases(both, arguments.tokens), *expert_cases(both, arguments.tokens)),
        *attention_cases(both),
    ]
    pool = torch.ones(POOL_BYTES // 8, dtype=torch.int64)
    with torch.inference_mode():
        probe = [read_rate(pool) for _ in range(arguments.repeats)]
        seconds = measure(cases, arguments.repeats)
        probe += [read_rate(pool) for _ in range(arguments.repeats)]
    memory = statistics.median(probe)
    print(f"memory read: {memory / 1e9:.1f} GB/s")
    report(arguments, both["small4"].name, cases, seconds, memory)
    return 0


def pack_cases(both: dict[str, Kernels]) -> list[Case]:
    """Packing a matrix; operations are weights."""
    dense = (torch.randn(ROWS, COLUMNS) / 32).to(torch.bfloat16)
    kinds: tuple[Kind, ...] = ("int4", "int8")
    return [
        Case(f"pack {kind}", contender, partial(kernels.pack, dense, kind), dense.nbytes, dense.numel())
        for kind in kinds
        for contender, kernels in both.items()
    ]


def linear_cases(both: dict[str, Kernels], tokens: Sequence[int]) -> list[Case]:
    """Products of a few rows with a matrix."""
    cases = []
    dense = torch.randn(ROWS, COLUMNS) / 32
    for kind in KINDS:
        weights = pool_of(dense, kind)
        for contender, kernels in both.items():
            products = [kernels.linear(weight) for weight in weights]
            cases += [linear_case(f"linear {kind or 'bf16'}", contender, products, weights[0], n) for n in tokens]
    return cases


def linear_case(
    name: str, contender: str, products: Sequence[Callable[[Tensor], Tensor]], weight: Weight, num_tokens: int
) -> Case:
    x_TD, turns = torch.randn(num_tokens, COLUMNS).to(torch.bfloat16), cycle(products)
    return Case(
        f"{name}, {num_tokens} rows",
        contender,
        lambda: next(turns)(x_TD),
        size_of(weight),
        2.0 * num_tokens * ROWS * COLUMNS,
    )


def expert_cases(both: dict[str, Kernels], tokens: Sequence[int]) -> list[Case]:
    """A layer's routed experts, chosen evenly at random."""
    cases = []
    dense13 = torch.randn(1, 2 * EXPERT_WIDTH, COLUMNS).expand(EXPERTS, -1, -1) / 32
    dense2 = torch.randn(1, COLUMNS, EXPERT_WIDTH).expand(EXPERTS, -1, -1) / 32
    for kind in KINDS:
        w13, w2 = stored(dense13, kind), stored(dense2, kind)
        each = (size_of(w13) + size_of(w2)) / EXPERTS
        for contender, kernels in both.items():
            run = kernels.experts(w13, w2)
            cases += [expert_case(f"experts {kind or 'bf16'}", contender, run, each, n) for n in tokens]
    return cases


def expert_case(
    name: str, contender: str, run: Callable[[Tensor, Tensor, Tensor], Tensor], each: float, num_tokens: int
) -> Case:
    generator = torch.Generator().manual_seed(num_tokens)
    x_TD, p_TK = torch.randn(num_tokens, COLUMNS).to(torch.bfloat16), torch.rand(num_tokens, PER_TOKEN)
    choices = [
        torch.stack([torch.randperm(EXPERTS, generator=generator)[:PER_TOKEN] for _ in range(num_tokens)])
        for _ in range(16)
    ]
    active = statistics.mean(len(ids.unique()) for ids in choices)
    turns = cycle(choices)
    p_TK = p_TK.to(torch.bfloat16)
    operations = 6.0 * num_tokens * PER_TOKEN * EXPERT_WIDTH * COLUMNS
    return Case(
        f"{name}, {num_tokens} rows", contender, lambda: run(x_TD, p_TK, next(turns)), each * active, operations
    )


def attention_cases(both: dict[str, Kernels]) -> list[Case]:
    """Decode over pages at the release's latent width, 8 heads; torch's contender is the definition."""
    cases = []
    for num_sequences, length in ((1, 512), (1, 4096), (8, 512), (8, 4096)):
        for name in ("bf16", "fp8"):
            pages = random_pages(num_sequences, length, is_fp8=name == "fp8")
            query = torch.randn(num_sequences, 8, 320).to(torch.bfloat16)
            operations = 2.0 * num_sequences * length * 8 * (320 + 256)
            num_bytes = num_sequences * length * 320.0 * pages.rows_PBC.element_size()
            for contender, run in (
                ("small4", both["small4"].paged_latent_attention),
                ("torch", paged_latent_attention),
            ):
                call = partial(run, query, pages, 256, 0.1)
                cases.append(
                    Case(f"attention {num_sequences} x {length} {name}", contender, call, num_bytes, operations)
                )
    return cases


def random_pages(num_sequences: int, length: int, *, is_fp8: bool) -> Pages:
    blocks = length // 64
    shape = (num_sequences * blocks, 64)
    pages = Pages(
        rows_PBC=torch.zeros(*shape, 320, dtype=torch.float8_e4m3fn if is_fp8 else torch.bfloat16),
        scales_PB=torch.zeros(shape, dtype=torch.bfloat16) if is_fp8 else None,
        tables=torch.randperm(num_sequences * blocks).view(num_sequences, blocks).to(torch.int32),
        query_starts=torch.arange(num_sequences + 1, dtype=torch.int32),
        context_lengths=torch.full((num_sequences,), length, dtype=torch.int32),
        slots_T=torch.arange(num_sequences * length),
    )
    pages.store(torch.randn(num_sequences * length, 320).to(torch.bfloat16))
    return pages


def pool_of(dense: Tensor, kind: Kind | None) -> list[Weight]:
    """Copies of one matrix, together larger than the cache."""
    first = stored(dense, kind)
    copies = int(POOL_BYTES // size_of(first)) + 1
    if isinstance(first, Tensor):
        return [first.clone() for _ in range(copies)]
    return [PackedWeight(first.kind, first.rows, first.columns, first.strips.clone()) for _ in range(copies)]


def stored(dense: Tensor, kind: Kind | None) -> Weight:
    return dense.to(torch.bfloat16).contiguous() if kind is None else backend().pack(dense, kind)


def size_of(weight: Weight) -> float:
    return float(weight.nbytes if isinstance(weight, Tensor) else weight.size_bytes)


def read_rate(pool: Tensor) -> float:
    """Bytes per second of torch's sum over memory, which does little else than read."""
    begin = time.perf_counter()
    pool.sum()
    return pool.nbytes / (time.perf_counter() - begin)


def measure(cases: Sequence[Case], repeats: int) -> list[list[float]]:
    """Seconds per call, all cases in turn; the first round is not counted."""
    seconds: list[list[float]] = [[] for _ in cases]
    for round_number in range(repeats + 1):
        for case, values in zip(cases, seconds, strict=True):
            calls = 4 if case.num_operations >= 2e8 or case.name.startswith("pack") else INNER
            case.run()
            time.sleep(0.005)  # the workers of the contender before stop spinning
            begin = time.perf_counter()
            for _ in range(calls):
                case.run()
            if round_number:
                values.append((time.perf_counter() - begin) / calls)
    return seconds


def report(
    arguments: argparse.Namespace, name: str, cases: Sequence[Case], seconds: Sequence[list[float]], memory: float
) -> None:
    rows, results = [], []
    for case, values in zip(cases, seconds, strict=True):
        median = statistics.median(values)
        rate = case.num_bytes / median
        rows.append(
            [
                case.name,
                case.contender,
                f"{median * 1e6:.0f}",
                f"{rate / 1e9:.1f}",
                f"{rate / memory:.0%}",
                f"{case.num_operations / median / 1e9:.0f}",
            ]
        )
        results.append({"case": case.name, "contender": case.contender, "seconds": values, "bytes": case.num_bytes})
    print_table(["case", "contender", "us", "GB/s", "of memory", "Gop/s"], rows)
    path = write_results(
        "kernels", {"settings": vars(arguments), "backend": name, "memory_bytes_per_second": memory, "cases": results}
    )
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
