"""The connections to one hosted provider: pooled, bounded in time and size, and the only place that sends its key.

In this order for every request:

    1. the URL is the endpoint's own, its path ours: nothing of a caller's request chooses where it goes
    2. no redirect is followed, no proxy, cookie or setting of the environment used
    3. connecting, the first byte, every wait between bytes and the whole have limits of their own
    4. bytes are counted as they come, and again as they are unpacked
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache

import httpx2

from small4.errors import (
    ConfigError,
    ConnectionsBusyError,
    UpstreamError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from small4.providers.endpoint import Endpoint
from small4.providers.inflate import inflater_for
from small4.providers.provider_key import ProviderKey

KIB, MIB = 2**10, 2**20
USER_AGENT = "small4"
WHOLE = "the whole answer"  # what a limit of time was for


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamBounds:
    """How long a provider may take, and how much it may send."""

    connect_seconds: float = 5.0  # names, connection and TLS; also the wait for a free connection
    first_byte_seconds: float = 120.0  # from the connection to the first byte of the answer
    idle_seconds: float = 60.0  # between two pieces of the answer
    total_seconds: float = 1800.0
    error_seconds: float = 5.0  # for the body of a refusal; what has come by then is read
    max_line_bytes: int = 1 * MIB  # of a stream
    max_event_bytes: int = 4 * MIB
    max_body_bytes: int = 64 * MIB  # of an answer, compressed or not
    max_error_bytes: int = 64 * KIB  # of a refusal; what is behind that is not read
    max_connections: int = 256
    keep_alive_seconds: float = 20.0  # that an unused connection is kept

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")


class Upstream:
    """One provider's endpoint with its key; any number of requests at once, all in one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        key: ProviderKey | None = None,
        *,
        bounds: UpstreamBounds | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if key is not None and not endpoint.is_confidential:
            raise ConfigError(f"{endpoint.origin} would get the key in plain text; use https://, or give no key")
        if key is not None:
            key.text_for(endpoint.origin)  # raises for another provider's
        self.endpoint, self.key, self.bounds = endpoint, key, bounds or UpstreamBounds()
        self._transport = transport or _transport(self.bounds)

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str]
    ) -> AsyncIterator["Reply"]:
        """Send a request to a path below the endpoint's; the reply may be read within the block."""
        deadline = time.monotonic() + self.bounds.total_seconds
        response = await self._send(method, path, body, headers)
        reply = Reply(response, self.bounds, deadline)
        try:
            yield reply
        finally:
            await reply.close()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def redact(self, text: str) -> str:
        """The text without the provider's key."""
        return text if self.key is None else self.key.redact(text)

    async def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> httpx2.Response:
        bounds = self.bounds
        # Between two pieces of the body `Reply` waits for less; a head that comes byte by byte ends by the sum.
        read = max(bounds.first_byte_seconds, bounds.idle_seconds)
        waits = {"connect": bounds.connect_seconds, "pool": bounds.connect_seconds, "read": read}
        request = httpx2.Request(
            method,
            self.endpoint.base_url + path,
            headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT, **headers},
            content=body,
            extensions={"timeout": waits | {"write": bounds.idle_seconds}},
        )
        limit = bounds.connect_seconds + bounds.first_byte_seconds
        try:
            async with asyncio.timeout(min(limit, bounds.total_seconds)):
                return await self._transport.handle_async_request(request)
        except TimeoutError:
            if bounds.total_seconds < limit:
                raise _too_slow(WHOLE, bounds.total_seconds) from None
            raise _too_slow("the first byte", bounds.first_byte_seconds) from None
        except httpx2.HTTPError as error:
            raise _meaning(error, bounds) from None


class Reply:
    """A provider's answer: its status and headers, and its body piece by piece."""

    def __init__(self, response: httpx2.Response, bounds: UpstreamBounds, deadline: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response, self._bounds, self._deadline = response, bounds, deadline
        self._pieces = self._read()

    @property
    def content_type(self) -> str:
        """The media type without its parameters; "" where there is none."""
        text: str = self.headers.get("content-type", "")
        return text.partition(";")[0].strip().lower()

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, unpacked; raises `UpstreamError` where it breaks off or passes a limit."""
        return self._pieces

    async def whole(self) -> bytes:
        """The body in one piece."""
        return b"".join([piece async for piece in self._pieces])

    async def beginning(self, max_bytes: int) -> bytes:
        """As much of the body as comes soon, up to a limit; for refusals, whose status says the most."""
        data = b""
        with suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(self._bounds.error_seconds):
                async for piece in self._pieces:
                    data += piece
                    if len(data) >= max_bytes:
                        break
        return data[:max_bytes]

    async def drain(self, seconds: float) -> None:
        """Wait shortly for the end of a body of which no more is needed, so that its connection can be used again."""
        with suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(seconds):
                async for _ in self._pieces:
                    pass

    async def close(self) -> None:
        """Let go of the connection; one whose body was not read to its end is closed."""
        await self._pieces.aclose()
        await self._response.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        inflater = inflater_for(self.headers.get("content-encoding", ""))
        num_raw = num_plain = 0
        async with aclosing(self._raw()) as raw:
            async for data in raw:
                num_raw = self._count(num_raw, data)
                for piece in inflater.feed(data):
                    num_plain = self._count(num_plain, piece)
                    yield piece
        inflater.finish()

    async def _raw(self) -> AsyncGenerator[bytes, None]:
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)
        stream = aiter(self._response.stream)
        limit, phase = self._bounds.first_byte_seconds, "the first byte"
        try:
            while True:
                try:
                    data = await self._next(stream, limit, phase)
                except StopAsyncIteration:
                    return
                yield data
                limit, phase = self._bounds.idle_seconds, "more of the answer"
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _next(self, stream: AsyncIterator[bytes], limit: float, phase: str) -> bytes:
        left = self._deadline - time.monotonic()
        if left < limit:
            limit, phase = left, WHOLE
        try:
            async with asyncio.timeout(limit):
                return await anext(stream)
        except TimeoutError:
            told = self._bounds.total_seconds if phase == WHOLE else limit
            raise _too_slow(phase, told) from None
        except httpx2.HTTPError as error:
            raise _meaning(error, self._bounds) from None

    def _count(self, num_bytes: int, data: bytes) -> int:
        num_bytes += len(data)
        if num_bytes > self._bounds.max_body_bytes:
            raise UpstreamError(f"the provider's answer is larger than {self._bounds.max_body_bytes} bytes, the limit")
        return num_bytes


def _transport(bounds: UpstreamBounds) -> httpx2.AsyncHTTPTransport:
    """A pool of connections: a transport by itself follows no redirects and keeps no cookies."""
    limits = httpx2.Limits(
        max_connections=bounds.max_connections,
        max_keepalive_connections=bounds.max_connections,
        keepalive_expiry=bounds.keep_alive_seconds,
    )
    return httpx2.AsyncHTTPTransport(verify=_certificates(), limits=limits, trust_env=False)


@cache
def _certificates() -> ssl.SSLContext:
    """Whom TLS trusts; it takes 20 ms to read, and is the same for all."""
    return httpx2.create_ssl_context(trust_env=False)


def _too_slow(phase: str, seconds: float) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(f"the provider took longer than {seconds:g} seconds, the limit, for {phase}")


def _meaning(error: httpx2.HTTPError, bounds: UpstreamBounds) -> UpstreamError | ConnectionsBusyError:
    """What went wrong on the way, in fixed words: what the network says may hold addresses."""
    match error:
        case httpx2.ConnectTimeout():
            return UpstreamUnreachableError(
                f"no connection to the provider within {bounds.connect_seconds:g} seconds, the limit"
            )
        case httpx2.PoolTimeout():
            return ConnectionsBusyError(
                f"all {bounds.max_connections} connections to the provider are in use; try again shortly"
            )
        case httpx2.ConnectError() | httpx2.UnsupportedProtocol():
            return UpstreamUnreachableError("no connection to the provider: its name, port or certificate fails")
        case httpx2.ReadTimeout():
            return _too_slow("the first byte", bounds.first_byte_seconds)
        case httpx2.WriteTimeout():
            return _too_slow("the request to be sent", bounds.idle_seconds)
        case httpx2.RemoteProtocolError():
            return UpstreamError("the provider closed its connection early, or did not answer in HTTP")
    return UpstreamError("the connection to the provider broke")
