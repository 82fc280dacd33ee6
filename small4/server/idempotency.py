"""`Idempotency-Key`: a request that is sent again gets the answer it got, and is not answered twice.

Kept per caller: status, headers and body of what was answered, while memory and age allow. The same key with another
body is refused (422), and so is one whose first request is still being answered (409). Only whole answers are kept: a
request that was refused, failed, or left by its client may be sent again and is answered anew.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from small4.errors import ConflictError, FieldError
from small4.server.bounds import Bounds
from small4.server.exchange import exchange_of
from small4.server.refusal import Refusal

Name = tuple[str, str]  # the caller's id, and their key


@dataclass(slots=True)
class Kept:
    """One answer: being given while `is_done` is false, then whole."""

    fingerprint: bytes
    since: float
    messages: list[Message] = field(default_factory=list)
    size_bytes: int = 0
    is_done: bool = False
    is_too_large: bool = False


class KeptAnswers:
    """The answers of all callers, the oldest first."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds, self.clock = bounds, clock
        self.size_bytes = 0
        self._kept: OrderedDict[Name, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def answer(
        self, name: Name, fingerprint: bytes, response: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Give the response, and keep it; or give the one that was kept."""
        self._drop_old()
        if (known := self._kept.get(name)) is not None:
            return await _repeat(known, fingerprint, send)
        kept = self._kept[name] = Kept(fingerprint, self.clock())
        try:
            await response(scope, receive, self._recording(kept, send))
        finally:
            if kept.is_done and exchange_of(scope).error is None:
                self._drop_to_fit()
            else:
                self._forget(name)

    def _recording(self, kept: Kept, send: Send) -> Send:
        async def sending(message: Message) -> None:
            self._record(kept, message)
            await send(message)

        return sending

    def _record(self, kept: Kept, message: Message) -> None:
        size = len(message.get("body", b""))
        if not kept.is_too_large and not self._has_room(kept, size):
            self.size_bytes -= kept.size_bytes
            kept.is_too_large, kept.size_bytes, kept.messages = True, 0, []
        if not kept.is_too_large:
            kept.messages.append(message)
            kept.size_bytes += size
            self.size_bytes += size
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        kept.is_done = kept.is_done or is_last

    def _has_room(self, kept: Kept, size: int) -> bool:
        """Whether so many bytes more may be kept of this answer, beside those that are being given, too."""
        if kept.size_bytes + size > self.bounds.max_one_kept_answer_bytes:
            return False
        while self.size_bytes + size > self.bounds.max_kept_answer_bytes and self._drop_one():
            pass
        return self.size_bytes + size <= self.bounds.max_kept_answer_bytes

    def _drop_old(self) -> None:
        oldest = self.clock() - self.bounds.idempotency_seconds
        while self._kept:
            name, kept = next(iter(self._kept.items()))
            if kept.since >= oldest or not kept.is_done:
                return
            self._forget(name)

    def _drop_to_fit(self) -> None:
        while len(self._kept) > self.bounds.max_kept_answers and self._drop_one():
            pass

    def _drop_one(self) -> bool:
        """Forget the oldest answer that was given whole, if there is one."""
        done = next((name for name, kept in self._kept.items() if kept.is_done), None)
        if done is not None:
            self._forget(done)
        return done is not None

    def _forget(self, name: Name) -> None:
        self.size_bytes -= self._kept.pop(name).size_bytes


def checked_key(value: str, bounds: Bounds) -> str:
    """The value of the header, if it is one."""
    if not 0 < len(value) <= bounds.max_idempotency_key or not value.isascii() or not value.isprintable():
        raise FieldError(f"Idempotency-Key is 1 to {bounds.max_idempotency_key} printable characters")
    return value


def fingerprint_of(target: bytes, body: bytes) -> bytes:
    """What must be the same for a request to be the same."""
    return hashlib.sha256(len(target).to_bytes(8, "big") + target + body).digest()


async def _repeat(kept: Kept, fingerprint: bytes, send: Send) -> None:
    if kept.fingerprint != fingerprint:
        raise Refusal(422, "conflict", "this Idempotency-Key came with another request before; use a new one")
    if not kept.is_done:
        raise ConflictError("the request with this Idempotency-Key is still being answered; wait for it")
    if kept.is_too_large:
        raise ConflictError("this request was answered, and its answer was too long to keep; use a new key to ask anew")
    start, *rest = kept.messages
    replayed = (b"idempotency-replayed", b"true")
    await send({**start, "headers": [*start["headers"], replayed]})
    for message in rest:
        await send(message)
