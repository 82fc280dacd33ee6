"""Times the engine beside llama.cpp and transformers on one miniature of Mistral Small 4, and judges the issue's table.

    python -m benchmarks.peers.environment         once: builds llama.cpp, ten to twenty minutes
    python -m benchmarks.engine --prepare          once: writes the files, finds the peers' best settings, compiles
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
from collections.abc import Mapping
from dataclasses import asdict

import torch

from benchmarks.peers.divergence import divergence, engine_logits
from benchmarks.peers.floor import Traffic, bandwidth, model_traffic, routing_shares
from benchmarks.peers.hugging_face import HuggingFace, share
from benchmarks.peers.llama import LlamaCpp
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
from benchmarks.peers.rounds import CASES, CONTEXT, DEEP, STREAMS, Case, Entry, Times, run_rounds
from benchmarks.report import print_table, write_results
from small4.kernels.ops import backend
from small4.model.transformer import Transformer

GROUPS = ("llama.cpp", "transformers", "compiled", "plain", "8-bit")
SHORT = frozenset(case for case in CASES if case[2] != DEEP)
FEW = frozenset(case for case in CASES if case[1] <= 8)  # transformers takes seconds for a step of 32 streams
ONE = frozenset({("decode", 1, CONTEXT)})
CHECKED, SINGLE = 64, 16  # tokens of the prompt that is compared; of these one by one
MAX_KL = 2e-3  # nats, between two roundings of one model


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the engine beside its peers on the mini model.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--leave-out", nargs="+", default=[], choices=GROUPS)
    parser.add_argument("--prepare", action="store_true", help="fill the caches and try the peers' settings anew")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", file=sys.stderr, flush=True)

    entries = build(arguments)
    tell(f"{len(entries)} contenders are ready; kernels: {backend().name}")
    shares = routing_shares(model_of(entries, OURS["bf16"]), STREAMS)
    distances = check(entries)
    if arguments.prepare:
        tell("prepared")
        return 0
    memory = [bandwidth()]
    tell(f"memory read, GB/s: {told(memory[0])}")
    times = run_rounds(entries, arguments.rounds, lambda number: tell(f"round {number} of {arguments.rounds}"))
    memory.append(bandwidth())
    tell(f"memory read, GB/s: {told(memory[1])}")
    return report(arguments, entries, times, shares, distances, memory)


def build(arguments: argparse.Namespace) -> dict[str, Entry]:
    """All contenders over one set of weights."""
    layers, threads, left_out = arguments.layers, arguments.threads, arguments.leave_out
    state = random_state(layers)
    entries: dict[str, Entry] = {}
    for kind, name in OURS.items():
        if kind != "int8" or "8-bit" not in left_out:
            entries[name] = Entry(Ours(engine_model(layers, state, kind, False)))
    if "plain" not in left_out:
        entries[PLAIN] = Entry(Ours(engine_model(layers, state, "int4", True), is_plain=True), ONE)
    source = InMemory(mini_config(layers), state)
    for kind, name in LLAMA.items():
        if "llama.cpp" not in left_out and (kind != "Q8_0" or "8-bit" not in left_out):
            path = gguf_file(source, kind, threads)
            peer = LlamaCpp(path, threads, try_again=arguments.prepare)
            entries[name] = Entry(peer, SHORT if kind == "Q8_0" else frozenset(CASES))
    if "transformers" not in left_out:
        entries[GROUPED] = Entry(HuggingFace(share(source.config, state), "grouped_mm"), FEW)
        if "compiled" not in left_out:
            compiled = HuggingFace(share(source.config, state), "batched_mm", is_compiled=True)
            compiled.decode(1, CONTEXT, 2)
            entries[COMPILED] = Entry(compiled, ONE)
    return entries


def model_of(entries: Mapping[str, Entry], name: str) -> Transformer:
    contender = entries[name].contender
    assert isinstance(contender, Ours)
    return contender.model


def check(entries: Mapping[str, Entry]) -> dict[str, float]:
    """Mean KL of everybody's predictions from our bf16 model's; RuntimeError where llama.cpp runs another model."""
    tokens = torch.randint(20, 32768, (CHECKED,), generator=torch.Generator().manual_seed(5)).tolist()
    wanted = engine_logits(model_of(entries, OURS["bf16"]), tokens, num_single=SINGLE)
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


def report(
    arguments: argparse.Namespace,
    entries: Mapping[str, Entry],
    times: Times,
    shares: Mapping[int, float],
    distances: Mapping[str, float],
    memory: list[dict[str, float]],
) -> int:
    """Print both tables and write the file."""
    floors = floor_seconds(entries, shares, max(rate for probe in memory for rate in probe.values()))
    headers = ["tokens per second (share of the floor)", *map(label, CASES)]
    print_table(headers, [[name, *(cell(times, floors, name, case) for case in CASES)] for name in times])
    found = verdicts(times)
    print()
    print_table(
        ["measure", "ours, tokens/s", "best peer", "ratio", "of rounds", "must", "goal", ""],
        [verdict.cells() for verdict in found],
    )
    contenders = {
        name: {
            label(case): {
                "tokens_per_second": rate(times, name, case),
                "floor_seconds": floors.get((name, case)),
                "seconds": rounds,
            }
            for case, rounds in of_name.items()
        }
        for name, of_name in times.items()
    }
    peers = {name: entry.contender for name, entry in entries.items() if isinstance(entry.contender, LlamaCpp)}
    results = {
        "settings": vars(arguments) | {"kernels": backend().name},
        "llama_cpp": {name: {"chosen": peer.chosen(), "tried": peer.tried} for name, peer in peers.items()},
        "llama_cpp_build": next((peer.worker.ask("about") for peer in peers.values()), None),
        "kl_from_small4_bf16": distances,
        "share_of_experts_by_streams": shares,
        "memory_read_bytes_per_second": memory,
        "verdicts": [asdict(verdict) | {"outcome": verdict.outcome} for verdict in found],
        "contenders": contenders,
    }
    is_whole = arguments.layers == 12 and not arguments.leave_out
    print(f"written to {write_results('engine', results)}" if is_whole else "not written, since it is a part only")
    return int(any(verdict.outcome == "MISSED" for verdict in found))


def floor_seconds(
    entries: Mapping[str, Entry], shares: Mapping[int, float], bytes_per_second: float
) -> dict[tuple[str, Case], float]:
    """The least seconds of a decoding step, by contender and case."""
    model = model_of(entries, OURS["bf16"])
    row_bytes = model.config.n_layers * model.config.kv_width * 2  # bf16 or float16 latents, whoever runs
    floors = {}
    for name, entry in entries.items():
        traffic = traffic_of(entries, name)
        for kind, streams, length in entry.cases:
            if kind == "decode":
                needed = traffic.step_bytes(shares[streams], streams * length * row_bytes)
                floors[name, (kind, streams, length)] = needed / bytes_per_second
    return floors


def traffic_of(entries: Mapping[str, Entry], name: str) -> Traffic:
    contender = entries[name].contender
    if isinstance(contender, LlamaCpp):
        return contender.traffic()
    return model_traffic(model_of(entries, name if isinstance(contender, Ours) else OURS["bf16"]))


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
    return f"{streams} streams" if length == CONTEXT else f"{streams} at {length}"


def told(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in rates.items())


if __name__ == "__main__":
    sys.exit(main())
