"""The outermost layer: gives every request an id, turns whatever goes wrong into an answer, and writes what happened.

Nothing that an error says leaves the process unless it is one of our own sentences.
"""

import math
import secrets
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from small4.server.body import Bodies, ClientGone, has_unread_body
from small4.server.dialects import Dialect
from small4.server.exchange import Exchange, exchange_of
from small4.server.log import Log
from small4.server.metrics import Metrics
from small4.server.outlet import RawHeaders, encode_json
from small4.server.refusal import Refusal, problem_behind
from small4.wire.problem import Problem

ALWAYS: RawHeaders = [  # no answer of ours is to be kept by a cache, read as another type, or told where it came from
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

DialectOf = Callable[[Scope], Dialect]


class Observe:
    """ASGI middleware: one `Exchange` per request, its log line, its metrics, and an answer in any case."""

    def __init__(self, app: ASGIApp, dialect_of: DialectOf, bodies: Bodies, metrics: Metrics, log: Log) -> None:
        self.app, self.dialect_of, self.bodies, self.metrics, self.log = app, dialect_of, bodies, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = scope["small4.exchange"] = Exchange(f"req_{secrets.token_hex(12)}", _known_method(scope))
        sending = _Sending(send, exchange)
        try:
            await self.app(scope, receive, sending)
        except ClientGone:
            exchange.has_left, exchange.error = True, "left"
        except Exception as error:
            exchange.fail(error)
            if not exchange.status:
                await send_error(scope, sending, self.dialect_of(scope), error)
        finally:
            self._close(scope, exchange)

    def _close(self, scope: Scope, exchange: Exchange) -> None:
        self.bodies.release(scope)
        exchange.end()
        self.metrics.record(exchange)
        if exchange.fault is not None:
            self.log.fault(exchange.id, exchange.fault)
        self.log.write("request", exchange.line())


class _Sending:
    """`send`, with the headers that every answer has, and a count of what leaves."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send, self._exchange = send, exchange

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            request_id = self._exchange.id.encode()
            names = [(b"x-request-id", request_id), (b"request-id", request_id)]
            message = {**message, "headers": [*message.get("headers", []), *names, *ALWAYS]}
            self._exchange.status = message["status"]
        else:
            self._exchange.response_bytes += len(message.get("body", b""))
        await self._send(message)


async def send_error(scope: Scope, send: Send, dialect: Dialect, error: Exception) -> None:
    """The answer that says what went wrong, in the dialect of whoever asked."""
    problem = problem_behind(error)
    status = problem.exact_status or dialect.status(problem)
    body = encode_json(dialect.format_error(problem, exchange_of(scope).id))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += _headers_of(problem, error)
    if has_unread_body(scope):  # it would have to be read to its end before the connection could be used again
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _headers_of(problem: Problem, error: Exception) -> RawHeaders:
    headers: RawHeaders = []
    if problem.retry_after_seconds is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after_seconds))).encode()))
        headers.append((b"retry-after-ms", str(math.ceil(problem.retry_after_seconds * 1000)).encode()))
    if isinstance(error, Refusal):
        headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if problem.kind == "authentication":
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def _known_method(scope: Scope) -> str:
    """The method, if it is one: what a caller makes up must not become a label or a log line."""
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
