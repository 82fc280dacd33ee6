"""`Idempotency-Key`: a request that is sent again gets the answer it got, and is not answered twice.

Kept per caller: status, headers and body of what was answered, while memory and age allow. The same key with another
body is refused (422), and so is one whose first request is still being answered (409). Only whole answers are kept: a
request that was refused, failed, or left by its client may be sent again and is answered anew.
"""

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from small4.errors import ConflictError, FieldError
from small4.server.bounds import Bounds
from small4.server.exchange import exchange_of
from small4.server.refusal import Refusal

Name = tuple[str, str]  # the caller's id, and their key


@dataclass(slots=True)
class Kept:
    """One answer: being given while `is_done` is false, then whole."""

    name: Name
    fingerprint: bytes
    since: float
    messages: list[Message] = field(default_factory=list)
    size_bytes: int = 0
    is_done: bool = False
    is_given_up: bool = False  # too large, or there was no room


class KeptAnswers:
    """The answers of all callers, the oldest first; room is made by whoever has taken most of it."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds, self.clock = bounds, clock
        self.size_bytes = 0
        self._kept: OrderedDict[Name, Kept] = OrderedDict()
        self._numbers: Counter[str] = Counter()  # of answers, by caller
        self._sizes: Counter[str] = Counter()  # in bytes, by caller

    def __len__(self) -> int:
        return len(self._kept)

    async def answer(
        self, name: Name, fingerprint: bytes, response: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Give the response, and keep it; or give the one that was kept."""
        self._drop_old()
        if (known := self._kept.get(name)) is not None:
            return await _repeat(known, fingerprint, send)
        kept = self._kept[name] = Kept(name, fingerprint, self.clock())
        self._numbers[name[0]] += 1
        try:
            await response(scope, receive, self._recording(kept, send))
        finally:
            if kept.is_done and exchange_of(scope).error is None:
                self._drop_to_fit()
            else:
                self._forget(kept)

    def _recording(self, kept: Kept, send: Send) -> Send:
        async def sending(message: Message) -> None:
            self._record(kept, message)
            await send(message)

        return sending

    def _record(self, kept: Kept, message: Message) -> None:
        """Keep the next part of an answer; those that are being given count, too."""
        if not kept.is_given_up:
            kept.messages.append(message)
            self._count(kept, len(message.get("body", b"")))
        if kept.size_bytes > self.bounds.max_one_kept_answer_bytes:
            self._give_up(kept)
        while self.size_bytes > self.bounds.max_kept_answer_bytes:
            self._make_room()
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        kept.is_done = kept.is_done or is_last

    def _make_room(self) -> None:
        """Have the caller whose answers are largest lose the oldest that was given whole, or else one being given."""
        greediest, _ = max(self._sizes.items(), key=itemgetter(1))
        own = [kept for kept in self._kept.values() if kept.name[0] == greediest and kept.size_bytes]
        done = next((kept for kept in own if kept.is_done), None)
        if done is not None:
            self._forget(done)
        else:
            self._give_up(own[0])

    def _give_up(self, kept: Kept) -> None:
        """Remember of an answer only that it was given."""
        self._count(kept, -kept.size_bytes)
        kept.is_given_up, kept.messages = True, []

    def _count(self, kept: Kept, size: int) -> None:
        kept.size_bytes += size
        self._sizes[kept.name[0]] += size
        self.size_bytes += size

    def _drop_old(self) -> None:
        oldest = self.clock() - self.bounds.idempotency_seconds
        while self._kept:
            kept = next(iter(self._kept.values()))
            if kept.since >= oldest or not kept.is_done:
                return
            self._forget(kept)

    def _drop_to_fit(self) -> None:
        """Have the caller who has most answers lose the oldest that was given whole."""
        while len(self._kept) > self.bounds.max_kept_answers:
            done = [kept for kept in self._kept.values() if kept.is_done]
            if not done:
                return
            self._forget(max(done, key=lambda kept: self._numbers[kept.name[0]]))

    def _forget(self, kept: Kept) -> None:
        """An answer may have been dropped, and its name taken by another, before whoever gave it hears of it."""
        if self._kept.get(kept.name) is not kept:
            return
        del self._kept[kept.name]
        owner = kept.name[0]
        self._count(kept, -kept.size_bytes)
        self._numbers[owner] -= 1
        if not self._numbers[owner]:
            del self._numbers[owner], self._sizes[owner]


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
    if kept.is_given_up:
        raise ConflictError("this request was answered, and there was no room to keep it; use a new key to ask anew")
    start, *rest = kept.messages
    replayed = (b"idempotency-replayed", b"true")
    await send({**start, "headers": [*start["headers"], replayed]})
    for message in rest:
        await send(message)
