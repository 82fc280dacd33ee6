"""The clients of `benchmarks.server`: so many streams at once over sockets; prints what they saw as one JSON object.

    python -m benchmarks.http_clients http://127.0.0.1:4119 8 64 1     64 tokens each; 0: the scripted words, checked
    python -m benchmarks.http_clients http://127.0.0.1:4119 1 64 10    ten times, one after the other

They read bytes and hardly look at them, without a framework, so that the machine's time goes to the server.
"""

import json
import re
import resource
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector

STREAM_WORDS = 50
WORDS = [f"w{number} " for number in range(STREAM_WORDS)]


@dataclass
class Seen:
    """What one client saw."""

    began: float
    first_seconds: float = 0.0
    parts: list[bytes] = field(default_factory=list)

    def take(self, part: bytes) -> None:
        if not self.first_seconds and b'"content":"' in part.replace(b'"content":""', b""):
            self.first_seconds = time.perf_counter() - self.began
        self.parts.append(part)

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


def visit_all(host: str, port: int, num_clients: int, num_tokens: int) -> list[Seen]:
    """One request of each client, all at once, read to their ends."""
    everybody = []
    with DefaultSelector() as selector:
        for number in range(num_clients):
            everybody.append(Seen(time.perf_counter()))
            selector.register(ask(host, port, number, num_tokens), EVENT_READ, everybody[-1])
        while selector.get_map():
            for key, _ in selector.select():
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                part = connection.recv(65536)
                key.data.take(part)
                if not part:
                    selector.unregister(connection)
                    connection.close()
    return everybody


def ask(host: str, port: int, number: int, num_tokens: int) -> socket.socket:
    """A connection that has sent its request."""
    body = json.dumps(request(number, num_tokens)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    connection = socket.create_connection((host, port))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def request(number: int, num_tokens: int) -> dict[str, object]:
    text = f"What is {number} + {number + 7}?"
    extra = {"max_tokens": num_tokens, "ignore_eos": True} if num_tokens else {}
    return {
        "model": "model",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        **extra,
    }


def run(url: str, num_clients: int, num_tokens: int, num_times: int) -> dict[str, object]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    began = time.perf_counter()
    seen: list[Seen] = []
    for _ in range(num_times):
        seen += visit_all(host, int(port), num_clients, num_tokens)
    seconds = time.perf_counter() - began
    firsts = sorted(one.first_seconds for one in seen)
    return {
        "seconds": seconds,
        "tokens_per_second": sum(num_tokens_of(one.body) for one in seen) / seconds,
        "firsts": firsts,
        "first_seconds": statistics.median(firsts),
        "first_p50": firsts[len(firsts) // 2],
        "first_p99": firsts[int(len(firsts) * 0.99)],
        "num_exact": sum(re.findall(rb'"content":"(w\d+ )"', one.body) == [w.encode() for w in WORDS] for one in seen),
        "events_per_second": sum(one.body.count(b"data: ") for one in seen) / seconds,
    }


def num_tokens_of(body: bytes) -> int:
    """What the server says that it wrote; an answer that was cut has no such number and is a failure."""
    (count,) = re.findall(rb'"completion_tokens":(\d+)', body)
    return int(count)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    print(json.dumps(run(sys.argv[1], *map(int, sys.argv[2:5]))))
