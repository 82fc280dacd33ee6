"""Responses that callers may go on from: kept in memory, within bounds, each caller's apart from all others'.

A response holds every item of its conversation. Items are shared between the responses of one conversation, so a long
one costs little more than its last turn, and bytes are counted once. The least recently used response goes first.
Several threads may use a store at once, since large requests are parsed beside the event loop.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from small4.errors import ConfigError, UnknownResponseError
from small4.wire.call import Call
from small4.wire.responses_items import kept_item
from small4.wire.responses_parts import Item
from small4.wire.responses_request import ResponsesForm


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """How much is kept, and for how long."""

    max_responses: int = 4096
    max_bytes: int = 256 * 2**20  # of JSON
    max_age_seconds: float = 24 * 3600.0  # since a response was made or last gone on from

    def __post_init__(self) -> None:
        if self.max_responses < 1 or self.max_bytes < 1 or self.max_age_seconds <= 0:
            raise ConfigError("a store of responses needs room for one and time to keep it; raise its bounds")


@dataclass(slots=True, eq=False)
class _Kept:
    """An item, and how many responses hold it."""

    fields: Item
    num_bytes: int
    num_holders: int = 0


@dataclass(slots=True, eq=False)
class _Response:
    body: dict[str, Any]
    num_bytes: int
    num_input: int  # of the items: what was said before the response's own
    items: tuple[_Kept, ...]
    used_at: float


class ResponsesStore:
    """Keeps responses by owner and id; `clock` counts seconds."""

    def __init__(self, config: StoreConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._responses: OrderedDict[tuple[str, str], _Response] = OrderedDict()  # the least recently used first
        self._by_item: dict[tuple[str, str], _Kept] = {}
        self._by_fields: dict[int, _Kept] = {}  # by identity: items of a thread come back as they were given out
        self._lock = threading.Lock()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._responses)

    def of(self, owner: str) -> "OwnResponses":
        """What one caller's requests may go on from."""
        return OwnResponses(self, owner)

    def keep(self, owner: str, call: Call, response: dict[str, Any]) -> None:
        """Keep a response that has ended, unless its call asked not to."""
        form = call.form
        assert isinstance(form, ResponsesForm)
        if not form.is_stored:
            return
        name = response["id"].removeprefix("resp_")
        new = [kept_item(item, f"in_{name}_{number}") for number, item in enumerate(form.new_items)]
        num_bytes = _size(response)
        with self._lock:
            items = tuple(self._take(item) for item in (*form.past_items, *new, *response["output"]))
            fresh = sum(item.num_bytes for item in items if not item.num_holders)
            if num_bytes + fresh > self._config.max_bytes:
                return  # it would push out all others, and then itself
            self._add(owner, _Response(response, num_bytes, len(form.past_items) + len(new), items, self._clock()))

    def response(self, owner: str, response_id: str) -> dict[str, Any]:
        """The object of a kept response."""
        with self._lock:
            return self._find(owner, response_id).body

    def input_items(self, owner: str, response_id: str) -> list[Item]:
        """What was said before the response's own output, oldest first."""
        with self._lock:
            found = self._find(owner, response_id)
            return [item.fields for item in found.items[: found.num_input]]

    def thread(self, owner: str, response_id: str) -> Sequence[Item]:
        """All items up to the end of the response."""
        with self._lock:
            return [item.fields for item in self._find(owner, response_id).items]

    def item(self, owner: str, item_id: str) -> Item | None:
        """The item of that id, if one is kept."""
        with self._lock:
            self._drop_old()
            found = self._by_item.get((owner, item_id))
            return None if found is None else found.fields

    def delete(self, owner: str, response_id: str) -> None:
        """Forget a response; those that went on from it stay whole."""
        with self._lock:
            self._find(owner, response_id)
            self._drop((owner, response_id))

    def _add(self, owner: str, response: _Response) -> None:
        self._responses[owner, response.body["id"]] = response
        self.num_bytes += response.num_bytes
        for item in response.items:
            self._hold(owner, item)
        self._shrink()

    def _find(self, owner: str, response_id: str) -> _Response:
        self._drop_old()
        found = self._responses.get((owner, response_id))
        if found is None:
            raise UnknownResponseError(
                f"no response {response_id[:80]!r} is kept here; it was never stored, or it was dropped to make room. "
                "Send the whole conversation in input"
            )
        found.used_at = self._clock()
        self._responses.move_to_end((owner, response_id))
        return found

    def _take(self, fields: Item) -> _Kept:
        return self._by_fields.get(id(fields)) or _Kept(fields, _size(fields))

    def _hold(self, owner: str, item: _Kept) -> None:
        item.num_holders += 1
        if item.num_holders > 1:
            return
        self.num_bytes += item.num_bytes
        self._by_fields[id(item.fields)] = item
        item_id = item.fields.get("id")
        if isinstance(item_id, str):
            self._by_item[owner, item_id] = item

    def _let_go(self, owner: str, item: _Kept) -> None:
        item.num_holders -= 1
        if item.num_holders:
            return
        self.num_bytes -= item.num_bytes
        del self._by_fields[id(item.fields)]
        item_id = item.fields.get("id")
        if isinstance(item_id, str) and self._by_item.get((owner, item_id)) is item:
            del self._by_item[owner, item_id]

    def _drop(self, key: tuple[str, str]) -> None:
        response = self._responses.pop(key)
        self.num_bytes -= response.num_bytes
        for item in response.items:
            self._let_go(key[0], item)

    def _drop_old(self) -> None:
        oldest = self._clock() - self._config.max_age_seconds
        while self._responses and next(iter(self._responses.values())).used_at < oldest:
            self._drop(next(iter(self._responses)))

    def _shrink(self) -> None:
        self._drop_old()
        config = self._config
        while len(self._responses) > config.max_responses or self.num_bytes > config.max_bytes:
            self._drop(next(iter(self._responses)))


@dataclass(frozen=True, slots=True)
class OwnResponses:
    """The `Past` of one caller."""

    store: ResponsesStore
    owner: str

    def thread(self, response_id: str) -> Sequence[Item]:
        """All items up to the end of a response."""
        return self.store.thread(self.owner, response_id)

    def item(self, item_id: str) -> Item | None:
        """A kept item, if there is one of that id."""
        return self.store.item(self.owner, item_id)


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))
