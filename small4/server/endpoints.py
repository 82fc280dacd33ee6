"""One short handler per path: parse, stream, format."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from small4.errors import FieldError, UnknownPathError
from small4.providers.provider import Caller, Priority
from small4.server.answering import Answering, Job
from small4.server.body import check_json
from small4.server.dialects import Asked
from small4.server.exchange import Exchange, exchange_of
from small4.server.idempotency import checked_key, fingerprint_of
from small4.server.keys import Identity
from small4.server.links import with_images
from small4.server.models import Offer
from small4.server.outlet import ARRAY, EVENTS, Framing, Outlet, RawHeaders, encode_json
from small4.server.service import Service
from small4.server.wishes import wishes_of
from small4.wire.call import Call, Head

T = TypeVar("T")

STREAM_VERB, COUNT_VERB = "streamGenerateContent", "countTokens"
GOOGLE_VERBS = ("generateContent", STREAM_VERB, COUNT_VERB)


class Endpoints:
    """The handlers of all paths that models answer."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: Request) -> ASGIApp:
        """A request to a model, in the dialect of its path."""
        return await self._answer(request, self._asked(request), EVENTS)

    async def generate(self, request: Request) -> ASGIApp:
        """Google's paths end in a model and a verb."""
        model, _, verb = request.path_params["call"].rpartition(":")
        asked = replace(self._asked(request), model=model, is_stream=verb == STREAM_VERB)
        if verb == COUNT_VERB:
            return await self._count(request, asked)
        if verb not in GOOGLE_VERBS or not model:
            raise UnknownPathError(f"there is no such method of a model; there are {', '.join(GOOGLE_VERBS)}")
        return await self._answer(request, asked, EVENTS if request.query_params.get("alt") == "sse" else ARRAY)

    async def count(self, request: Request) -> Response:
        """The tokens of the prompt that a request becomes."""
        return await self._count(request, self._asked(request))

    async def models(self, request: Request) -> Response:
        """The models that are served, in the shape that the caller's client reads."""
        dialect = self.service.dialects.of(request.scope)
        return json_response(dialect.format_models(self.service.models.entries))

    async def model(self, request: Request) -> Response:
        """One of them, by its id or an alias."""
        dialect = self.service.dialects.of(request.scope)
        offer = self.service.models.find(request.path_params["model"])
        return json_response(dialect.format_model(offer.entry))

    async def embeddings(self, request: Request) -> Response:
        """What no model here can do."""
        raise FieldError("no model here makes embeddings; it writes text", "model")

    def _asked(self, request: Request) -> Asked:
        identity: Identity = request.scope["identity"]
        return Asked(owner=identity.id, has_open_names=request.headers.get("x-openresponses") == "1")

    async def _answer(self, request: Request, asked: Asked, framing: Framing) -> ASGIApp:
        dialect = self.service.dialects.of(request.scope)
        body = await self.read_body(request)
        call = await self.off_loop(len(body), dialect.parse, body, asked)
        offer = self.service.models.find(call.model)
        call = suited(call, offer)
        job = self._job(request, call, offer)
        writer = dialect.writer(call, Head(secrets.token_hex(12), int(time.time()), offer.id), asked)
        outlet = Outlet(writer, _headers(call, offer), framing if call.is_stream else None)
        if offer.is_routed:
            outlet.late_headers = partial(self._route_headers, exchange_of(request.scope))
        keep = dialect.keep
        if keep is not None:
            outlet.on_end = lambda: keep(asked.owner, call, writer.whole())
        response = Answering(job, outlet, self.service.admission, self.service.drain, self.service.bounds)
        return await self._once(request, body, response)

    async def _count(self, request: Request, asked: Asked) -> Response:
        dialect = self.service.dialects.of(request.scope)
        if dialect.parse_count is None or dialect.format_count is None:
            raise UnknownPathError("this API counts no tokens beforehand")
        body = await self.read_body(request)
        call = await self.off_loop(len(body), dialect.parse_count, body, asked)
        exchange_of(request.scope).operation = "count_tokens"
        offer = self.service.models.find(call.model)
        job = self._job(request, suited(call, offer), offer)
        async with self.service.admission.place(job.key_id):
            num_tokens = await job.provider.count_tokens(await with_images(job.request, job.fetch))
        return json_response(dialect.format_count(num_tokens))

    def _job(self, request: Request, call: Call, offer: Offer) -> Job:
        identity: Identity = request.scope["identity"]
        fetch = partial(self.service.fetcher.fetch, hold=partial(self.service.bodies.hold, request.scope))
        exchange = exchange_of(request.scope)
        caller = Caller(
            name=identity.id,
            salt=identity.salt.encode(),
            priority=priority_of(request.scope),
            request_id=exchange.id,
            dialect=self.service.dialects.of(request.scope).name,
            wishes=wishes_of(call) if offer.is_routed else None,
        )
        exchange.model, exchange.effort = offer.id, call.request.effort
        exchange.num_messages, exchange.is_stream = len(call.request.messages), call.is_stream
        return Job(provider=offer.provider, request=call.request, fetch=fetch, caller=caller, key_id=identity.id)

    def _route_headers(self, exchange: Exchange) -> RawHeaders:
        """Which route answers; nothing before the first event, which a heartbeat may precede."""
        gateway = self.service.gateway
        trail = None if gateway is None else gateway.trails.find(exchange.id, exchange.key_id or "")
        if trail is None or trail.route is None:
            return []
        exchange.answered_by = trail.route
        return [(b"x-small4-route", trail.route.encode())]

    async def _once(self, request: Request, body: bytes, response: ASGIApp) -> ASGIApp:
        """The response; with an `Idempotency-Key`, one that is given once and then repeated."""
        header = request.headers.get("idempotency-key")
        if header is None:
            return response
        identity: Identity = request.scope["identity"]
        name = (identity.id, checked_key(header, self.service.bounds))
        target = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        fingerprint = await self.off_loop(len(body), fingerprint_of, target, body)

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            await self.service.kept.answer(name, fingerprint, response, scope, receive, send)

        return respond

    async def read_body(self, request: Request) -> bytes:
        """The body, within the bounds."""
        body = await self.service.bodies.read(request.scope, request.receive)
        exchange_of(request.scope).request_bytes = len(body)
        if len(body) > self.service.bounds.parse_off_loop_bytes:
            await self.off_loop(len(body), check_json, body, self.service.bounds)
        return body

    async def off_loop(self, size: int, work: Callable[..., T], *arguments: object) -> T:
        """Do work on so many bytes, in a thread if they are many."""
        if size <= self.service.bounds.parse_off_loop_bytes:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.service.parsers, work, *arguments)


def priority_of(scope: Scope) -> Priority:
    """Whether a person waits for this answer; the lines of a batch come with a scope that says otherwise."""
    return "batch" if scope.get("small4.is_batch") else "interactive"


def suited(call: Call, offer: Offer) -> Call:
    """The call, at the temperature that is recommended for this model where the caller left it open."""
    request = call.request
    temperature = offer.provider.model.temperatures.get(request.effort)
    if call.has_temperature or temperature is None:
        return call
    return replace(call, request=replace(request, sampling=replace(request.sampling, temperature=temperature)))


def json_response(content: object, status: int = 200) -> Response:
    """A body of JSON."""
    return Response(encode_json(content), status, media_type="application/json")


def _headers(call: Call, offer: Offer) -> RawHeaders:
    headers: RawHeaders = [(b"x-reasoning-effort", call.request.effort.encode())]
    ignored = [path for path in call.ignored if not (offer.is_routed and path == "provider")]
    if ignored:
        headers.append((b"x-ignored-fields", ", ".join(ignored).encode("ascii", "replace")))
    return headers
