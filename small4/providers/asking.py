"""One request to a provider in its own API: its key in the header, and its errors under its name, without the key."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from small4.errors import FieldError, RateLimitError, Small4Error, UpstreamError
from small4.providers.retry_after import retry_after_seconds
from small4.providers.spoken import SPOKEN
from small4.providers.upstream import Reply, Upstream


@asynccontextmanager
async def ask(upstream: Upstream, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Reply]:
    """Send a request below the provider's base URL; the reply may be read within the block."""
    endpoint, key, spoken = upstream.endpoint, upstream.key, SPOKEN[upstream.endpoint.dialect]
    headers = {"Accept": "text/event-stream, application/json", **spoken.headers}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key is not None:
        headers |= spoken.key_headers(key.text_for(endpoint.origin))
    async with upstream.ask(method, path, body=body, headers=headers) as reply:
        yield reply


async def refusal(reply: Reply, upstream: Upstream) -> Small4Error:
    """What a reply with another status than 200 means."""
    if 300 <= reply.status < 400:
        return UpstreamError(
            f"the provider answered with a redirect (HTTP {reply.status}), and none is followed with a key; "
            "give the address that it has now",
            reply.status,
        )
    body = await reply.beginning(upstream.bounds.max_error_bytes)
    error = SPOKEN[upstream.endpoint.dialect].parse_error(reply.status, body)
    wait = retry_after_seconds(reply.headers, time.time())
    if wait is not None and isinstance(error, RateLimitError | UpstreamError):
        error.retry_after_seconds = wait
    return error


@contextmanager
def naming(upstream: Upstream) -> Iterator[None]:
    """Errors from within the block begin with the provider's name and hold no piece of its key."""
    try:
        yield
    except Small4Error as error:
        error.args = (f"{upstream.endpoint.name}: {upstream.redact(str(error))}",)
        if isinstance(error, FieldError) and error.param is not None:
            error.param = upstream.redact(error.param)
        error.__context__ = None  # what it was made from may quote the provider in full
        raise
