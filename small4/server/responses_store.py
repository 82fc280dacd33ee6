"""Responses that callers may go on from: kept in memory, within bounds, each caller's apart from all others'.

A response holds every item of its conversation. Items are shared between the responses of one conversation, so a long
one costs little more than its last turn, and bytes are counted once. Where room is needed, the caller who has taken
most of it loses the response that they have used least recently.

What one request takes from here is bounded like what it may send: a reference of a few bytes may stand for megabytes.
Several threads may use a store at once, since large requests are parsed beside the event loop.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec

from small4.errors import ConfigError, FieldError, UnknownResponseError
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
    max_joined_bytes: int = 32 * 2**20  # that one request goes on from and refers to, an item counted every time

    def __post_init__(self) -> None:
        if min(self.max_responses, self.max_bytes, self.max_joined_bytes) < 1 or self.max_age_seconds <= 0:
            raise ConfigError("a store of responses needs room for one and time to keep it; raise its bounds")


@dataclass(slots=True, eq=False)
class KeptItem:
    """An item, its size as JSON, and how many responses hold it."""

    fields: Item
    num_bytes: int
    num_holders: int = 0


@dataclass(slots=True, eq=False)
class _Response:
    body: dict[str, Any]
    num_bytes: int
    num_input: int  # of the items: what was said before the response's own
    items: tuple[KeptItem, ...]
    used_at: float


class ResponsesStore:
    """Keeps responses by owner and id; `clock` counts seconds."""

    def __init__(self, config: StoreConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self._responses: OrderedDict[tuple[str, str], _Response] = OrderedDict()  # the least recently used first
        self._by_item: dict[tuple[str, str], KeptItem] = {}
        self._numbers: Counter[str] = Counter()  # of responses, by owner
        self._sizes: Counter[str] = Counter()  # in bytes, by owner
        self._by_fields: dict[int, KeptItem] = {}  # by identity: items of a thread come back as they were given out
        self._lock = threading.Lock()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._responses)

    def of(self, owner: str) -> "OwnResponses":
        """What one request of a caller may go on from."""
        return OwnResponses(self, owner, self._config.max_joined_bytes)

    def keep(self, owner: str, call: Call, response: dict[str, Any]) -> None:
        """Keep a response that has ended, unless its call asked not to."""
        form = call.form
        assert isinstance(form, ResponsesForm)
        if not form.is_stored:
            return
        name = response["id"].removeprefix("resp_")
        num_bytes = _size(response)
        with self._lock:
            new = [
                item if id(item) in self._by_fields else kept_item(item, f"in_{name}_{number}")
                for number, item in enumerate(form.new_items)
            ]
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

    def thread(self, owner: str, response_id: str) -> Sequence[KeptItem]:
        """All items up to the end of the response."""
        with self._lock:
            return self._find(owner, response_id).items

    def item(self, owner: str, item_id: str) -> KeptItem | None:
        """The item of that id, if one is kept."""
        with self._lock:
            self._drop_old()
            return self._by_item.get((owner, item_id))

    def delete(self, owner: str, response_id: str) -> None:
        """Forget a response; those that went on from it stay whole."""
        with self._lock:
            self._find(owner, response_id)
            self._drop((owner, response_id))

    def _add(self, owner: str, response: _Response) -> None:
        self._responses[owner, response.body["id"]] = response
        self._numbers[owner] += 1
        self._count(owner, response.num_bytes)
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

    def _take(self, fields: Item) -> KeptItem:
        return self._by_fields.get(id(fields)) or KeptItem(fields, _size(fields))

    def _hold(self, owner: str, item: KeptItem) -> None:
        item.num_holders += 1
        if item.num_holders > 1:
            return
        self._count(owner, item.num_bytes)
        self._by_fields[id(item.fields)] = item
        item_id = item.fields.get("id")
        if isinstance(item_id, str):
            self._by_item[owner, item_id] = item

    def _let_go(self, owner: str, item: KeptItem) -> None:
        item.num_holders -= 1
        if item.num_holders:
            return
        self._count(owner, -item.num_bytes)
        del self._by_fields[id(item.fields)]
        item_id = item.fields.get("id")
        if isinstance(item_id, str) and self._by_item.get((owner, item_id)) is item:
            del self._by_item[owner, item_id]

    def _count(self, owner: str, num_bytes: int) -> None:
        self._sizes[owner] += num_bytes
        self.num_bytes += num_bytes

    def _drop(self, key: tuple[str, str]) -> None:
        owner, response = key[0], self._responses.pop(key)
        self._count(owner, -response.num_bytes)
        for item in response.items:
            self._let_go(owner, item)
        self._numbers[owner] -= 1
        if not self._numbers[owner]:
            del self._numbers[owner], self._sizes[owner]

    def _drop_old(self) -> None:
        oldest = self._clock() - self._config.max_age_seconds
        while self._responses and next(iter(self._responses.values())).used_at < oldest:
            self._drop(next(iter(self._responses)))

    def _shrink(self) -> None:
        self._drop_old()
        while len(self._responses) > self._config.max_responses:
            self._drop_of_greediest(self._numbers)
        while self.num_bytes > self._config.max_bytes:
            self._drop_of_greediest(self._sizes)

    def _drop_of_greediest(self, taken: "Counter[str]") -> None:
        greediest, _ = max(taken.items(), key=itemgetter(1))
        self._drop(next(key for key in self._responses if key[0] == greediest))


class OwnResponses:
    """The `Past` of one request: what its caller keeps, as far as `max_bytes` reach."""

    def __init__(self, store: ResponsesStore, owner: str, max_bytes: int) -> None:
        self._store, self._owner, self._max_bytes = store, owner, max_bytes
        self._num_bytes = 0

    def thread(self, response_id: str) -> Sequence[Item]:
        """All items up to the end of a response."""
        return [self._join(item) for item in self._store.thread(self._owner, response_id)]

    def item(self, item_id: str) -> Item | None:
        """A kept item, if there is one of that id."""
        found = self._store.item(self._owner, item_id)
        return None if found is None else self._join(found)

    def _join(self, item: KeptItem) -> Item:
        self._num_bytes += item.num_bytes
        if self._num_bytes > self._max_bytes:
            raise FieldError(
                f"the kept items that this request goes on from or refers to have more than {self._max_bytes} bytes "
                "together, the limit; refer to fewer, or send a shorter conversation",
                "input",
            )
        return item.fields


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))
