"""A real HTTP server that does what a script says, byte by byte: delays, cuts, garbles, stalls and resets.

It keeps what it was sent.

A script is what happens to one request: bytes are written as they stand, head and all, `Wait` passes time, and `Stall`,
`Close` and `Reset` end the connection in their ways. Without one of these it is kept for the next request.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_HEAD = 2**16
MAX_WRITE = 2**16


@dataclass(frozen=True)
class Wait:
    """Time that passes before the next step."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Nothing more, with the connection open for as long as the client likes."""


@dataclass(frozen=True)
class Close:
    """The connection ends in good order."""


@dataclass(frozen=True)
class Reset:
    """The connection ends with a reset."""


@dataclass(frozen=True)
class Forever:
    """The same bytes again and again, as fast as the client reads, or with a pause between them."""

    data: bytes
    pause_seconds: float = 0.0


Step = bytes | Wait | Stall | Close | Reset | Forever
Script = Sequence[Step]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def raw(self) -> bytes:
        """All that it said, for searching."""
        head = "\n".join([self.method, self.target, *(f"{name}: {value}" for name, value in self.headers.items())])
        return head.encode("latin-1") + b"\n" + self.body


class FaultServer:
    """Plays its scripts in turn, the last one again and again; or whatever a function makes of a request."""

    def __init__(self, *scripts: Script, choose: Callable[[Asked], Script] | None = None) -> None:
        self.asked: list[Asked] = []
        self.num_connections = 0
        self._scripts = list(scripts)
        self._choose = choose or self._next
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> "FaultServer":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=MAX_HEAD)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next(self, asked: Asked) -> Script:
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.num_connections += 1
        try:
            while (asked := await _read_request(reader)) is not None:
                self.asked.append(asked)
                if not await _play(self._choose(asked), reader, writer):
                    return
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head[:-4].split("\r\n")
    method, target, _ = request.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


async def _play(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Do what the script says; whether the connection is good for another request."""
    for step in script:
        match step:
            case bytes():
                for start in range(0, len(step), MAX_WRITE):
                    writer.write(step[start : start + MAX_WRITE])
                    await writer.drain()
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Forever(data, pause):
                while True:
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(pause)
            case Stall():
                await reader.read()
                return False
            case Close():
                return False
            case Reset():
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
    return True


EVENTS = "text/event-stream"
JSON = "application/json"


def head(status: int = 200, kind: str = JSON, *, length: int | None = None, **headers: str) -> bytes:
    """The status line and headers; with a length, or in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}", framing]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def whole(body: object, status: int = 200, kind: str = JSON, **headers: str) -> bytes:
    """A whole answer with its length; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, kind, length=len(data), **headers) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def stream(pieces: Iterable[bytes], **headers: str) -> bytes:
    """A whole stream, each piece a chunk."""
    return head(200, EVENTS, **headers) + b"".join(map(chunk, pieces)) + LAST_CHUNK
