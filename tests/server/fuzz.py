"""Mutated requests through the whole server, every dialect: no fault of ours, no undescribed status, nothing left open.

    python -m tests.server.fuzz --cases 200000 --seed 1

Bodies begin as the golden exchanges of `tests/wire`; a mutation changes their JSON or their bytes.
"""

import argparse
import asyncio
import copy
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from small4.chat import Finish, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart, Usage
from tests.server.asgi import Served

GOLDEN = Path(__file__).parents[1] / "wire" / "golden"
PATHS = {
    "openai_chat": "/v1/chat/completions",
    "mistral": "/mistral/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/mistral-small-4:generateContent",
}
BESIDES = {
    "/v1/completions": {"prompt": "a", "n": 1, "logprobs": 2, "stop": ["x"]},
    "/v1/fim/completions": {"prompt": "a", "stop": "x"},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    "/v1beta/models/mistral-small-4:countTokens": {"contents": [{"parts": [{"text": "a"}]}]},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1, 2]},
}
SCRIPTS = [
    [TextDelta("a"), Finish("stop", Usage(3, 1))],
    [ReasoningDelta("h"), TextDelta("a"), Finish("length", Usage(3, 2, 1))],
    [ToolCallStart(0, "abcdefghi", "f"), ToolCallDelta(0, "{}"), Finish("tool_calls", Usage(3, 2))],
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63) - 1, 10**400),
    *("", "a", "\x00", "\ud800", "é" * 300, "none", "high", "auto", "data:image/png;base64,AAAA", "http://localhost/"),
    *([], {}, [None], [[]], {"": None}, {"type": "text"}, {"type": "object"}, {"role": "user"}, [{"type": "function"}]),
]


def seeds() -> list[tuple[str, Any]]:
    """Paths with honest bodies."""
    found: list[tuple[str, Any]] = [(path, {**body, "model": "m"}) for path, body in BESIDES.items()]
    for name, path in PATHS.items():
        for file in sorted((GOLDEN / name).rglob("*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            bodies = [content.get("request", content), *content.get("variants", [])]
            found += [(path, body) for body in bodies if isinstance(body, dict)]
    return found


def mutate(body: Any, draw: random.Random) -> bytes:
    """The body as JSON, with up to four changes, and sometimes damaged."""
    body = json.loads(json.dumps(body))
    for _ in range(draw.choice([0, 1, 1, 1, 2, 4])):
        _change(body, draw)
    data = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return _damage(data, draw) if draw.random() < 0.1 else data


def _change(body: Any, draw: random.Random) -> None:
    """Replace, drop, double or add somewhere inside."""
    parent = body
    while True:
        children = list(parent.values()) if isinstance(parent, dict) else list(parent)
        inner = [child for child in children if isinstance(child, dict | list) and child]
        if not inner or draw.random() < 0.3:
            break
        parent = draw.choice(inner)
    value = copy.deepcopy(draw.choice(ODD))
    if isinstance(parent, list):
        place = draw.randrange(len(parent)) if parent else 0
        parent[place : place + draw.randint(0, 1)] = [
            copy.deepcopy(value) for _ in range(draw.choice([0, 1, 1, 2, 40]))
        ]
    elif draw.random() < 0.2 or not parent:
        parent[draw.choice(["model", "stream", "n", "stop", "tools", "unheard", ""])] = value
    else:
        name = draw.choice(list(parent))
        if draw.random() < 0.25:
            del parent[name]
        else:
            parent[name] = value


def _damage(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    match draw.randrange(4):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
        case 2:
            return (
                data[:place] + draw.choice([b"[", b"{", b'"', b"\\", b"\xff", b"0", b"," * 9, b"[" * 99]) + data[place:]
            )
    return data[:place] + data[max(0, place - 20) :]


async def run(
    served: Served, num_cases: int, seed: int
) -> tuple[Counter[tuple[str, int]], list[tuple[str, int, bytes]]]:
    """How often each path had each status, and the cases that were our fault."""
    draw, honest = random.Random(seed), seeds()
    described = (await served.client.get("/openapi.json")).json["paths"]
    found: Counter[tuple[str, int]] = Counter()
    faults = []
    for _ in range(num_cases):
        path, body = draw.choice(honest)
        data = mutate(body, draw)
        target = path.replace(":generateContent", ":streamGenerateContent") if draw.random() < 0.3 else path
        try:
            status = (await served.client.post(target, data)).status
        except TimeoutError:
            status = 0
        found[path, status] += 1
        if not is_expected(target, status, data, described):
            faults.append((target, status, data))
    return found, faults


def is_expected(target: str, status: int, data: bytes, described: dict[str, Any]) -> bool:
    """Whether a status is described, and no fault: a script answers once, whatever number of answers is asked for."""
    name = target.replace("mistral-small-4", "{call}") if "models/" in target else target
    asks_several = b'"n"' in data or b"andidate" in data
    is_fault = status >= 500 and not (status == 502 and asks_several)
    return str(status) in described[name]["post"]["responses"] and not is_fault


def served_in(directory: Path) -> Served:
    from small4.providers.scripted import ScriptedProvider
    from small4.server.models import Offer

    names = ("m", "mistral-small-4", "mistral-small-latest", "scripted")
    provider = ScriptedProvider(*SCRIPTS * 50_000)
    return Served(directory, provider=provider, offers=[Offer(id="served", provider=provider, aliases=names)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        served = served_in(Path(directory))
        found, faults = asyncio.run(run(served, arguments.cases, arguments.seed))
    for path in sorted({path for path, _ in found}):
        print(path, {status: count for (name, status), count in sorted(found.items()) if name == path})
    for target, status, data in faults[:20]:
        print("FAULT", status, target, data[:600])
    print(f"{arguments.cases} cases, seed {arguments.seed}, {time.monotonic() - began:.0f} s: {len(faults)} faults")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
