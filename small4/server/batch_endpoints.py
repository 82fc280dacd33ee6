"""What stands around files and batches, as OpenAI's clients ask for it: each caller's own, and nobody else's."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from small4.errors import FieldError
from small4.server.batches import Batches
from small4.server.body import ClientGone
from small4.server.endpoints import Endpoints, json_response
from small4.server.exchange import exchange_of
from small4.server.file_store import Incoming
from small4.server.multipart import Form, FormReader
from small4.server.service import Service
from small4.wire import openai_batch
from small4.wire.decode import Ignored, convert, decode_object
from small4.wire.openai_batch import BatchFields, BatchObject, ExpiresAfter, FileObject

BYTES_TYPE = "application/octet-stream"
PIECE_BYTES = 256 * 2**10
MAX_FILES_LISTED = 10_000


class BatchEndpoints:
    """All handlers of files and of batches."""

    def __init__(self, service: Service, endpoints: Endpoints, batches: Batches) -> None:
        self.service, self.endpoints, self._batches = service, endpoints, batches

    async def upload(self, request: Request) -> Response:
        """Take a file, which goes to the disk as it arrives."""
        owner, files = _owner(request), self._opened().files
        reader = FormReader(request.headers.get("content-type", ""), self.service.bounds)
        incoming = files.begin(owner)
        try:
            form = await self._read_form(request, reader, incoming)
            seconds = _lifetime(form)
            file = await incoming.keep((form.filename or "file")[:200], "batch", seconds)
        finally:
            incoming.discard()
        ignored = Ignored()
        for name in form.fields.keys() - {"purpose", "expires_after[anchor]", "expires_after[seconds]"}:
            ignored.add(name)
        return _noting(json_response(file), ignored)

    async def files(self, request: Request) -> Response:
        """A page of the caller's files."""
        purpose = request.query_params.get("purpose")
        found = [file for file in self._opened().files.own(_owner(request)) if purpose in (None, file.purpose)]
        is_ascending = request.query_params.get("order") == "asc"
        return _page(request, found if is_ascending else found[::-1], MAX_FILES_LISTED, MAX_FILES_LISTED)

    async def file(self, request: Request) -> Response:
        """What is known of a file."""
        return json_response(self._find(request))

    async def delete(self, request: Request) -> Response:
        """Remove a file."""
        file_id = request.path_params["file"]
        self._opened().delete_file(_owner(request), file_id)
        return json_response(openai_batch.format_deleted_file(file_id))

    async def content(self, request: Request) -> ASGIApp:
        """A file's bytes."""
        file = self._find(request)
        return _Content(self._batches.files.path(file.id), file.bytes, self.service.bounds.send_stall_seconds)

    async def create(self, request: Request) -> Response:
        """A new batch."""
        body = decode_object(await self.endpoints.read_body(request))
        fields = convert(body, BatchFields)
        ignored = Ignored()
        ignored.unknown(body, BatchFields)
        return _noting(json_response(self._opened().create(_owner(request), fields)), ignored)

    async def batches(self, request: Request) -> Response:
        """A page of the caller's batches, the newest first."""
        found = [stored.batch for stored in self._opened().store.own(_owner(request))]
        return _page(request, found[::-1], openai_batch.DEFAULT_LISTED, openai_batch.MAX_LISTED)

    async def batch(self, request: Request) -> Response:
        """How far a batch is."""
        return json_response(self._opened().store.find(_owner(request), request.path_params["batch"]).batch)

    async def cancel(self, request: Request) -> Response:
        """End a batch with what it has."""
        return json_response(self._opened().cancel(_owner(request), request.path_params["batch"]))

    def _opened(self) -> Batches:
        self._batches.open()
        return self._batches

    def _find(self, request: Request) -> FileObject:
        return self._opened().files.find(_owner(request), request.path_params["file"])

    async def _read_form(self, request: Request, reader: FormReader, incoming: Incoming) -> Form:
        bounds = self.service.bounds
        room = bounds.max_form_parts * (bounds.max_form_head_bytes + bounds.max_form_field_bytes)
        parts = self.service.bodies.parts(request.scope, request.receive, bounds.max_file_bytes + room)
        async with aclosing(parts):
            async for part in parts:
                exchange_of(request.scope).request_bytes += len(part)
                for piece in reader.feed(part):
                    await incoming.take(piece)
        form = reader.finish()
        if form.fields.get("purpose") != "batch":
            raise FieldError("purpose must be batch; files serve nothing else here", "purpose")
        return form


class _Content:
    """An ASGI response: a file, piece by piece, for as long as its reader takes them."""

    def __init__(self, path: Path, num_bytes: int, stall_seconds: float) -> None:
        self._path, self._num_bytes, self._stall_seconds = path, num_bytes, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._path.open("rb") as file:
            headers = [
                (b"content-type", BYTES_TYPE.encode()),
                (b"content-length", str(self._num_bytes).encode()),
                (b"content-disposition", b"attachment"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while scope["method"] != "HEAD" and (piece := await asyncio.to_thread(file.read, PIECE_BYTES)):
                try:
                    async with asyncio.timeout(self._stall_seconds):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                except TimeoutError:
                    raise ClientGone from None
        await send({"type": "http.response.body", "body": b""})


def _owner(request: Request) -> str:
    owner: str = request.scope["identity"].id
    return owner


def _lifetime(form: Form) -> float | None:
    """Seconds that a file is to be kept, if its form says so."""
    anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    try:
        return msgspec.convert({"anchor": anchor, "seconds": seconds}, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError:
        message = "expires_after takes the anchor created_at and 3600 to 2592000 seconds"
        raise FieldError(message, "expires_after") from None


def _page(
    request: Request, found: list[FileObject] | list[BatchObject], default_limit: int, max_limit: int
) -> Response:
    query = request.query_params
    text = query.get("limit", str(default_limit))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= max_limit):
        raise FieldError(f"limit must be a whole number from 1 to {max_limit}", "limit")
    return json_response(openai_batch.format_list(found, int(text), query.get("after")))


def _noting(response: Response, ignored: Ignored) -> Response:
    if ignored.paths:
        response.headers["x-ignored-fields"] = ", ".join(ignored.paths)
    return response
