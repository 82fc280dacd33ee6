"""Times the engine on the miniature of Mistral Small 4: decoding of 1, 8 and 32 streams, prompts, and depth.

    python -m benchmarks.engine                        ours in bf16, int8 and int4, beside transformers
    python -m benchmarks.engine --weights bf16 --plain

Contenders take turns, so that a neighbour's load falls on all; every figure is a median. The bandwidth of a plain
read of memory is probed before and after.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.model import mini_config, share
from benchmarks.report import print_table, write_results
from small4.engine.config import EngineConfig
from small4.engine.engine import Engine, GenerationRequest
from small4.kernels.ops import backend
from small4.model.quantize import quantize_model
from small4.model.transformer import Transformer

STREAMS = (1, 8, 32)
PROMPTS = (512, 2048)
CONTEXT, STEPS, WARM = 128, 32, 4  # tokens before decoding, timed steps, steps before them
DEEP, DEEP_STEPS = 4096, 12


@dataclass(slots=True)
class Times:
    """Seconds of one contender: decode steps by number of streams, prompts by length, decode steps at depth."""

    decode: dict[int, list[float]] = field(default_factory=dict)
    prompt: dict[int, list[float]] = field(default_factory=dict)
    deep: list[float] = field(default_factory=list)


class Ours:
    """The engine, prefix cache off so that every round computes its prompts."""

    def __init__(self, model: Transformer, is_plain: bool) -> None:
        self.model, self.is_plain = model, is_plain

    def start(self, num_streams: int, num_tokens: int) -> None:
        config = EngineConfig(
            max_running=32, max_step_tokens=2048, has_prefix_cache=False, is_plain=self.is_plain, cache_bytes=2**30
        )
        self.engine = Engine(self.model, config, context_length=8192)
        generator = torch.Generator().manual_seed(num_streams)
        for _ in range(num_streams):
            prompt = torch.randint(20, 32768, (num_tokens,), generator=generator).tolist()
            self.engine.submit(GenerationRequest(prompt=prompt, max_tokens=STEPS + WARM + 40))

    def prefill(self) -> None:
        while any(s.num_output == 0 for s in self.engine.scheduler.running) or self.engine.num_waiting:
            self.engine.step()

    def step(self) -> None:
        self.engine.step()


class Theirs:
    """transformers, all streams in one padded batch of equal lengths."""

    def __init__(self, model: Any, experts: str) -> None:
        self.model, self.experts = model, experts

    def start(self, num_streams: int, num_tokens: int) -> None:
        generator = torch.Generator().manual_seed(num_streams)
        self.next_BT = torch.randint(20, 32768, (num_streams, num_tokens), generator=generator)
        self.cache = DynamicCache()
        self.length = 0

    def prefill(self) -> None:
        self.model.set_experts_implementation("grouped_mm")
        self._feed()
        self.model.set_experts_implementation(self.experts)

    def step(self) -> None:
        self._feed()

    def _feed(self) -> None:
        num_streams, num_tokens = self.next_BT.shape
        positions_BT = torch.arange(self.length, self.length + num_tokens).expand(num_streams, -1)
        self.length += num_tokens
        output = self.model(
            input_ids=self.next_BT,
            position_ids=positions_BT,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.next_BT = output.logits[:, -1:].argmax(-1)


Contender = Ours | Theirs


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the engine on the mini model.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", nargs="+", default=["bf16", "int8", "int4"], choices=["bf16", "int8", "int4"])
    parser.add_argument("--plain", action="store_true", help="also without the kernel library")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    before = bandwidth()
    with torch.inference_mode():
        contenders = build(arguments)
        times = {name: Times() for name in contenders}
        for _ in range(arguments.repeats):
            for name, contender in contenders.items():
                measure(contender, times[name])
    return report(arguments, times, (before, bandwidth()))


def build(arguments: argparse.Namespace) -> dict[str, Contender]:
    """All contenders over one set of weights, N(0, 0.02); norms are 1."""
    state = random_state(arguments.layers)
    contenders: dict[str, Contender] = {}
    for weights in arguments.weights:
        for is_plain in [False, True] if arguments.plain else [False]:
            contenders[f"small4 {weights}{', plain torch' if is_plain else ''}"] = Ours(
                engine_model(arguments.layers, state, weights, is_plain), is_plain
            )
    if not arguments.no_peers:
        contenders["transformers bf16, grouped_mm"] = Theirs(share(mini_config(arguments.layers), state), "grouped_mm")
    return contenders


def random_state(num_layers: int) -> dict[str, Tensor]:
    """Weights of the miniature."""
    with torch.device("meta"):
        model = Transformer(mini_config(num_layers))
    generator, state = torch.Generator().manual_seed(0), {}
    for name, parameter in model.named_parameters():
        tensor = torch.empty(parameter.shape, dtype=torch.bfloat16)
        state[name] = tensor.fill_(1.0) if tensor.ndim == 1 else tensor.normal_(0.0, 0.02, generator=generator)
    return state


def engine_model(num_layers: int, state: dict[str, Tensor], weights: str, is_plain: bool) -> Transformer:
    """The miniature with weights in one format; formats other than bf16 are made from those."""
    with torch.device("meta"):
        model = Transformer(mini_config(num_layers)).to(torch.bfloat16)
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)
    if weights != "bf16":
        quantize_model(model, weights, backend(native=not is_plain))  # type: ignore[arg-type]
    return model


def measure(contender: Contender, times: Times) -> None:
    """One round of everything."""
    for num_streams in STREAMS:
        if isinstance(contender, Theirs) and num_streams > 8:
            continue  # minutes per round
        contender.start(num_streams, CONTEXT)
        contender.prefill()
        times.decode.setdefault(num_streams, []).extend(timed_steps(contender, STEPS))
    for length in PROMPTS:
        contender.start(1, length)
        times.prompt.setdefault(length, []).append(timed(contender.prefill))
    contender.start(1, DEEP)
    contender.prefill()
    times.deep.extend(timed_steps(contender, DEEP_STEPS))


def timed_steps(contender: Contender, count: int) -> list[float]:
    for _ in range(WARM):
        contender.step()
    return [timed(contender.step) for _ in range(count)]


def timed(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def bandwidth() -> float:
    """Bytes per second of reading a matrix of 1 GiB, median of nine."""
    matrix = torch.ones(2**28)
    seconds = [timed(lambda: matrix.sum()) for _ in range(9)]
    return 2**30 / statistics.median(seconds)


def report(arguments: argparse.Namespace, times: dict[str, Times], bandwidths: tuple[float, float]) -> int:
    """Print the table and write the file."""
    rows, results = [], {}
    for name, taken in times.items():
        decode = {n: n / statistics.median(values) for n, values in taken.decode.items()}
        prompt = {n: n / statistics.median(values) for n, values in taken.prompt.items()}
        deep = 1 / statistics.median(taken.deep)
        results[name] = {
            "decode_tokens_per_second": decode,
            "prompt_tokens_per_second": prompt,
            "decode_at_depth_tokens_per_second": deep,
            "depth_over_shallow": deep / decode[1],
            "decode_seconds": taken.decode,
            "prompt_seconds": taken.prompt,
        }
        rows.append(
            [
                name,
                *(f"{decode[n]:.1f}" if n in decode else "-" for n in STREAMS),
                *(f"{prompt[n]:.0f}" for n in PROMPTS),
                f"{deep / decode[1]:.2f}",
            ]
        )
    headers = ["tok/s", *(f"{n} streams" for n in STREAMS), *(f"prompt {n}" for n in PROMPTS), f"at {DEEP}/{CONTEXT}"]
    print_table(headers, rows)
    print(
        f"kernels: {backend().name}; memory read {bandwidths[0] / 1e9:.1f} GB/s before, {bandwidths[1] / 1e9:.1f} after"
    )
    settings = vars(arguments) | {"context": CONTEXT, "deep": DEEP, "kernels": backend().name}
    path = write_results(
        "engine", {"settings": settings, "memory_read_bytes_per_second": bandwidths, "contenders": results}
    )
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
