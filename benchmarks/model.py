"""Our model against transformers on the CPU: python -m benchmarks.model [--layers 12] [--repeats 7] [--compiled]

The model is the miniature of peers/mini.py in bf16, whose weights all contenders share in memory; ours runs as it does
in the engine. Prefill reads 512 tokens and gives the last one's logits; decode continues 128 tokens by 40, one at a
time. Contenders take turns, at every token in decode, so that a noisy machine is equally unfair to all; figures are
medians. The reference runs with fused attention and each of its expert implementations (batched_mm in decode only: over
a prompt it copies gigabytes of experts); `--compiled` adds its static cache under torch.compile, which needs a C++
compiler and minutes.
Exits with 1 below 1.0 times the reference's best prefill or 1.5 times its best decode.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from benchmarks.peers.hugging_face import share
from benchmarks.peers.mini import engine_model, mini_config, random_state
from benchmarks.report import print_table, write_results
from small4.kernels.ops import backend
from small4.model.quantize import fuse_model
from small4.model.transformer import Transformer
from tests.paged import PagedSequence

PREFILL, CONTEXT, STEPS = 512, 128, 40
MIN_PREFILL, MIN_DECODE = 1.0, 1.5
EXPERTS = ("eager", "grouped_mm", "batched_mm")  # transformers' expert implementations
ONLY_DECODE = ("transformers, batched_mm", "transformers, compiled")  # their prompts run as grouped_mm does


class Ours:
    """small4 as its engine runs it: expanded prompts, fused layers and absorbed attention for few tokens."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def start(self, capacity: int) -> None:
        self.paged = PagedSequence(self.model.config, capacity, torch.bfloat16, block_size=32, is_native=True)

    def end_prompt(self) -> None:
        """Nothing to change: the number of tokens chooses the path."""

    def feed(self, tokens_T: Tensor) -> Tensor:
        """Logits behind the last of the tokens."""
        positions_T = torch.arange(self.paged.length, self.paged.length + len(tokens_T))
        hidden_TD = self.model.hidden(tokens_T, positions_T, self.paged.next(len(tokens_T)))
        return self.model.logits(hidden_TD[-1:])[0]


class Theirs:
    """The reference with a cache of its own, asked for the last token's logits only."""

    def __init__(self, model: Any, experts: str, *, is_compiled: bool = False) -> None:
        self.model, self.experts, self.is_compiled = model, experts, is_compiled
        self.step = torch.compile(model.forward, dynamic=False) if is_compiled else model.forward

    def start(self, capacity: int) -> None:
        config = self.model.config
        self.cache = StaticCache(config=config, max_cache_len=capacity) if self.is_compiled else DynamicCache()
        self.length = 0
        self.model.set_experts_implementation("eager" if self.experts == "eager" else "grouped_mm")

    def end_prompt(self) -> None:
        """What follows is single tokens."""
        self.model.set_experts_implementation(self.experts)

    def feed(self, tokens_T: Tensor) -> Tensor:
        """Logits behind the last of the tokens."""
        run = self.step if len(tokens_T) == 1 else self.model.forward
        positions_T = torch.arange(self.length, self.length + len(tokens_T))
        self.length += len(tokens_T)
        output = run(
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[0, -1]
        return logits


Contender = Ours | Theirs


def main() -> int:
    parser = argparse.ArgumentParser(description="Time our model and transformers on the same weights.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7, help="rounds of prefill and of decode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile transformers (minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    contenders = build(arguments.layers, arguments.compiled)
    with torch.inference_mode():
        differences = agreement(contenders)
        prefill = time_prefill(contenders, arguments.repeats)
        decode = time_decode(contenders, arguments.repeats)
    return report(arguments, differences, prefill, decode)


def build(num_layers: int, is_compiled: bool) -> dict[str, Contender]:
    """All contenders over one set of weights, N(0, 0.02); norms are 1."""
    config, state = mini_config(num_layers), random_state(num_layers)
    ours = engine_model(num_layers, state, "bf16", False)
    fuse_model(ours, backend())  # as the engine's runner does
    contenders: dict[str, Contender] = {"small4": Ours(ours)}
    for experts in EXPERTS:
        contenders[f"transformers, {experts}"] = Theirs(share(config, state), experts)
    if is_compiled:
        contenders["transformers, compiled"] = Theirs(share(config, state), "batched_mm", is_compiled=True)
    return contenders


def agreement(contenders: dict[str, Contender]) -> dict[str, float]:
    """Mean difference from our logits behind one prompt and three decoded tokens; also warms everything up."""
    tokens_T = prompt(CONTEXT + 3)
    logits = {}
    for name, contender in contenders.items():
        contender.start(CONTEXT + STEPS)
        contender.feed(tokens_T[:CONTEXT])
        contender.end_prompt()
        logits[name] = torch.stack([contender.feed(token_T) for token_T in tokens_T[CONTEXT:].split(1)]).float()
    return {name: (logits[name] - logits["small4"]).abs().mean().item() for name in contenders}


def time_prefill(contenders: dict[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds per prompt; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    tokens_T = prompt(PREFILL)
    for _ in range(repeats + 1):
        for name, contender in contenders.items():
            if name in ONLY_DECODE:
                continue
            contender.start(PREFILL)
            seconds[name].append(timed(contender.feed, tokens_T))
    return {name: values[1:] for name, values in seconds.items()}


def time_decode(contenders: dict[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds per token, turn by turn; the first four tokens of a round are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    tokens_T = prompt(CONTEXT + STEPS)
    for _ in range(repeats):
        for contender in contenders.values():
            contender.start(CONTEXT + STEPS)
            contender.feed(tokens_T[:CONTEXT])
            contender.end_prompt()
        for index, token_T in enumerate(tokens_T[CONTEXT:].split(1)):
            for name, contender in contenders.items():
                taken = timed(contender.feed, token_T)
                if index >= 4:
                    seconds[name].append(taken)
    return seconds


def prompt(num_tokens: int) -> Tensor:
    return torch.randint(20, 32768, (num_tokens,), generator=torch.Generator().manual_seed(1))


def timed(run: Callable[[Tensor], Tensor], tokens_T: Tensor) -> float:
    begin = time.perf_counter()
    run(tokens_T)
    return time.perf_counter() - begin


def report(
    arguments: argparse.Namespace,
    differences: dict[str, float],
    prefill: dict[str, list[float]],
    decode: dict[str, list[float]],
) -> int:
    """Print the table, write the file, and say whether both measures are met."""
    prefill_rate = {name: PREFILL / statistics.median(values) for name, values in prefill.items() if values}
    decode_rate = {name: 1 / statistics.median(values) for name, values in decode.items()}
    print_table(
        ["contender", "prefill 512 tok/s", "decode tok/s", "mean logit difference"],
        [
            [
                name,
                f"{prefill_rate[name]:.0f}" if name in prefill_rate else "-",
                f"{decode_rate[name]:.1f}",
                f"{differences[name]:.4f}",
            ]
            for name in decode_rate
        ],
    )
    ratios = {kind: best_ratio(rate) for kind, rate in (("prefill", prefill_rate), ("decode", decode_rate))}
    print(f"small4 over the best reference: prefill {ratios['prefill']:.2f}x, decode {ratios['decode']:.2f}x")
    results = {
        "settings": vars(arguments),
        "prefill_tokens_per_second": prefill_rate,
        "decode_tokens_per_second": decode_rate,
        "mean_logit_difference": differences,
        "ratio_to_best_reference": ratios,
        "prefill_seconds": prefill,
        "decode_seconds": decode,
    }
    print(f"written to {write_results('model', results)}")
    return 0 if ratios["prefill"] >= MIN_PREFILL and ratios["decode"] >= MIN_DECODE else 1


def best_ratio(rates: dict[str, float]) -> float:
    return rates["small4"] / max(rate for name, rate in rates.items() if name != "small4")


if __name__ == "__main__":
    sys.exit(main())
