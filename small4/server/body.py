"""Reads a request's body: counted while it arrives, timed while it does not, and looked over before it is decoded."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable

from starlette.types import Message, Receive, Scope

from small4.errors import BusyError, FieldError, RateLimitError, TooLargeError
from small4.server.bounds import Bounds
from small4.server.keys import Identity
from small4.server.refusal import Refusal

# The rest of a string with its quote. Possessive, so that nothing is ever tried twice: its time is linear.
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

RETRY_SECONDS = 1.0
MIN_VALUE_BYTES = 2  # "1," is the shortest way to write one more value


class Bodies:
    """What all requests together may hold: bodies, and images fetched for them; each gives its share back."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds, self.clock = bounds, clock
        self.held_bytes = 0
        self._held_by: Counter[str] = Counter()  # by caller

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; raises as soon as it is too large, too slow, or too much beside the others."""
        held = []
        async for part in self.parts(scope, receive, self.bounds.max_body_bytes):
            self.hold(scope, len(part))
            held.append(part)
        return b"".join(held)

    async def parts(self, scope: Scope, receive: Receive, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, for whoever does not hold it in memory."""
        _check_declared(scope, max_bytes)
        began, size = self.clock(), 0
        while True:
            message = await self._next(receive)
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            _check_size(size, max_bytes)
            is_last = not message.get("more_body", False)
            if is_last:
                scope["small4.has_read_body"] = True
            yield part
            if is_last:
                return
            self._check_rate(size, self.clock() - began)

    def release(self, scope: Scope) -> None:
        """Give back what this request held."""
        self._count(scope, -scope.pop("small4.held_bytes", 0))

    def hold(self, scope: Scope, size: int) -> None:
        """Count bytes that a request brings or has fetched for it; raises where there is no room for them."""
        limit = self.bounds.max_held_body_bytes_per_key
        if self._held_by[_owner(scope)] + size > limit:
            message = f"requests of this key hold {limit} bytes already, the limit; wait for their answers"
            raise RateLimitError(message, RETRY_SECONDS)
        if self.held_bytes + size > self.bounds.max_held_body_bytes:
            raise BusyError("too many large requests at once; send this one again in a moment")
        self._count(scope, size)
        scope["small4.held_bytes"] = scope.get("small4.held_bytes", 0) + size

    def _count(self, scope: Scope, size: int) -> None:
        owner = _owner(scope)
        self.held_bytes += size
        self._held_by[owner] += size
        if not self._held_by[owner]:
            del self._held_by[owner]

    def _check_rate(self, size: int, seconds: float) -> None:
        least = self.bounds.min_body_bytes_per_second
        if seconds > self.bounds.body_seconds and size < least * seconds:
            raise Refusal(408, "timeout", f"the body comes slower than {least} bytes per second, the limit")

    async def _next(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self.bounds.body_idle_seconds):
                return await receive()
        except TimeoutError:
            seconds = self.bounds.body_idle_seconds
            raise Refusal(408, "timeout", f"nothing of the body came for {seconds:g} seconds") from None


def _owner(scope: Scope) -> str:
    """Who a request is of; what is refused before it is known holds nothing."""
    identity: Identity | None = scope.get("identity")
    return "" if identity is None else identity.id


def has_unread_body(scope: Scope) -> bool:
    """Whether a body was announced that has not been read to its end."""
    headers = dict(scope["headers"])
    is_announced = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
    return is_announced and not scope.get("small4.has_read_body", False)


def _check_declared(scope: Scope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            _check_size(int(value[:20]), limit)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"the body is larger than {limit} bytes, the limit; send less at once")


class ClientGone(Exception):
    """The client closed the connection before its answer was whole; nobody is left to hear of it."""


def check_json(body: bytes, bounds: Bounds) -> None:
    """Raises if a body holds more values, or a longer string, than the limits, before it is decoded."""
    if len(body) <= min(bounds.max_json_values * MIN_VALUE_BYTES, bounds.max_json_string_bytes):
        return
    num_values = position = 0
    while (quote := body.find(b'"', position)) != -1:
        num_values += 1 + _num_separators(body, position, quote)
        end = _string_end(body, quote + 1)
        if end - quote > bounds.max_json_string_bytes:
            raise FieldError(f"a string of the body is longer than {bounds.max_json_string_bytes} bytes, the limit")
        _check_values(num_values, bounds)
        position = end + 1
    _check_values(num_values + _num_separators(body, position, len(body)), bounds)


def _num_separators(body: bytes, start: int, end: int) -> int:
    return sum(body.count(mark, start, end) for mark in (b",", b"[", b"{"))


def _string_end(body: bytes, position: int) -> int:
    """Where the string that `position` is in ends; the body's length if it does not."""
    quote = body.find(b'"', position)
    if quote != -1 and body[quote - 1 : quote] != b"\\":  # images are the long ones, and hold no escapes
        return quote
    found = _STRING.match(body, position)
    return len(body) if found is None else found.end() - 1


def _check_values(num_values: int, bounds: Bounds) -> None:
    if num_values > bounds.max_json_values:
        raise FieldError(f"the body holds more than {bounds.max_json_values} JSON values, the limit; send less at once")
