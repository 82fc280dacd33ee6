"""Times the engine beside llama.cpp and transformers on one miniature of Mistral Small 4, and judges the issue's table.

    python -m benchmarks.peers.environment         once: builds llama.cpp, ten to twenty minutes
    python -m benchmarks.engine --prepare          once: writes the files and compiles, to shorten the next
    python -m benchmarks.engine                    all rows, at most twelve minutes
    python -m benchmarks.engine --layers 2 --rounds 1 --leave-out transformers

All run the same random weights on the same threads in the same minutes, taking turns (peers/rounds.py); figures are
medians over all rounds. llama.cpp must first compute what we compute: the run ends where its logits for the BF16 file
are further from ours than rounding explains. A step of ours is the whole engine's, sampling included; the peers' are
the forward pass alone, and for transformers the best token too. Floors: peers/floor.py. Memory is probed before and
after. The exit code is 1 where a must is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from benchmarks.peers.divergence import divergence, engine_logits
from benchmarks.peers.floor import Traffic, bandwidth, model_traffic, routing_shares
from benchmarks.peers.hugging_face import HuggingFace, share
from benchmarks.peers.llama import LlamaCpp, Trials, try_flash
from benchmarks.peers.measures import (
    COMPILED,
    GROUPED,
    LLAMA,
    OURS,
    PLAIN,
    median_seconds,
    rate,
    verdicts,
)
from benchmarks.peers.mini import InMemory, engine_model, gguf_file, mini_config, random_state
from benchmarks.peers.ours import Ours
from benchmarks.peers.rounds import CASES, CONTEXT, STREAMS, Case, Entry, Times, run_rounds
from benchmarks.report import print_table, write_results
from small4.kernels.ops import backend
from small4.model.transformer import Transformer

GROUPS = ("llama.cpp", "transformers", "compiled", "plain", "8-bit")
FEW = frozenset(case for case in CASES if case[1] <= 8)  # transformers takes seconds for a step of 32 streams
ONE = frozenset({("decode", 1, CONTEXT)})
TWO = frozenset({("decode", 1, CONTEXT), ("decode", 8, CONTEXT)})
CHECKED, SINGLE = 64, 16  # tokens of the prompt that is compared; of these one by one
MAX_KL = 2e-3  # nats, between two roundings of one model


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the engine beside its peers on the mini model.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--leave-out", nargs="+", default=[], choices=GROUPS)
    parser.add_argument("--prepare", action="store_true", help="only fill the caches")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        return run(arguments)


@dataclass(slots=True)
class Findings:
    """What a run found out beside the times."""

    shares: dict[int, float]  # of a layer's experts that so many streams choose
    distances: dict[str, float]  # mean KL from our bf16 model
    trials: Trials  # of llama.cpp's flash attention
    memory: list[dict[str, float]] = field(default_factory=list)  # bytes per second before and after, by probe


def run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", file=sys.stderr, flush=True)

    state = random_state(arguments.layers)
    if arguments.prepare:
        prepare(arguments, state, tell)
        return 0
    entries = build(arguments, state)
    tell(f"{len(entries)} contenders are ready; our kernels: {backend().name}")
    shares, distances = routing_shares(our_model(entries, OURS["bf16"]), STREAMS), check(entries)
    findings = Findings(shares, distances, try_flash(files[0]) if (files := files_of(entries)) else {})
    tell(
        "flash attention of llama.cpp: " + ", ".join(label(case) for case, is_on in flash_of(entries).items() if is_on)
    )
    findings.memory.append(bandwidth())
    times = run_rounds(entries, arguments.rounds, lambda number: tell(f"round {number} of {arguments.rounds}"))
    findings.memory.append(bandwidth())
    tell("memory read before and after, GB/s: " + "; ".join(map(told, findings.memory)))
    return report(arguments, entries, times, findings)


def prepare(arguments: argparse.Namespace, state: dict[str, Tensor], tell: Callable[[str], None]) -> None:
    """Fill the caches that later runs take from: llama.cpp's files, and what torch.compile made."""
    source = InMemory(mini_config(arguments.layers), state)
    for kind in LLAMA:
        tell(str(gguf_file(source, kind, arguments.threads)))
    compiled_peer(source)
    tell("transformers is compiled")


def compiled_peer(source: InMemory) -> HuggingFace:
    """transformers compiled for one stream, which the first step does."""
    peer = HuggingFace(share(source.config, source.state), "batched_mm", is_compiled=True)
    peer.decode(1, CONTEXT, 1)
    return peer


def build(arguments: argparse.Namespace, state: dict[str, Tensor]) -> dict[str, Entry]:
    """All contenders over one set of weights."""
    layers, threads, left_out = arguments.layers, arguments.threads, arguments.leave_out
    entries: dict[str, Entry] = {}
    for kind, name in OURS.items():
        if kind != "int8" or "8-bit" not in left_out:
            entries[name] = Entry(Ours(engine_model(layers, state, kind, False)))
    if "plain" not in left_out:
        entries[PLAIN] = Entry(Ours(engine_model(layers, state, "int4", True), is_plain=True), ONE)
    source = InMemory(mini_config(layers), state)
    flash: dict[Case, bool] = {}  # one setting for all files
    for kind, name in LLAMA.items():
        if "llama.cpp" not in left_out and (kind != "Q8_0" or "8-bit" not in left_out):
            peer = LlamaCpp(gguf_file(source, kind, threads), threads, flash)
            entries[name] = Entry(peer, TWO if kind == "Q8_0" else frozenset(CASES))
    if "transformers" not in left_out:
        entries[GROUPED] = Entry(HuggingFace(share(source.config, state), "grouped_mm"), FEW)
        if "compiled" not in left_out:
            entries[COMPILED] = Entry(compiled_peer(source), ONE)
    return entries


def our_model(entries: Mapping[str, Entry], name: str) -> Transformer:
    contender = entries[name].contender
    assert isinstance(contender, Ours)
    return contender.model


def files_of(entries: Mapping[str, Entry]) -> list[LlamaCpp]:
    """What runs in llama.cpp, the file that is asked about settings first."""
    names = sorted(entries, key=lambda name: name != LLAMA["Q4_0"])
    return [contender for name in names if isinstance(contender := entries[name].contender, LlamaCpp)]


def flash_of(entries: Mapping[str, Entry]) -> dict[Case, bool]:
    return next((file.flash for file in files_of(entries)), {})


def check(entries: Mapping[str, Entry]) -> dict[str, float]:
    """Mean KL of everybody's predictions from our bf16 model's; RuntimeError where llama.cpp runs another model."""
    tokens = torch.randint(20, 32768, (CHECKED,), generator=torch.Generator().manual_seed(5)).tolist()
    wanted = engine_logits(our_model(entries, OURS["bf16"]), tokens, num_single=SINGLE)
    distances = {"small4 bf16, its own predictions one token late": divergence(wanted[1:], wanted[:-1]).mean().item()}
    for name, entry in entries.items():
        contender = entry.contender
        if isinstance(contender, LlamaCpp):
            logits = contender.worker.logits(tokens, wanted.shape[1])
        elif isinstance(contender, Ours):
            logits = engine_logits(contender.model, tokens, num_single=SINGLE, is_native=name != PLAIN)
        elif isinstance(contender, HuggingFace) and not contender.is_compiled:
            logits = contender.model(input_ids=torch.tensor([tokens])).logits[0].float()
        else:
            continue
        distances[name] = divergence(wanted, logits).mean().item()
    print_table(["KL from small4 bf16", "nats"], [[name, f"{kl:.6f}"] for name, kl in distances.items()])
    if distances.get(LLAMA["BF16"], 0.0) > MAX_KL:
        raise RuntimeError(f"llama.cpp computes another model: KL {distances[LLAMA['BF16']]:.4f} is over {MAX_KL}")
    return distances


def report(arguments: argparse.Namespace, entries: Mapping[str, Entry], times: Times, findings: Findings) -> int:
    """Print both tables and write the file."""
    floors = floor_seconds(entries, findings)
    headers = ["tokens per second (share of the floor)", *map(label, CASES)]
    print_table(headers, [[name, *(cell(times, floors, name, case) for case in CASES)] for name in times])
    found = verdicts(times)
    print()
    print_table(
        ["measure", "ours, tokens/s", "best peer", "ratio", "of rounds", "must", "goal", ""],
        [verdict.cells() for verdict in found],
    )
    files = files_of(entries)
    results = {
        "settings": vars(arguments) | {"kernels": backend().name},
        "llama_cpp": files[0].worker.ask("about") if files else None,
        "llama_cpp_flash": {label(case): is_on for case, is_on in flash_of(entries).items()},
        "llama_cpp_trials": {
            label(case): {str(form): s for form, s in of.items()} for case, of in findings.trials.items()
        },
        "kl_from_small4_bf16": findings.distances,
        "share_of_experts_by_streams": findings.shares,
        "memory_read_bytes_per_second": findings.memory,
        "verdicts": [asdict(verdict) | {"outcome": verdict.outcome} for verdict in found],
        "contenders": {
            name: {label(case): as_json(times, floors, name, case) for case in of_name}
            for name, of_name in times.items()
        },
    }
    is_whole = arguments.layers == 12 and not arguments.leave_out
    print(f"written to {write_results('engine', results)}" if is_whole else "not written, since it is a part only")
    return int(any(verdict.outcome == "MISSED" for verdict in found))


def as_json(times: Times, floors: Mapping[tuple[str, Case], float], name: str, case: Case) -> dict[str, object]:
    return {
        "tokens_per_second": rate(times, name, case),
        "floor_seconds": floors.get((name, case)),
        "seconds": times[name][case],
    }


def floor_seconds(entries: Mapping[str, Entry], findings: Findings) -> dict[tuple[str, Case], float]:
    """The least seconds of a decoding step, by contender and case: at the best rate that any probe saw."""
    model = our_model(entries, OURS["bf16"])
    row_bytes = model.config.n_layers * model.config.kv_width * 2  # bf16 or float16 latents, whoever runs
    bytes_per_second = max(rate for probe in findings.memory for rate in probe.values())
    floors = {}
    for name, entry in entries.items():
        traffic = traffic_of(entries, name)
        for kind, streams, length in entry.cases:
            if kind == "decode":
                needed = traffic.step_bytes(findings.shares[streams], streams * length * row_bytes)
                floors[name, (kind, streams, length)] = needed / bytes_per_second
    return floors


def traffic_of(entries: Mapping[str, Entry], name: str) -> Traffic:
    contender = entries[name].contender
    if isinstance(contender, LlamaCpp):
        return contender.traffic()
    return model_traffic(our_model(entries, name if isinstance(contender, Ours) else OURS["bf16"]))


def cell(times: Times, floors: Mapping[tuple[str, Case], float], name: str, case: Case) -> str:
    """Tokens per second, and how much of what memory allows that is."""
    if case not in times[name]:
        return "-"
    figure, floor = f"{rate(times, name, case):.1f}", floors.get((name, case))
    return figure if floor is None else f"{figure} ({floor / median_seconds(times, name, case):.0%})"


def label(case: Case) -> str:
    kind, streams, length = case
    if kind == "prompt":
        return f"prompt {length}"
    return f"{streams} stream{'s' if streams > 1 else ''}{'' if length == CONTEXT else f' at {length}'}"


def told(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in rates.items())


if __name__ == "__main__":
    sys.exit(main())
