"""The issue's table of speeds: for every row what is compared, the must and the goal, and whether they are met."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.peers.rounds import CONTEXT, DEEP, Case, Times
from small4.engine.config import CacheFormat, EngineConfig
from small4.engine.kv_cache import plan_cache
from small4.model.config import ModelConfig

OURS = {kind: f"small4 {kind}" for kind in ("bf16", "int8", "int4")}
PLAIN = "small4 int4, stock torch"
LLAMA = {kind: f"llama.cpp {kind}" for kind in ("BF16", "Q8_0", "Q4_0", "Q4_K_M")}
GROUPED = "transformers bf16, grouped_mm"
COMPILED = "transformers bf16, compiled"

INT4, BF16 = (OURS["int4"],), (OURS["bf16"],)
LLAMA_4, LLAMA_16 = (LLAMA["Q4_0"], LLAMA["Q4_K_M"]), (LLAMA["BF16"],)
HUGGING_FACE = (GROUPED, COMPILED)
ALL_OURS, ALL_PEERS = tuple(OURS.values()), (*LLAMA.values(), *HUGGING_FACE)

ONE, EIGHT, THIRTY_TWO = (("decode", streams, CONTEXT) for streams in (1, 8, 32))
AT_DEPTH = ("decode", 1, DEEP)
SHORT_PROMPT, LONG_PROMPT = ("prompt", 1, 512), ("prompt", 1, 2048)


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: the fastest of `ours` over the fastest of `peers`. Without a must it is for information."""

    what: str
    case: Case
    ours: Sequence[str]
    peers: Sequence[str]
    must: float | None = None
    goal: float | None = None


ROWS = (
    Row("decode, 1 stream, 4-bit", ONE, INT4, LLAMA_4, 1.0, 1.5),
    Row("decode, 1 stream, BF16", ONE, BF16, LLAMA_16, 0.9, 1.1),
    Row("decode, 1 stream, 8-bit", ONE, (OURS["int8"],), (LLAMA["Q8_0"],)),
    Row("decode, 8 streams, 4-bit", EIGHT, INT4, LLAMA_4, 1.2, 1.8),
    Row("decode, 8 streams, BF16", EIGHT, BF16, LLAMA_16),
    Row("decode, 32 streams, 4-bit", THIRTY_TWO, INT4, LLAMA_4, 1.3, 2.0),
    Row("decode, 32 streams, BF16", THIRTY_TWO, BF16, LLAMA_16),
    Row("prompt of 512, any weights", SHORT_PROMPT, ALL_OURS, ALL_PEERS, 1.3, 1.8),
    Row("prompt of 2048, any weights", LONG_PROMPT, ALL_OURS, ALL_PEERS, 1.3, 1.8),
    Row("prompt of 512, BF16", SHORT_PROMPT, BF16, (*LLAMA_16, *HUGGING_FACE)),
    Row("prompt of 2048, BF16", LONG_PROMPT, BF16, (*LLAMA_16, *HUGGING_FACE)),
    Row("decode, 1 stream, over transformers", ONE, INT4, HUGGING_FACE, 5.0, 7.0),
    Row("decode, 8 streams, over transformers", EIGHT, INT4, HUGGING_FACE, 6.0, 11.0),
    Row("decode, 1 stream, BF16, over transformers", ONE, BF16, HUGGING_FACE),
    Row("decode, 8 streams, BF16, over transformers", EIGHT, BF16, HUGGING_FACE),
    Row("decode, 1 stream, 4-bit, stock torch", ONE, (PLAIN,), LLAMA_4, 0.5, 0.8),
)
DEPTH_BOUNDS = {OURS["int4"]: (0.5, 0.65), OURS["bf16"]: (0.7, 0.85)}  # must, goal


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table, filled in. `low` and `high` are the ratio of single rounds."""

    what: str
    ours: str
    peer: str
    ratio: float
    low: float
    high: float
    must: float | None
    goal: float | None

    @property
    def outcome(self) -> str:
        if self.must is None or self.goal is None:
            return ""
        return "goal met" if self.ratio >= self.goal else "must met" if self.ratio >= self.must else "MISSED"

    def cells(self) -> list[str]:
        bounds = ["" if bound is None else f"{bound:g}" for bound in (self.must, self.goal)]
        return [self.what, self.ours, self.peer, f"{self.ratio:.2f}", f"{self.low:.2f}-{self.high:.2f}", *bounds,
                self.outcome]  # fmt: skip


def verdicts(times: Times) -> list[Verdict]:
    """Every row whose contenders took part."""
    speeds = [verdict for row in ROWS if (verdict := compare(row, times)) is not None]
    depths = [depth_of(name, times) for name, cases in times.items() if cases.get(AT_DEPTH) and cases.get(ONE)]
    return [*speeds, *depths, cache_row("model"), cache_row("fp8")]


def compare(row: Row, times: Times) -> Verdict | None:
    """One row; None where nobody of one side was timed at it."""
    ours, peers = ([name for name in names if times.get(name, {}).get(row.case)] for names in (row.ours, row.peers))
    if not ours or not peers:
        return None
    best = [max(names, key=lambda name: rate(times, name, row.case)) for names in (ours, peers)]
    rates = [rate(times, name, row.case) for name in best]
    rounds = ratios(times[best[1]][row.case], times[best[0]][row.case])
    cells = [f"{name}: {figure:.1f}" for name, figure in zip(best, rates, strict=True)]
    return Verdict(row.what, *cells, rates[0] / rates[1], min(rounds), max(rounds), row.must, row.goal)


def depth_of(name: str, times: Times) -> Verdict:
    """Decoding at depth over decoding behind a short context, of one contender."""
    deep, shallow = rate(times, name, AT_DEPTH), rate(times, name, ONE)
    rounds = ratios(times[name][ONE], times[name][AT_DEPTH])
    return Verdict(
        f"decode at {DEEP} over decode at {CONTEXT}",
        f"{name}: {deep:.1f}",
        f"{shallow:.1f}",
        deep / shallow,
        min(rounds),
        max(rounds),
        *DEPTH_BOUNDS.get(name, (None, None)),
    )


def cache_row(cache_format: CacheFormat) -> Verdict:
    """Expanded keys and values of the release, in bf16, over what a token takes in our cache: computed, not timed."""
    release = ModelConfig()
    expanded = release.n_layers * release.n_heads * (release.head_dim + release.v_head_dim) * 2
    config = EngineConfig(cache_bytes=2**30, cache_format=cache_format)
    taken = plan_cache(release, config, torch.bfloat16, 2**31, 2**20).token_bytes
    ratio = expanded / taken
    name = "bf16" if cache_format == "model" else cache_format
    return Verdict(
        "cache bytes per token of the release",
        f"small4 {name}: {taken:,}",
        f"expanded: {expanded:,}",
        ratio,
        ratio,
        ratio,
        25.6,
        51.0,
    )


def rate(times: Times, name: str, case: Case) -> float:
    """Tokens per second, by the median over all rounds."""
    kind, streams, length = case
    return (length if kind == "prompt" else streams) / median_seconds(times, name, case)


def median_seconds(times: Times, name: str, case: Case) -> float:
    return statistics.median(seconds for of_round in times[name][case] for seconds in of_round)


def ratios(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> list[float]:
    """Median over median, round by round."""
    return [statistics.median(a) / statistics.median(b) for a, b in zip(above, below, strict=True)]
