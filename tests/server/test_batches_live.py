"""Batches where it hurts: a server that is killed at random moments, and the nano beside live requests."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from small4.engine.config import EngineConfig
from small4.llm import load
from small4.server.models import Offer
from tests.server.batch_client import FORM, content, create, ended, form, line, serving, upload

PROGRAM = """
import sys
from pathlib import Path
from small4.chat import Finish, TextDelta, Usage
from small4.providers.scripted import Pause, ScriptedProvider
from small4.server.app import create_app
from small4.server.bounds import Bounds
from small4.server.keys import KeyStore
from small4.server.models import Offer
from small4.server.run import serve
script = [Pause(0.01), TextDelta("said"), Finish("stop", Usage(1, 2))]
offer = Offer(id="scripted", provider=ScriptedProvider(script))
app = create_app([offer], KeyStore(Path(sys.argv[1])), bounds=Bounds(max_batch_attempts=1000))
serve(app, port=0, on_start=lambda url: print(url, flush=True))
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, str(directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ)
        self.url = self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.mark.slow
def test_server_that_is_killed_again_and_again_loses_no_line_and_answers_none_twice(tmp_path):
    draw = random.Random(5)
    num_lines, num_kills = 2000, 5
    server = Process(tmp_path)
    lines = [line(f"{n}") if n % 10 else b"{" for n in range(num_lines)]
    file = httpx2.post(f"{server.url}/v1/files", content=form(b"\n".join(lines)), headers=FORM).json()
    fields = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = httpx2.post(f"{server.url}/v1/batches", json=fields).json()["id"]
    counts = []
    for _ in range(num_kills):
        time.sleep(draw.uniform(0.1, 0.5))
        server.kill()
        server = Process(tmp_path)
        counts.append(httpx2.get(f"{server.url}/v1/batches/{batch_id}").json()["status"])
    deadline = time.monotonic() + 120
    while (batch := httpx2.get(f"{server.url}/v1/batches/{batch_id}").json())["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    outputs = [
        httpx2.get(f"{server.url}/v1/files/{batch[name]}/content").text.splitlines()
        for name in ("output_file_id", "error_file_id")
    ]
    server.kill()
    assert counts.count("in_progress") > num_kills / 2  # or nothing was interrupted
    good = [json.loads(entry)["custom_id"] for entry in outputs[0]]
    assert good == [str(n) for n in range(num_lines) if n % 10]
    assert len(outputs[1]) == num_lines / 10


@pytest.mark.slow
def test_nano_answers_a_batch_with_the_tokens_it_says_alone_and_live_requests_meanwhile(tmp_path):
    nano = load("nano", engine=EngineConfig(cache_bytes=2**24, is_plain=True))
    offers = [Offer(id="nano", provider=nano.provider, tokenizer=nano.tokenizer)]
    asked = {"model": "nano", "max_tokens": 24, "reasoning_effort": "none"}

    def question(number: int) -> str:
        return f"What is {number} + {number * 3 + 1}?"

    async def check():
        async with serving(tmp_path, offers=offers, provider=nano.provider) as served:

            async def said(number: int) -> str:
                messages = [{"role": "user", "content": question(number)}]
                reply = await served.client.post("/v1/chat/completions", {**asked, "messages": messages})
                return reply.json["choices"][0]["message"]["content"]

            alone = [await said(number) for number in range(12)]
            lines = [line(f"{n}", question(n), **asked) for n in range(12)]
            file_id = await upload(served.client, *lines, line("long", "12 + 7 = 19. " * 20_000, **asked))
            batch_id = (await create(served.client, file_id)).json["id"]
            live = await asyncio.gather(*(said(number) for number in range(4)))
            batch = await ended(served.client, batch_id, seconds=60)
            good = await content(served.client, batch["output_file_id"])
            (bad,) = await content(served.client, batch["error_file_id"])
        assert live == alone[:4]
        assert [entry["response"]["body"]["choices"][0]["message"]["content"] for entry in good] == alone
        assert (bad["custom_id"], bad["response"]["status_code"]) == ("long", 400)

    asyncio.run(check())
