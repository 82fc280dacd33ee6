"""How far our logits are from the reference's, on random configs: python -m benchmarks.parity [--configs 24]

One line per config and type. `definition` is the expanded form with every fast path replaced by its definition in
kernels/reference.py; `0` means equal to the last bit. The other columns take the paths that generation takes:
`prefill` of a whole prompt, `long prompt` of 800 tokens, where bf16 takes the fused attention, and `decode` through the
cache with old tokens expanded or absorbed. Each is the worst over positions from 0, 8184, 81912, 262096 and 1048528 on,
the long prompt from 7800 on. `absorbed prompt` is never chosen above 16 queries. How far the reference's two attention
back ends are from each other, and the reference from a float64 run, shows what rounding alone does. Exits with 1 where
a gate is broken.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch

from benchmarks.report import print_table, write_results
from small4.kernels.reference import causal_attention, routed_experts
from small4.model.attention import FullAttention
from tests.model.hugging_face import LONG_STARTS, Case, Pair, build_pair, draw_case, draw_prompt
from tests.model.parity_cases import (
    Row,
    broken_gates,
    compare,
    compare_decode,
    compare_prefill,
    reference_logits,
)

STARTS = (0, *LONG_STARTS)
COLUMNS = [
    "definition",
    "prefill",
    "long prompt",
    "decode expanded",
    "decode absorbed",
    "absorbed prompt",
    "reference to itself",
    "reference to float64",
]
HEADERS = ["config", "type", *COLUMNS, "top-1", "gates"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare logits with the reference on random configs.")
    parser.add_argument("--configs", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, results = [], []
    for seed in range(arguments.configs):
        case = draw_case(seed)
        for dtype in (torch.float32, torch.bfloat16):
            result = measure(case, dtype)
            results.append(result)
            table.append(line(result))
            print(f"\r{len(results)} of {2 * arguments.configs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table += [worst(results, name) for name in ("float32", "bfloat16")]
    print_table(HEADERS, table)
    print(f"written to {write_results('parity', {'results': results})}")
    return 1 if any(result["broken"] for result in results) else 0


def measure(case: Case, dtype: torch.dtype) -> dict:
    """All comparisons of one config in one type."""
    pair = build_pair(case.config, case.seed, dtype)
    with definitions_only():
        definition = [row for row in compare_prefill(case, pair, STARTS) if row.form == "expanded"]
    long = [row for row in compare_prefill(case, pair, [7800], num_tokens=800) if row.form == "expanded"]
    rows = [*compare_prefill(case, pair, STARTS), *compare_decode(case, pair, [0, -8, *LONG_STARTS[1:]])]
    return {
        "seed": case.seed,
        "config": describe(case),
        "dtype": str(dtype).removeprefix("torch."),
        "worst": {
            "definition": worst_of(definition),
            "prefill": worst_of(pick(rows, "prefill", "expanded")),
            "long prompt": worst_of(long),
            "decode expanded": worst_of(pick(rows, "decode", "expanded")),
            "decode absorbed": worst_of(pick(rows, "decode", "absorbed")),
            "absorbed prompt": worst_of(pick(rows, "prefill", "absorbed")),
            "reference to itself": {"max": max(row.reference_apart for row in rows)},
            "reference to float64": reference_error(case, pair),
        },
        "top1": min(row.difference.top1 for row in pick(rows, "prefill", "expanded")),
        "broken": broken_gates(rows, dtype) + broken_gates(long, dtype),
    }


def pick(rows: Sequence[Row], what: str, form: str) -> list[Row]:
    return [row for row in rows if (row.what, row.form) == (what, form)]


def worst_of(rows: Sequence[Row]) -> dict[str, float]:
    return {
        "max": max(row.difference.max for row in rows),
        "mean": max(row.difference.mean for row in rows),
        "median_kl": max(row.difference.median_kl for row in rows),
    }


@torch.inference_mode()
def reference_error(case: Case, pair: Pair) -> dict[str, float]:
    """Distance of the reference from our definition run in float64 with the same weights."""
    exact = copy.deepcopy(pair.ours).double()
    tokens_T, images = draw_prompt(case, 48)
    differences = []
    with definitions_only():
        for start in STARTS:
            positions_T = torch.arange(start, start + len(tokens_T))
            attention = FullAttention([len(tokens_T)])
            # Positions are rotated by cosines of float32 angles, in either type, so these agree.
            exact_TW = exact(tokens_T, positions_T, attention, images)
            differences.append(compare(reference_logits(pair, tokens_T, positions_T, images).double(), exact_TW))
    return {"max": max(d.max for d in differences), "mean": max(d.mean for d in differences)}


@contextmanager
def definitions_only() -> Iterator[None]:
    """Every fast path replaced by the operation's definition."""
    with (
        patch("small4.model.moe.sorted_experts", routed_experts),
        patch("small4.model.moe.few_experts", routed_experts),
        patch("small4.model.attention.fused_causal_attention", causal_attention),
    ):
        yield


def describe(case: Case) -> str:
    """A config in few letters."""
    config, moe = case.config, case.config.moe
    assert moe is not None
    assert config.yarn is not None
    images = "+".join(f"{width}x{height}px" for height, width in case.image_sizes)
    return (
        f"{case.seed}: {config.n_layers} layers, {config.n_heads} heads, width {config.dim}, "
        f"ranks {config.q_lora_rank}/{config.kv_lora_rank}, "
        f"dims {config.qk_nope_head_dim}+{config.qk_rope_head_dim}/{config.v_head_dim}, "
        f"experts {moe.num_experts_per_tok} of {moe.num_experts}, vocabulary {config.vocab_size}"
        + (", scale folded" if config.yarn.apply_scale else "")
        + (f", {images}" if images else "")
    )


def line(result: dict) -> list[str]:
    cells = [figure(result["worst"][column]) for column in COLUMNS]
    gates = "broken" if result["broken"] else "kept"
    return [result["config"], result["dtype"], *cells, f"{result['top1']:.3f}", gates]


def worst(results: Sequence[dict], dtype: str) -> list[str]:
    """The last lines: the worst of every column."""
    mine = [result for result in results if result["dtype"] == dtype]
    cells = [
        figure(
            {
                key: max(result["worst"][column][key] for result in mine)
                for key in ("max", "mean")
                if key in mine[0]["worst"][column]
            }
        )
        for column in COLUMNS
    ]
    gates = "broken" if any(result["broken"] for result in mine) else "kept"
    return [f"worst of {len(mine)}", dtype, *cells, f"{min(result['top1'] for result in mine):.3f}", gates]


def figure(difference: dict[str, float]) -> str:
    """Largest difference, and the mean one where it was taken."""
    if difference["max"] == 0:
        return "0"
    return " / ".join(f"{difference[key]:.1e}" for key in ("max", "mean") if key in difference)


if __name__ == "__main__":
    sys.exit(main())
