"""Log lines and metrics: sizes and names, no contents, whatever a request holds."""

import asyncio
import io
import json
import random
import string
import time

from small4.chat import Finish, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart, Usage
from small4.server.log import MAX_FIELD, Log, line_of
from small4.server.metric_names import METRICS
from tests.server.asgi import CHAT, STREAM, Client, Served
from tests.server.batch_client import no_file_longer_than

CANARY = "canary-7f3a"
SECRETIVE = [
    ReasoningDelta(f"{CANARY} thought"),
    TextDelta(f"{CANARY} answer"),
    ToolCallStart(0, "abcdefghi", "call"),
    ToolCallDelta(0, json.dumps({"x": CANARY})),
    Finish("tool_calls", Usage(7, 9, 3, 2)),
]


def test_request_is_one_line_of_sizes_and_durations(tmp_path):
    served = Served(tmp_path, SECRETIVE)
    reply = asyncio.run(served.client.post("/v1/chat/completions", STREAM))
    (line,) = served.logged()
    assert line["request_id"] == reply.headers["x-request-id"]
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/chat/completions", 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 9)
    assert (line["cached_tokens"], line["reasoning_tokens"]) == (2, 3)
    assert line["request_bytes"] == len(json.dumps(STREAM).encode())
    assert line["response_bytes"] == len(reply.body)
    assert 0 <= line["first_event_seconds"] <= line["seconds"]
    assert (line["model"], line["stream"], line["messages"]) == ("scripted", True, 1)
    assert line["key"] == "local"


def test_log_goes_on_once_the_disk_takes_lines_again(tmp_path):
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as stream:
        log = Log(stream)

        def written(text: str) -> bool:
            deadline = time.monotonic() + 5
            while text not in path.read_text() and time.monotonic() < deadline:
                time.sleep(0.001)
            return text in path.read_text()

        log.write("first", {})
        assert written("first")
        with no_file_longer_than(path.stat().st_size + 20):
            for _ in range(20):
                log.write("lost", {"why": "x" * 1000})
                time.sleep(0.002)
        log.write("second", {})
        assert written("second")
        log.write("third", {})
        log.close()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["event"] for line in lines if line["event"] != "lost"] == ["first", "second", "third"]
        assert sum(line.get("lines_dropped", 0) for line in lines) > 0


def test_line_names_the_id_of_the_key(tmp_path):
    served = Served(tmp_path)
    text, key = served.store.create("laptop")
    asyncio.run(Client(served.app, text).post("/v1/chat/completions", CHAT))
    asyncio.run(Client(served.app).post("/v1/chat/completions", CHAT))
    assert [line["key"] for line in served.logged()] == [key.id, None]


def test_no_prompt_answer_or_key_is_in_any_line_metric_or_error(tmp_path):
    served = Served(tmp_path, SECRETIVE)
    key, _ = served.store.create("laptop")
    client = Client(served.app, key)
    bodies = [
        {**CHAT, "messages": [{"role": "user", "content": CANARY}]},
        {**STREAM, "user": CANARY, "metadata": {"a": CANARY}},
        {**CHAT, "temperature": CANARY},
        {**CHAT, CANARY: 1},
        {**CHAT, "messages": [{"role": CANARY, "content": "x"}]},
        {**CHAT, "tools": [{"type": "function", "function": {"name": CANARY}}]},
        CANARY.encode(),
    ]

    async def check():
        replies = [await client.post("/v1/chat/completions", body) for body in bodies]
        replies += [await client.get(f"/v1/{CANARY}?x={CANARY}&key={key}"), await client.request(CANARY, "/health")]
        replies += [await client.get("/health", headers={"user-agent": CANARY, "x-api-key": CANARY})]
        replies += [await Client(served.app).post(f"/v1/chat/completions?key={key}x", CHAT)]
        page = await Client(served.app, served.store.create("m", frozenset({"metrics"}))[0]).get("/metrics")
        return replies, page.body.decode()

    replies, page = asyncio.run(check())
    lines = json.dumps(served.logged())
    for text in (CANARY, key, key.split("_")[2]):
        assert text not in lines
        assert text not in page
    assert all(key not in reply.body.decode() for reply in replies)


def test_line_is_one_line_of_ascii_whatever_its_fields_hold():
    draw = random.Random(1)
    alphabet = string.printable + "\r\n\x1b[31m\u2028\u2029\x85\x00\ud800é"
    for _ in range(2000):
        text = "".join(draw.choice(alphabet) for _ in range(40))
        line = line_of("request", {"field": text})
        assert line.isascii()
        assert line.count("\n") == 1
        assert all(letter.isprintable() for letter in line[:-1])
        assert json.loads(line)["field"] == text


def test_long_field_is_cut():
    assert len(json.loads(line_of("x", {"field": "y" * 10_000}))["field"]) == MAX_FIELD + 3


class Stuck(io.StringIO):
    """A pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        import threading

        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait()
        return super().write(text)


def test_log_that_nobody_reads_holds_no_request_back_and_counts_what_it_dropped():
    stream = Stuck()
    log = Log(stream, max_waiting=10)
    for number in range(50):
        log.write("request", {"number": number})
    stream.go.set()
    log.close()
    log.write("request", {})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert 10 <= len(lines) <= 12


def test_made_up_methods_and_paths_are_no_labels(tmp_path):
    served = Served(tmp_path)

    async def check():
        for number in range(50):
            await served.client.request(f"METHOD{number}", f"/path{number}")
            await served.client.post("/v1/chat/completions", {**CHAT, "model": f"model{number}"})

    asyncio.run(check())
    page = served.service.metrics.page().decode()
    assert "METHOD" not in page
    assert "path4" not in page
    assert "model4" not in page
    assert 'http_route="unmatched"' in page


def test_every_metric_of_the_table_is_on_the_page(tmp_path):
    served = Served(tmp_path)
    asyncio.run(served.client.post("/v1/chat/completions", STREAM))
    page = served.service.metrics.page().decode()
    for row in METRICS.values():
        assert f"# TYPE {row.name} {row.kind}" in page
    assert 'gen_ai_token_type="input"' in page


def test_names_follow_the_conventions():
    for row in METRICS.values():
        if row.semantic_name is not None:
            assert row.name.startswith(row.semantic_name.replace(".", "_"))
        else:
            assert row.name.startswith("small4_")
