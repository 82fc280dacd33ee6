"""The model lists of providers, in every dialect's shape: ids, and how much fits."""

from dataclasses import dataclass
from typing import Any

import msgspec

from small4.errors import UpstreamError

MAX_MODELS = 10_000
_LENGTHS = (  # what servers call the tokens of prompt and answer together
    *("context_length", "max_context_length", "max_model_len", "context_window"),
    *("inputTokenLimit", "max_input_tokens"),
)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that a provider lists."""

    id: str
    context_length: int | None = None  # None: it does not tell


def read_models(body: bytes) -> list[FoundModel]:
    """The models of `GET /models`: under `data` at OpenAI, Anthropic and most others, under `models` at Google."""
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("the provider sent what is no list of models") from None
    rows = listing.models if listing.data is None else listing.data
    if rows is None or len(rows) > MAX_MODELS:
        raise UpstreamError(f"the provider sent no list of models, or one of more than {MAX_MODELS}")
    return [model for row in rows if (model := _model(row)) is not None]


class _Listing(msgspec.Struct):
    data: list[dict[str, Any]] | None = None
    models: list[dict[str, Any]] | None = None


def _model(row: dict[str, Any]) -> FoundModel | None:
    name = row.get("id") or row.get("name")
    if not isinstance(name, str) or not name.isprintable():
        return None
    lengths = (row.get(key) for key in _LENGTHS)
    length = next((value for value in lengths if isinstance(value, int) and value > 0), None)
    return FoundModel(name.removeprefix("models/"), length)
