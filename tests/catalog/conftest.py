"""The catalogue as it comes, and claims made up for a test."""

from datetime import date
from decimal import Decimal

import pytest

from small4.catalog.card import Catalog, ModelCard
from small4.catalog.claims import Claim, Source
from small4.catalog.fields import FIELDS
from small4.catalog.load import load_catalog
from small4.catalog.published import with_published_prices

MODEL = "mistral-small-4"
TODAY = date(2026, 11, 21)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return with_published_prices(load_catalog(), MODEL)


@pytest.fixture(scope="session")
def card(catalog: Catalog) -> ModelCard:
    return catalog.find(MODEL)


def claim(field, value, *, kind="page", route=None, as_of=TODAY, **more):
    source = Source(id=f"{kind}-{as_of}", name=kind, kind=kind, seen=TODAY, as_of=as_of)
    value = Decimal(value) if field.startswith("price") else value
    return Claim(field=FIELDS[field], value=value, source=source, route=route, **more)
