"""HTTP/1.1 as this server reads it: h11 through uvicorn, stricter in what it takes and bounded in how long it waits.

For a client that reads nothing it waits no longer than for one that says nothing: what waits to be sent, the rest of an
answer or a refusal, by a connection that is open or closing, is read at the least rate, or the connection ends.

h11 reads some requests kindly: bare line feeds, folded headers, a length given twice. A proxy before us may read them
otherwise, and then two requests can hide in one. Here such a request ends its connection.
"""

import asyncio
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer  # where the bytes of a request's head are last seen as they came
from h11._writers import ChunkedWriter
from uvicorn.protocols.http.h11_impl import H11Protocol

from small4.server.bounds import Bounds

Lines = list[bytearray]

ONE_TIME = (b"content-length", b"transfer-encoding", b"host")


class StrictBuffer(ReceiveBuffer):
    """h11's buffer; the head of a message is looked at before h11 takes it apart."""

    def __init__(self, max_headers: int) -> None:
        super().__init__()
        self._max_headers = max_headers
        self._taken = bytearray()

    def maybe_extract_lines(self) -> Lines | None:
        lines: Lines | None = super().maybe_extract_lines()
        if lines is not None:
            check_head(bytes(self._taken), self._max_headers)
        return lines

    def _extract(self, count: int) -> bytearray:
        self._taken = super()._extract(count)
        return self._taken


class StreamingConnection(h11.Connection):
    """h11's connection; a part of a chunked body, which changes no state, is framed without a walk through them all."""

    def send(self, event: h11.Event) -> Any:
        """See `h11.Connection.send`."""
        if type(event) is h11.Data and type(self._writer) is ChunkedWriter and self.our_state is h11.SEND_BODY:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        return super().send(event)


def check_head(head: bytes, max_headers: int) -> None:
    """Raises what h11 raises of a request that it cannot read; `head` ends with its empty line."""
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise h11.RemoteProtocolError("a line ends without CR LF")
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) > max_headers:
        raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
    names = [line.partition(b":")[0].lower() for line in lines]
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise h11.RemoteProtocolError("a header is folded")
    if any(names.count(name) > 1 for name in ONE_TIME):
        raise h11.RemoteProtocolError("a header that says how to read the request came twice")
    if any(name == b"content-length" and b"," in line for name, line in zip(names, lines, strict=True)):
        raise h11.RemoteProtocolError("a list of lengths")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("the body has two lengths")


def protocol_of(bounds: Bounds) -> type[H11Protocol]:
    """The protocol class for uvicorn, with these bounds."""

    class BoundedProtocol(StrictProtocol):
        server_bounds = bounds

    return BoundedProtocol


class StrictProtocol(H11Protocol):
    """One connection."""

    server_bounds: Bounds

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = StreamingConnection(h11.SERVER, self.conn._max_incomplete_event_size)
        self.conn._receive_buffer = StrictBuffer(self.server_bounds.max_headers)  # which is empty still
        self._head_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0  # when the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # From the first byte that waits nothing more is written, so what waits grows less exactly as it is read.
        transport.set_write_buffer_limits(high=0)
        # Whoever handles a request can end its connection at once, with whatever its client has not read.
        self.app_state = {**self.app_state, "abort": transport.abort}
        if len(self.connections) > self.server_bounds.max_connections:
            self._refuse(503, "too many connections; come again in a moment")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reader_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What the transport calls when bytes begin to wait for their reader."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """What it calls when all of them have left."""
        self._stop_reader_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn._receive_buffer:  # the next request has begun already
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when h11 cannot read a request."""
        self._refuse(400, "this cannot be read as one request, in one way only")

    def _await_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.server_bounds.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            seconds = self.server_bounds.header_seconds
            self._refuse(408, f"the headers did not come within {seconds:g} seconds, the limit")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_reader(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(self.server_bounds.send_stall_seconds, self._look_at_reader)

    def _look_at_reader(self) -> None:
        bounds = self.server_bounds
        least = max(1, int(bounds.send_stall_seconds * bounds.min_send_bytes_per_second))
        if self._unread_bytes - self.transport.get_write_buffer_size() >= least:
            self._await_reader()
        else:
            self.transport.abort()

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer what was never a request, and hang up; in no dialect, since it has no path."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its body turned out to be none: whoever reads it hears that at once
            self.cycle.message_event.set()
            if self.cycle.response_started:
                return self.transport.abort()
        body = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":null}}' % message.encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


_REASONS = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
