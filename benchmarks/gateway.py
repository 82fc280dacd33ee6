"""What the gateway adds: requests and streams straight to a provider and through the gateway, in turns in one run.

    python -m benchmarks.gateway
    python -m benchmarks.gateway --requests 500 --seconds 3 --ledger /dev/shm

Provider, gateway (`small4 serve --gateway` as a user starts it: a key, a budget, a ledger that is on the disk before a
request begins and before its answer ends) and client are three processes. Direct and through take turns, so that a
neighbour's load falls on both; what is added is the difference of the same percentile of the two. The provider answers
in the client's dialect (`same`) or in Anthropic's (`translated`). The LiteLLM proxy is not in this run.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import print_table, write_results

ROUTES = {"same": ("openai", "/v1/chat/completions"), "translated": ("anthropic", "/v1/messages")}
BARS = {"same": (1.5, 4.0), "translated": (2.0, 5.0)}  # milliseconds added: p50, p99
NUM_WORDS, WORD_SECONDS = 100, 0.005  # of a stream whose words are timed
NUM_STREAMS, SLOW_WORD_SECONDS = 64, 0.02  # at once, 50 words a second
STALL_SECONDS = 0.25  # between two words of those
STAMP = re.compile(rb'"(?:content|text)": ?"(\d{12,}) "')
WARM = 50  # requests before any is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1500, help="of each way")
    parser.add_argument("--streams", type=int, default=12, help="of each way, one after the other")
    parser.add_argument("--seconds", type=float, default=8.0, help="of requests as fast as they go")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--ledger", type=Path, help="a directory for it; default: on the disk of temporary files")
    parser.add_argument("--ends-later", action="store_true", help="the end of an answer waits for no disk")
    parser.add_argument("--note", default="", help="what the figures should be read with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory(dir=arguments.ledger) as books:
        found = asyncio.run(measure(Path(home), Path(books), arguments))
    report(found)
    found |= {"ends_are_booked_first": not arguments.ends_later, "note": arguments.note}
    name = "gateway" if arguments.ledger is None else f"gateway_{arguments.ledger.name}"
    print(write_results(name + ("_ends_later" if arguments.ends_later else ""), found))


async def measure(home: Path, books: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    with upstream() as port:
        prepare(home, port, books, not arguments.ends_later)
        with gateway(home) as running:
            started = time.monotonic()
            key = running.key
            await until_answered(running, key)
            first_answer = time.monotonic() - running.began
            idle = running.memory_mib()
            found: dict[str, Any] = {
                "start_to_first_answer_seconds": round(first_answer, 3),
                "of_that_until_it_listens_seconds": round(started - running.began, 3),
                "idle_memory_mib": round(idle, 1),
            }
            for name in ROUTES:
                found[name] = await compare(port, running, name, arguments.requests)
                found[name] |= await compare_streams(port, running, name, arguments.streams)
            found["load"] = await load(running, arguments.callers, arguments.seconds)
            found["streams"] = await many_streams(running)
            found["memory_after_mib"] = round(running.memory_mib(), 1)
    return found


@dataclass
class Gateway:
    """The gateway's process."""

    process: subprocess.Popen[str]
    port: int
    key: str
    began: float

    def memory_mib(self) -> float:
        """What it has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def processor_seconds(self) -> float:
        """Of all its threads since its start: what a neighbour's load changes least."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def upstream() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gateway_upstream", str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def prepare(home: Path, port: int, books: Path, books_ends_first: bool) -> None:
    """The user's catalogue with both routes, and settings with a budget that is never reached."""
    config = home / "config" / "small4"
    (config / "catalog").mkdir(parents=True)
    for name, (dialect, _) in ROUTES.items():
        (config / "catalog" / f"{name}.toml").write_text(
            f'name = "{name}"\nseen = 2026-11-21\n[[routes]]\nname = "{name}"\nmodel = "mistral-small-4"\n'
            f'model_id = "m"\ndialect = "{dialect}"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
            f'key_variable = "{name.upper()}_KEY"\n'
            f'[[claims]]\nroute = "{name}"\n[claims.says]\n"price.input" = "0.15"\n"price.output" = "0.6"\n',
            encoding="utf-8",
        )
    (config / "small4.toml").write_text(
        f'[gateway]\nroutes = ["same", "translated"]\nledger = "{books}/ledger.db"\n'
        f"books_ends_first = {str(books_ends_first).lower()}\n"
        '[[budgets]]\nscope = "key"\ndollars = 1000000\n',
        encoding="utf-8",
    )


@contextmanager
def gateway(home: Path) -> Iterator[Gateway]:
    """`small4 serve --gateway`, with a key that every request has to show."""
    environment = {**os.environ, "XDG_STATE_HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    environment |= {f"{name.upper()}_KEY": f"sk-benchmark-{name}-0123456789" for name in ROUTES}
    small4 = [sys.executable, "-m", "small4"]
    create = subprocess.run([*small4, "keys", "create", "benchmark"], env=environment, capture_output=True, text=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [*small4, "serve", "--gateway", "--port", "0", "--max-concurrent", "128"],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split()[3].rpartition(":")[2])
        yield Gateway(process, port, create.stdout.strip(), began)
    finally:
        process.terminate()
        process.wait()


async def until_answered(running: Gateway, key: str) -> None:
    async with connected(running.port) as client:
        await client.ask("/v1/chat/completions", body_of("same"), key)


async def compare(port: int, running: Gateway, name: str, num_requests: int) -> dict[str, Any]:
    """Whole answers, one at a time, direct and through in turns."""
    _, path = ROUTES[name]
    direct: list[float] = []
    through: list[float] = []
    async with connected(port) as there, connected(running.port) as client:
        for number in range(num_requests + WARM):
            began = time.perf_counter()
            await there.ask(path, direct_body(name), "sk-benchmark")
            middle = time.perf_counter()
            await client.ask("/v1/chat/completions", body_of(name), running.key)
            if number >= WARM:
                direct.append(middle - began)
                through.append(time.perf_counter() - middle)
    return {"whole_ms": added(direct, through)}


async def compare_streams(port: int, running: Gateway, name: str, num_streams: int) -> dict[str, Any]:
    """How long each word is on its way."""
    _, path = ROUTES[name]
    text = f"stream {NUM_WORDS} words every {WORD_SECONDS} s"
    direct: list[float] = []
    through: list[float] = []
    async with connected(port) as there, connected(running.port) as client:
        for number in range(num_streams + 1):
            ways = [
                await there.stream(path, {**direct_body(name, text), "stream": True}, "sk-benchmark"),
                await client.stream("/v1/chat/completions", {**body_of(name, text), "stream": True}, running.key),
            ]
            if number:
                for kept, words in zip((direct, through), ways, strict=True):
                    assert len(words) == NUM_WORDS, f"{len(words)} words of {NUM_WORDS} arrived"
                    kept += [arrived - left for left, arrived in words]
    return {"chunk_ms": added(direct, through)}


async def load(running: Gateway, num_callers: int, seconds: float) -> dict[str, Any]:
    """Requests as fast as so many callers can make them, each with its key, a hold and a settlement."""
    times: list[float] = []
    until = time.monotonic() + seconds

    async def call() -> None:
        async with connected(running.port) as client:
            while time.monotonic() < until:
                began = time.perf_counter()
                await client.ask("/v1/chat/completions", body_of("same"), running.key)
                times.append(time.perf_counter() - began)

    began, before = time.monotonic(), running.processor_seconds()
    await asyncio.gather(*(call() for _ in range(num_callers)))
    lasted, used = time.monotonic() - began, running.processor_seconds() - before
    return {
        "callers": num_callers,
        "requests": len(times),  # any that fails ends the run
        "requests_per_second": round(len(times) / lasted, 1),
        "gateway_processor_ms_per_request": round(used / len(times) * 1000, 2),
        "p50_ms": round(percentile(times, 50) * 1000, 2),
        "p99_ms": round(percentile(times, 99) * 1000, 2),
    }


async def many_streams(running: Gateway) -> dict[str, Any]:
    """64 streams of 50 words a second at once."""
    text = f"stream {NUM_WORDS} words every {SLOW_WORD_SECONDS} s"

    async def read() -> list[float]:
        async with connected(running.port) as client:
            words = await client.stream("/v1/chat/completions", {**body_of("same", text), "stream": True}, running.key)
        assert len(words) == NUM_WORDS
        arrivals = [arrived for _, arrived in words]
        return [after - before for before, after in pairwise(arrivals)]

    gaps = [gap for one in await asyncio.gather(*(read() for _ in range(NUM_STREAMS))) for gap in one]
    return {
        "streams": NUM_STREAMS,
        "gap_p50_ms": round(percentile(gaps, 50) * 1000, 2),
        "gap_p99_ms": round(percentile(gaps, 99) * 1000, 2),
        "gap_longest_ms": round(max(gaps) * 1000, 2),
        "gaps_over_a_quarter_second": sum(gap > STALL_SECONDS for gap in gaps),
    }


class Client:
    """One connection that is kept; raises for whatever is not answered with 200."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: str, body: dict[str, Any], key: str) -> bytes:
        """The body of a whole answer."""
        self._send(path, body, key)
        head = await self._head()
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length is None:  # the provider streams to whoever asks for it
            return b"".join([part async for part in self._chunks()])
        answer = await self._reader.readexactly(int(length[1]))
        assert head.startswith(b"HTTP/1.1 200"), answer
        return answer

    async def stream(self, path: str, body: dict[str, Any], key: str) -> list[tuple[float, float]]:
        """When each word left and arrived."""
        self._send(path, body, key)
        head = await self._head()
        assert head.startswith(b"HTTP/1.1 200"), head
        words: list[tuple[float, float]] = []
        async for part in self._chunks():
            now = time.monotonic()
            words += [(int(stamp) / 1e9, now) for stamp in STAMP.findall(part)]
        return words

    def _send(self, path: str, body: dict[str, Any], key: str) -> None:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-length: {len(data)}"
        self._writer.write(f"{head}\r\ncontent-type: application/json\r\n\r\n".encode() + data)

    async def _head(self) -> bytes:
        return await self._reader.readuntil(b"\r\n\r\n")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    for _ in range(100):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def body_of(name: str, text: str = "Say hello.") -> dict[str, Any]:
    """What the client asks the gateway: a route by its name."""
    return {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": 200}


def direct_body(name: str, text: str = "Say hello.") -> dict[str, Any]:
    """What it asks the provider; streamed, since the gateway asks for a stream too."""
    return {**body_of(name, text), "model": "m", "stream": True}


def added(direct: list[float], through: list[float]) -> dict[str, float]:
    """Milliseconds."""
    found = {}
    for share in (50, 99):
        before, after = percentile(direct, share) * 1000, percentile(through, share) * 1000
        found |= {f"direct_p{share}": round(before, 3), f"through_p{share}": round(after, 3)}
        found[f"added_p{share}"] = round(after - before, 3)
    return found


def percentile(values: list[float], share: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


def report(found: dict[str, Any]) -> None:
    rows = []
    for name, (p50, p99) in BARS.items():
        whole, piece = found[name]["whole_ms"], found[name]["chunk_ms"]
        rows.append([f"{name}, whole, added p50", f"{whole['added_p50']} ms", f"{p50} ms"])
        rows.append([f"{name}, whole, added p99", f"{whole['added_p99']} ms", f"{p99} ms"])
        rows.append([f"{name}, chunk, added p99", f"{piece['added_p99']} ms", "0.3 ms"])
    speed, streams = found["load"], found["streams"]
    rows += [
        [f"requests/s, {speed['callers']} callers", f"{speed['requests_per_second']}", "450"],
        ["its processor time for each", f"{speed['gateway_processor_ms_per_request']} ms", ""],
        ["64 streams, gaps over 0.25 s", f"{streams['gaps_over_a_quarter_second']}", "0"],
        ["idle memory", f"{found['idle_memory_mib']} MiB", "90 MB"],
        ["start to first answer", f"{found['start_to_first_answer_seconds']} s", "1.5 s"],
    ]
    print_table(["what", "measured", "bar"], rows)


if __name__ == "__main__":
    main()
