"""What HTTP costs: tokens per second and time to the first token through the server, beside the engine in process.

    python -m benchmarks.server                    the miniature of Mistral Small 4 in bf16, then the nano
    python -m benchmarks.server --model nano --rounds 5
    python -m benchmarks.server --only streams     1,000 open streams of the scripted provider

Server and engine are one process, as `small4 serve` is; the clients are another. Contenders take turns, so that a
neighbour's load falls on all; every figure is a median of the rounds.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.http_clients import STREAM_WORDS
from benchmarks.report import print_table, write_results

CLIENTS = (1, 8, 32, 64)
WAYS = ("engine", "provider", "HTTP")
NUM_TOKENS = {"mini": 128, "nano": 256}  # of each answer
WARM_TOKENS = 8  # in a round before the first
MINI_LAYERS = 4
TURN, NUM_TURNS = 10, 5  # requests one after the other, for the first token
NUM_STREAMS = 1000
WORD_SECONDS = 0.2  # between two words of an open stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("mini", "nano", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("speed", "streams"))
    parser.add_argument("--scripted", metavar="DIRECTORY", help=argparse.SUPPRESS)  # the server of the open streams
    arguments = parser.parse_args()
    if arguments.scripted:
        return serve_scripted(Path(arguments.scripted))
    if arguments.only != "streams":
        for name in ("mini", "nano") if arguments.model == "both" else (arguments.model,):
            print(f"written to {write_results(f'server_{name}', measure_speed(name, arguments.rounds))}")
    if arguments.only != "speed":
        print(f"written to {write_results('server_streams', measure_streams())}")


@dataclass(frozen=True, slots=True)
class Figure:
    """One run of one contender."""

    tokens_per_second: float
    first_seconds: float  # the median of the clients
    cpu_seconds: float  # of the server's process, for one token: what a neighbour's load changes least


def measure_speed(name: str, num_rounds: int) -> dict[str, Any]:
    """Tokens per second, times to the first token and processor time, in process and through HTTP."""
    provider = mini_provider() if name == "mini" else nano_provider()
    taken: dict[str, dict[int, list[Figure]]] = {way: {num: [] for num in CLIENTS} for way in WAYS}
    with served(provider) as url:
        for number in range(num_rounds + 1):
            for num_clients in CLIENTS:
                for way, figures in taken.items():
                    figure = run_way(way, provider, url, num_clients, NUM_TOKENS[name] if number else WARM_TOKENS)
                    if number:
                        figures[num_clients].append(figure)
        first_tokens = measure_first_tokens(provider, url)
    medians = {way: {num: median_of(runs) for num, runs in rows.items()} for way, rows in taken.items()}
    report(name, medians)
    speeds = {way: {str(num): asdict(figure) for num, figure in rows.items()} for way, rows in medians.items()}
    return {"speeds": speeds, "first_tokens": first_tokens}


def run_way(way: str, provider: Any, url: str, num_clients: int, num_tokens: int) -> Figure:
    """All clients at once."""
    before = time.process_time()
    if way == "engine":
        speed, first = drive_engine(provider, num_clients, num_tokens)
    elif way == "provider":
        speed, first = asyncio.run(drive_provider(provider, num_clients, num_tokens))
    else:
        found = visit(url, num_clients, num_tokens)
        speed, first = found["tokens_per_second"], found["first_seconds"]
    return Figure(speed, first, (time.process_time() - before) / (num_clients * num_tokens))


def visit(url: str, num_clients: int, num_tokens: int, num_times: int = 1) -> dict[str, Any]:
    """What the clients of another process saw."""
    numbers = (str(number) for number in (num_clients, num_tokens, num_times))
    command = [sys.executable, "-m", "benchmarks.http_clients", url, *numbers]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def measure_first_tokens(provider: Any, url: str) -> dict[str, float]:
    """Medians of the first token's seconds, one request at a time, in turns of ten."""
    firsts: dict[str, list[float]] = {"provider": [], "HTTP": []}
    for number in range(NUM_TURNS + 1):
        inside = [asyncio.run(drive_provider(provider, 1, 2))[1] for _ in range(TURN)]
        http = visit(url, 1, 2, TURN)["firsts"]
        if number:
            firsts["provider"] += inside
            firsts["HTTP"] += http
    found = {way: statistics.median(seconds) for way, seconds in firsts.items()}
    shown = ", ".join(f"{way} {seconds * 1000:.1f} ms" for way, seconds in found.items())
    print(f"first token, one request at a time: {shown}")
    return found


def median_of(runs: list[Figure]) -> Figure:
    return Figure(*(statistics.median(column) for column in zip(*(astuple(run) for run in runs), strict=True)))


def drive_engine(provider: Any, num_clients: int, num_tokens: int) -> tuple[float, float]:
    """The engine's own thread, asked by all at once, with nobody but a counter behind it."""
    exchanges = [provider.prepare(chat(number, num_tokens)) for number in range(num_clients)]
    began = time.perf_counter()
    firsts: dict[Any, float] = {}
    counts: SimpleQueue[int] = SimpleQueue()

    def deliver(output: Any) -> None:
        firsts.setdefault(output.sequence, time.perf_counter() - began)
        if output.finish_reason is not None:
            counts.put(output.sequence.num_output)

    with ThreadPoolExecutor(num_clients) as pool:
        for exchange in exchanges:
            pool.submit(exchange.worker.submit, exchange.generation, deliver)
    num_written = sum(counts.get() for _ in exchanges)
    return num_written / (time.perf_counter() - began), statistics.median(firsts.values())


async def drive_provider(provider: Any, num_clients: int, num_tokens: int) -> tuple[float, float]:
    """As the server drives it, without HTTP and JSON."""
    from small4.chat import Finish
    from small4.providers.provider import Caller

    began = time.perf_counter()
    firsts: list[float] = []

    async def read(number: int) -> int:
        first = None
        async for event in provider.stream(chat(number, num_tokens), Caller()):
            first = first or time.perf_counter() - began
            if isinstance(event.event, Finish):
                firsts.append(first)
                return int(event.event.usage.completion_tokens)
        raise AssertionError("no Finish came")

    counts = await asyncio.gather(*(read(number) for number in range(num_clients)))
    return sum(counts) / (time.perf_counter() - began), statistics.median(firsts)


def chat(number: int, num_tokens: int) -> Any:
    """The request that the clients of `http_clients` send, too."""
    from small4.chat import ChatRequest, Message, Sampling

    text = f"What is {number} + {number + 7}?"
    return ChatRequest(messages=(Message("user", text),), max_tokens=num_tokens, sampling=Sampling(ignore_eos=True))


@contextmanager
def served(provider: Any) -> Iterator[str]:
    """The provider behind HTTP, in a thread of this process."""
    from small4.server.app import create_app
    from small4.server.keys import KeyStore
    from small4.server.log import Log
    from small4.server.models import Offer
    from small4.server.run import serving

    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("w") as log:
        app = create_app([Offer(id="model", provider=provider)], KeyStore(Path(directory)), log=Log(log))
        with serving(app) as url:
            yield url


def nano_provider() -> Any:
    from small4.llm import load

    return load("nano").provider


def mini_provider() -> Any:
    """The miniature with the nano's vocabulary and random weights that write text, not control tokens."""
    import torch

    from benchmarks.peers.mini import mini_config
    from small4.engine.config import EngineConfig
    from small4.llm import load
    from small4.model.transformer import Transformer
    from small4.providers.local import LocalProvider

    tokenizer = load("nano").tokenizer
    config = replace(mini_config(MINI_LAYERS), vocab_size=tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = Transformer(config).to(torch.bfloat16)
    state = {}
    for name, parameter in network.named_parameters():
        tensor = torch.empty(parameter.shape, dtype=torch.bfloat16)
        state[name] = tensor.fill_(1.0) if tensor.ndim == 1 else tensor.normal_(0.0, 0.02, generator=generator)
    state["output.weight"][tokenizer.num_special_tokens :] *= 50.0
    network.load_state_dict(state, assign=True)
    return LocalProvider(
        "mini", network.eval().requires_grad_(False), tokenizer, engine=EngineConfig(cache_bytes=2**28)
    )


def report(name: str, medians: dict[str, dict[int, Figure]]) -> None:
    rows = []
    for num in CLIENTS:
        engine, inside, http = (medians[way][num] for way in WAYS)
        speeds = [f"{figure.tokens_per_second:.0f}" for figure in (engine, inside, http)]
        costs = [f"{figure.cpu_seconds * 1e6:.0f}" for figure in (engine, inside, http)]
        added = (http.first_seconds - inside.first_seconds) * 1000
        ratio = http.tokens_per_second / engine.tokens_per_second
        rows.append([str(num), *speeds, f"{ratio:.2f}", *costs, f"{added:+.1f} ms"])
    print(f"{name}: tokens per second, and microseconds of processor time for one")
    headers = ["clients", "engine", "provider", "HTTP", "HTTP / engine", "engine", "provider", "HTTP"]
    print_table([*headers, "added to first token"], rows)


def measure_streams() -> dict[str, Any]:
    """1,000 open streams at once: order, completeness, the server's memory, and time to the first byte."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "benchmarks.server", "--scripted", directory]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        before = memory_bytes(server.pid)
        found = visit(url, NUM_STREAMS, 0)
        del found["firsts"]
        found |= {"memory_before": before, "memory_peak": memory_bytes(server.pid, "VmHWM")}
        server.terminate()
        found["exit_code"] = server.wait()
    print(f"{NUM_STREAMS} open streams of {STREAM_WORDS} words")
    print_table(
        ["streams", "whole and in order", "events per second", "first byte p50", "p99", "memory before", "peak"],
        [
            [
                str(NUM_STREAMS),
                str(found["num_exact"]),
                f"{found['events_per_second']:.0f}",
                f"{found['first_p50'] * 1000:.0f} ms",
                f"{found['first_p99'] * 1000:.0f} ms",
                f"{before / 2**20:.0f} MiB",
                f"{found['memory_peak'] / 2**20:.0f} MiB",
            ]
        ],
    )
    return found


def memory_bytes(process_id: int, field: str = "VmRSS") -> int:
    """Resident memory of a process, or its peak (VmHWM)."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def serve_scripted(directory: Path) -> None:
    """The server of the open streams; prints its URL."""
    from small4.chat import Finish, TextDelta, Usage
    from small4.providers.scripted import Pause, ScriptedProvider, Step
    from small4.server.app import create_app
    from small4.server.keys import KeyStore
    from small4.server.log import Log
    from small4.server.models import Offer
    from small4.server.run import serve

    words: list[Step] = []
    for number in range(STREAM_WORDS):
        words += [TextDelta(f"w{number} "), Pause(WORD_SECONDS)]
    provider = ScriptedProvider([*words, Finish("stop", Usage(1, STREAM_WORDS))])
    with (directory / "log").open("w") as log:
        app = create_app([Offer(id="model", provider=provider)], KeyStore(directory), log=Log(log))
        serve(app, port=0, on_start=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
