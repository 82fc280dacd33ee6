"""A client that speaks ASGI to an application in the same event loop, so that a test decides what happens when."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from small4.providers.scripted import ScriptedProvider
from small4.server.app import create_app
from small4.server.keys import KeyStore
from small4.server.log import Log
from small4.server.models import Offer
from small4.wire.sse import EventReader


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The data of all server-sent events."""
        return [event.data for event in EventReader().feed(self.body)]


class Visit:
    """One request: what was sent to its client so far, and when the client reads or leaves."""

    def __init__(self, app: Any, scope: dict[str, Any], parts: list[bytes]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.aborted = False
        self._parts = list(parts)
        self._left = asyncio.Event()
        self._reads = asyncio.Event()
        self._reads.set()
        self._news = asyncio.Condition()
        scope["state"] = {"abort": self._abort}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def _abort(self) -> None:
        self.aborted = True

    async def _receive(self) -> dict[str, Any]:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self._reads.wait()
        async with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def leave(self) -> None:
        self._left.set()

    def stop_reading(self) -> None:
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    async def until(self, text: bytes) -> None:
        """Wait until the client has been sent this."""
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: text in self.body)

    async def begun(self) -> None:
        """Wait until the status has come."""
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: self.messages)

    async def reply(self) -> Reply:
        """The whole answer, once the application is done."""
        async with asyncio.timeout(10):
            await self.task
        start = self.messages[0]
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], headers, self.body)


class Client:
    """Sends requests to an application; every header can be replaced, or left out with None."""

    def __init__(self, app: Any, key: str | None = None, address: tuple[str, int] = ("127.0.0.1", 50_000)) -> None:
        self.app, self.key, self.address = app, key, address

    def visit(
        self,
        method: str,
        target: str,
        body: object = None,
        headers: dict[str, str | None] | list[tuple[str, str]] | None = None,
        parts: list[bytes] | None = None,
    ) -> Visit:
        """Begin a request; `parts` are pieces of a body that comes in several."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Visit(self.app, self._scope(method, target, headers), [data] if parts is None else parts)

    async def request(self, *arguments: Any, **named: Any) -> Reply:
        return await self.visit(*arguments, **named).reply()

    async def post(self, target: str, body: object = None, **named: Any) -> Reply:
        return await self.request("POST", target, body, **named)

    async def get(self, target: str, **named: Any) -> Reply:
        return await self.request("GET", target, **named)

    def _scope(self, method: str, target: str, headers: Any) -> dict[str, Any]:
        raw_path, _, query = target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 4119),
            "client": self.address,
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": _unquoted(raw_path),
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": self._headers(headers),
        }

    def _headers(self, headers: Any) -> list[tuple[bytes, bytes]]:
        own: dict[str, str | None] = {"host": "localhost:4119"}
        if self.key is not None:
            own["authorization"] = f"Bearer {self.key}"
        listed = headers if isinstance(headers, list) else {**own, **(headers or {})}.items()
        if isinstance(headers, list):
            listed = [*((name, value) for name, value in own.items() if name not in dict(headers)), *headers]
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in listed if value is not None]


def _unquoted(path: str) -> str:
    from urllib.parse import unquote

    return unquote(path)


class Lines(io.StringIO):
    """Log lines, parsed."""

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


class Served:
    """An application with one scripted model, a state directory and its log."""

    def __init__(self, directory: Any, *scripts: Any, provider: Any = None, offers: Any = None, **options: Any) -> None:
        self.provider = provider or ScriptedProvider(*scripts)
        self.store = KeyStore(directory)
        self.lines = Lines()
        self.log = Log(self.lines)
        offers = offers or [
            Offer(id="scripted", provider=self.provider, aliases=("other-name",), created=1_800_000_000)
        ]
        self.app = create_app(offers, self.store, log=self.log, **options)
        self.service = self.app.state.service
        self.client = Client(self.app)

    def logged(self) -> list[dict[str, Any]]:
        """All lines; the log is closed."""
        self.log.close()
        return self.lines.parsed


CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "Hi there"}]}
STREAM = {**CHAT, "stream": True}


@asynccontextmanager
async def eventually(seconds: float = 5.0) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield


async def holds(condition: Any, seconds: float = 5.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
