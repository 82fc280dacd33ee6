"""How an answer leaves: in one body, as server-sent events, or as the elements of a JSON array."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.types import Send

from small4.chat import AnswerEvent
from small4.wire.call import Writer
from small4.wire.problem import Problem
from small4.wire.sse import KEEP_ALIVE, ServerEvent, encode

RawHeaders = list[tuple[bytes, bytes]]

JSON_HEADERS: RawHeaders = [(b"content-type", b"application/json")]

encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How the events of a stream lie in its body."""

    headers: RawHeaders
    encode: Callable[[ServerEvent, bool], bytes]  # the event, and whether it is the first
    heartbeat: bytes
    end: bytes = b""
    empty: bytes = b""  # the whole body of a stream without events


EVENTS = Framing(
    headers=[(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")],
    encode=lambda event, is_first: encode(event),
    heartbeat=KEEP_ALIVE,
)
ARRAY = Framing(
    headers=JSON_HEADERS,
    encode=lambda event, is_first: (b"[" if is_first else b",\r\n") + event.data.encode(),
    heartbeat=b"\n",
    end=b"]",
    empty=b"[]",
)


class Outlet:
    """Sends what a writer makes of events; without a framing the answer is sent whole."""

    def __init__(self, writer: Writer, headers: RawHeaders, framing: Framing | None) -> None:
        self.writer, self.headers, self.framing = writer, headers, framing
        self.has_begun = False
        self.on_end: Callable[[], None] = lambda: None  # called when the whole answer has been written, and only then
        self.late_headers: Callable[[], RawHeaders] = list  # what is known when the first event has come
        self.may_begin = False  # before its first event: a request that waits for its turn may still be refused
        self._send: Send | None = None
        self._lock = asyncio.Lock()  # a heartbeat may not get between two parts
        self._opening: list[ServerEvent] = []
        self._num_events = 0
        self._has_sent_start = False
        self._sending_since: float | None = None
        self._last_sent = time.monotonic()

    def connect(self, send: Send) -> None:
        """Where to send to."""
        self._send = send
        if self.framing is not None:
            self._opening = self.writer.start()  # before all other events: a writer may number them

    async def push(self, event: AnswerEvent) -> None:
        """Take the next event; returns once the client's buffer has room again."""
        events = self.writer.push(event)
        if self.framing is not None and (data := self._open() + self._encoded(events)):
            await self._send_part(data)

    async def finish(self) -> None:
        """Send what is left, after the last event."""
        if self.framing is None:
            body = encode_json(self.writer.whole())
            self.on_end()
            return await self._send_whole(body)
        events = self.writer.finish()
        self.on_end()
        await self._close(events)

    async def fail(self, problem: Problem) -> None:
        """End a stream that has begun and cannot go on."""
        await self._close(self.writer.fail(problem))

    async def break_silence(self, seconds: float) -> None:
        """Send a heartbeat if nothing was sent for so long, and nothing is being sent."""
        is_silent = self._sending_since is None and time.monotonic() - self._last_sent >= seconds
        if self.framing is not None and self.may_begin and is_silent:
            await self._send_part(self._open() + self.framing.heartbeat)

    def is_stalled(self, seconds: float) -> bool:
        """Whether the client has left its full buffer unread for so long."""
        return self._sending_since is not None and time.monotonic() - self._sending_since >= seconds

    def _open(self) -> bytes:
        """What a stream opens with, the first time."""
        if self.has_begun:
            return b""
        self.has_begun = True
        return self._encoded(self._opening)

    def _encoded(self, events: list[ServerEvent]) -> bytes:
        assert self.framing is not None
        parts = []
        for event in events:
            parts.append(self.framing.encode(event, self._num_events == 0))
            self._num_events += 1
        return b"".join(parts)

    async def _close(self, events: list[ServerEvent]) -> None:
        assert self.framing is not None
        data = self._open() + self._encoded(events)
        end = self.framing.end if self._num_events else self.framing.empty
        await self._send_part(data + end, is_last=True)

    async def _send_part(self, data: bytes, *, is_last: bool = False) -> None:
        assert self._send is not None
        assert self.framing is not None
        async with self._lock:
            self._sending_since = time.monotonic()
            if not self._has_sent_start:
                await self._send_start(self.framing.headers)
            await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
            self._sending_since, self._last_sent = None, time.monotonic()

    async def _send_whole(self, body: bytes) -> None:
        assert self._send is not None
        self.has_begun = True
        self._sending_since = time.monotonic()
        await self._send_start([*JSON_HEADERS, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    async def _send_start(self, headers: RawHeaders) -> None:
        assert self._send is not None
        self._has_sent_start = True
        headers = [*headers, *self.headers, *self.late_headers()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
