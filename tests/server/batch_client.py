"""A client of files and batches, and a provider that says back what it was asked."""

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from small4.chat import Finish, TextDelta, Usage
from small4.providers.provider import Caller
from small4.providers.scripted import SCRIPTED, ScriptedProvider
from small4.server.bounds import Bounds
from small4.wire.openai_batch import ENDED
from tests.server.asgi import Client, Served

BOUNDARY = "a-boundary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
CHAT_PATH = "/v1/chat/completions"
QUICK = {"batch_retry_seconds": 0.001}


class Echo(ScriptedProvider):
    """Says the last message back; one that begins with "wait" is answered once `may_go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SCRIPTED
        self.may_go = asyncio.Event()
        self.asked: list[str] = []
        self.callers: list[Caller] = []

    async def stream(self, request, caller):
        text = request.messages[-1].content
        self.asked.append(text)
        self.callers.append(caller)
        self.num_open += 1
        try:
            if text.startswith("wait"):
                await self.may_go.wait()
            self._scripts = [[TextDelta(text), Finish("stop", Usage(1, 1))]]
            async for event in super().stream(request, caller):
                yield event
        finally:
            self.num_open -= 1


def form(data: bytes, purpose: str | None = "batch", name: str = "file", **fields: str) -> bytes:
    parts = {**({} if purpose is None else {"purpose": purpose}), **fields}
    head = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in parts.items()
    )
    file = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="in.jsonl"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + file.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def line(custom_id: str, text: str = "Hi", url: str = CHAT_PATH, **body: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    fields = {"model": "scripted", "messages": messages, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": fields}).encode()


async def upload(client: Client, *lines: bytes) -> str:
    reply = await client.post("/v1/files", form(b"\n".join(lines)), headers=FORM)
    assert reply.status == 200, reply.body
    return reply.json["id"]


async def create(client: Client, file_id: str, endpoint: str = CHAT_PATH, **fields: object):
    body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **fields}
    return await client.post("/v1/batches", body)


async def ended(client: Client, batch_id: str, seconds: float = 10.0):
    async with asyncio.timeout(seconds):
        while (batch := (await client.get(f"/v1/batches/{batch_id}")).json)["status"] not in ENDED:
            await asyncio.sleep(0.002)
    return batch


def num_answered(served: Served, batch_id: str) -> int:
    return served.app.state.batches.store.find("local", batch_id).batch.request_counts.completed


async def content(client: Client, file_id: str | None) -> list[dict]:
    if file_id is None:
        return []
    reply = await client.get(f"/v1/files/{file_id}/content")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream")
    return [json.loads(entry) for entry in reply.body.splitlines()]


@asynccontextmanager
async def serving(directory: Path, *scripts, **options):
    """A server whose batches are let go of at the end, wherever they stand."""
    served = Served(directory, *scripts, **options)
    try:
        yield served
    finally:
        await served.app.state.batches.close()


def echoing(directory: Path, **bounds):
    return serving(directory, provider=Echo(), bounds=Bounds(**QUICK, **bounds))


@contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """As a full disk has it: what is written of a file beyond that is written in part, and then not at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
