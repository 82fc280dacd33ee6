"""Prices that genai-prices publishes, as claims of every route whose provider and model it knows."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from importlib.resources import files

from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

from small4.catalog.card import Address, Catalog, ModelCard
from small4.catalog.claims import Claim, Source
from small4.catalog.fields import FIELDS

SOURCE = "genai-prices"
# Our fields by the names of genai-prices.
_RATES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
}


def with_published_prices(catalog: Catalog, model: str) -> Catalog:
    """The catalogue with what genai-prices claims of one model's routes."""
    card = catalog.find(model)
    source = _installed(catalog.sources[SOURCE])
    return catalog.with_claims(_published_claims(card, source, get_snapshot()), model)


def _installed(recorded: Source) -> Source:
    """The source by the version that is installed; only of the recorded one is the release day known."""
    data = files("small4.catalog") / "data" / "sources.toml"
    known = tomllib.loads(data.read_text(encoding="utf-8"))[SOURCE]["version"]
    installed = version(SOURCE)
    return replace(recorded, name=f"{SOURCE} {installed}", as_of=recorded.as_of if installed == known else None)


def _published_claims(card: ModelCard, source: Source, snapshot: DataSnapshot) -> Iterator[Claim]:
    for address in card.addresses:
        model = _model_of(address, snapshot, address.model_id)
        if model is None:
            continue
        if model.context_window is not None:
            yield Claim(field=FIELDS["context"], value=model.context_window, source=source, route=address.name)
        standard = Claim(field=FIELDS["price.input"], value=0, source=source, route=address.name)
        yield from _price_claims(model, standard)
        batch = _model_of(address, snapshot, f"{address.model_id}:batch")
        if batch is not None and batch.id.endswith(":batch"):
            yield from _price_claims(batch, standard, "batch.")


def _model_of(address: Address, snapshot: DataSnapshot, model_id: str) -> ModelInfo | None:
    if address.base_url is None or address.upstream is not None:
        return None  # a marketplace's price is not told by provider
    try:
        return snapshot.find_provider_model(model_id, None, None, address.base_url)[1]
    except LookupError:
        return None


def _price_claims(model: ModelInfo, like: Claim, prefix: str = "") -> Iterator[Claim]:
    """The prices of every date that they begin at, and of the batch variant."""
    dated = model.prices if isinstance(model.prices, list) else [model]
    for price in dated:
        start = _start(getattr(price, "constraint", None))
        if start is not None:
            yield from _rate_claims(price.prices, replace(like, valid_from=start[0]), prefix)  # type: ignore[arg-type]
    for variant in model.price_variants or ():
        start = _start(variant.constraint)
        if variant.when == {"processing": "batch"} and start is not None:
            yield from _rate_claims(variant.prices, replace(like, valid_from=start[0]), "batch.")


def _start(constraint: object) -> tuple[date | None] | None:
    """The day from which a price holds; None for one that holds at some hours only, which no claim can say."""
    if constraint is None:
        return (None,)
    return (constraint.start_date,) if isinstance(constraint, StartDateConstraint) else None


def _rate_claims(price: ModelPrice, like: Claim, prefix: str) -> Iterator[Claim]:
    for theirs, ours in _RATES.items():
        rate = getattr(price, theirs, None)
        field = FIELDS.get(f"price.{prefix}{ours}")
        if rate is None or field is None:
            continue
        base = rate.base if isinstance(rate, TieredPrices) else rate
        yield replace(like, field=field, value=base)
        for tier in rate.tiers if isinstance(rate, TieredPrices) else ():
            yield replace(like, field=field, value=tier.price, above_prompt_tokens=tier.start)
