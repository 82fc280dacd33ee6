"""Answers one line of a batch as the same request would be answered if its caller sent it now, but with less haste."""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from small4.errors import EngineStoppedError
from small4.server.endpoints import Endpoints
from small4.server.exchange import exchange_of
from small4.server.keys import Identity
from small4.server.observe import Observe
from small4.server.service import Service
from small4.wire.openai_batch import Endpoint

ENGINE_ENDED = "small4.engine_ended"  # in the scope
LACKING = frozenset({429, 503})  # our capacity lacked, not the request


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What a client would have got."""

    status: int
    request_id: str
    body: bytes
    has_ended_engine: bool = False  # the engine died or hung over it, or over another that ran beside it

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_be_asked_again(self) -> bool:
        return self.status in LACKING


class BatchAnswering:
    """Puts a request to the handler of its path, below the door: bounds, parser, line, model and log are the same."""

    def __init__(self, service: Service, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._app = Observe(self._answer, service.dialects.of, service.bodies, service.metrics, service.log)

    async def answer(self, identity: Identity, endpoint: Endpoint, body: bytes) -> LineAnswer:
        """The whole answer, or the refusal."""
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        scope = _scope(identity, endpoint)
        await self._app(scope, _receiver(body), send)
        headers = dict(messages[0]["headers"])
        parts = [message.get("body", b"") for message in messages[1:]]
        request_id = headers[b"x-request-id"].decode()
        return LineAnswer(messages[0]["status"], request_id, b"".join(parts), scope.get(ENGINE_ENDED, False))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route, exchange.key_id = scope["path"], scope["identity"].id
        response = await self._endpoints.answer(Request(scope, receive))
        try:
            await response(scope, receive, send)
        except EngineStoppedError:
            scope[ENGINE_ENDED] = True
            raise


def _scope(identity: Identity, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": endpoint,
        "raw_path": endpoint.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "identity": identity,
        "small4.is_batch": True,
    }


def _receiver(body: bytes) -> Receive:
    """A client that has sent its request and never leaves."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop()
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    return receive
