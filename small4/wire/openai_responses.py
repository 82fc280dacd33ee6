"""The Responses API, OpenAI's and Open Responses': `POST /v1/responses` and what stands around it.

The names that every dialect has, see `call.py`; what they are made of is in the `responses_*.py` beside this file.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from small4.errors import FieldError, UpstreamError
from small4.wire.call import Call
from small4.wire.openai_errors import format_error, parse_error
from small4.wire.responses_events import Writer
from small4.wire.responses_items import Sealer
from small4.wire.responses_parts import Item
from small4.wire.responses_reader import Reader
from small4.wire.responses_request import (
    Past,
    ResponsesForm,
    format_request,
    parse_request,
    unsupported,
)

__all__ = [
    "Past",
    "Reader",
    "ResponsesForm",
    "Sealer",
    "Writer",
    "format_count",
    "format_count_request",
    "format_deleted",
    "format_error",
    "format_item_list",
    "format_request",
    "parse_count",
    "parse_error",
    "parse_request",
    "unsupported",
]

MAX_LISTED = 100  # items in one answer
DEFAULT_LISTED = 20

_UNCOUNTED = ("stream", "store", "max_output_tokens", "metadata", "include")


def format_count(num_tokens: int) -> dict[str, Any]:
    """The answer of `POST /v1/responses/input_tokens`, whose body `parse_request` reads."""
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


def format_count_request(call: Call) -> dict[str, Any]:
    """The body for a provider's `POST /v1/responses/input_tokens`."""
    return {name: value for name, value in format_request(call).items() if name not in _UNCOUNTED}


def parse_count(body: bytes) -> int:
    """The number of tokens that a provider counted."""
    try:
        return msgspec.json.decode(body, type=_Count).input_tokens
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise UpstreamError("the provider sent what is no count of tokens") from None


def format_deleted(response_id: str) -> dict[str, Any]:
    """The answer of `DELETE /v1/responses/{id}`."""
    return {"id": response_id, "object": "response", "deleted": True}


def format_item_list(
    items: Sequence[Item], *, limit: int = DEFAULT_LISTED, after: str | None = None, is_ascending: bool = False
) -> dict[str, Any]:
    """The answer of `GET /v1/responses/{id}/input_items`: a page of items, the newest first unless asked otherwise."""
    if not 1 <= limit <= MAX_LISTED:
        raise FieldError(f"limit is {limit}; it must be from 1 to {MAX_LISTED}", "limit")
    ordered = list(items) if is_ascending else list(reversed(items))
    start = 0 if after is None else next((n + 1 for n, item in enumerate(ordered) if item.get("id") == after), None)
    if start is None:
        raise FieldError(f"after: this response has no item {str(after)[:80]!r}", "after")
    page = ordered[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": start + limit < len(ordered),
    }


class _Count(msgspec.Struct):
    input_tokens: int
