"""Providers that are known by name: those of the catalogue that have an address, the user's own files included."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from small4.catalog.card import Address, Catalog
from small4.catalog.load import load_catalog
from small4.errors import ConfigError
from small4.providers.endpoint import DIALECTS, Dialect, Endpoint, endpoint_at

SMALL4 = "mistral-small-4"
SMALL4_WORDS = ("mistral-small-4", "mistral-small-2603")  # in every id that it has anywhere
_KEY_PATHS = {"https://openrouter.ai": "/key"}  # that answer for a key, where the list of models is open to all
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_VALUE = re.compile(r"[A-Za-z0-9_-]{1,64}")  # that may stand in a path


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProvider:
    """A provider that needs no URL to be used."""

    endpoint: Endpoint
    variable: str | None  # of the environment, in which its users have their key
    model_id: str  # Small 4's id there
    key_path: str | None = None

    @property
    def name(self) -> str:
        return self.endpoint.name


def known_providers(environment: Mapping[str, str], catalog: Catalog | None = None) -> dict[str, KnownProvider]:
    """Them by name; a base URL with a variable in it is known only where the environment has that variable."""
    return {name: found for name, found in _all(environment, catalog) if isinstance(found, KnownProvider)}


def unusable_providers(environment: Mapping[str, str], catalog: Catalog | None = None) -> dict[str, str]:
    """What is wrong with a variable in a base URL, by the name of the provider; the others are known all the same."""
    return {name: str(found) for name, found in _all(environment, catalog) if isinstance(found, ConfigError)}


def names_of_small4(catalog: Catalog | None = None) -> tuple[str, ...]:
    """The spellings of Small 4 that are published; all mean the same model."""
    card = (catalog or load_catalog()).find(SMALL4)
    return (card.id, *card.aliases)


def small4_among(model_ids: Iterable[str]) -> str | None:
    """The id that Small 4 has in a list of models."""
    found = [model_id for model_id in model_ids if any(word in model_id.lower() for word in SMALL4_WORDS)]
    return min(found, key=len, default=None)


def _all(environment: Mapping[str, str], catalog: Catalog | None) -> Iterator[tuple[str, KnownProvider | ConfigError]]:
    for address in (catalog or load_catalog()).find(SMALL4).addresses:
        try:
            known = _known(address, environment)
        except ConfigError as error:
            yield address.name, error
            continue
        if known is not None:
            yield known.name, known


def _known(address: Address, environment: Mapping[str, str]) -> KnownProvider | None:
    """The provider at an address; None where it cannot be asked, or is only a way through another that is known."""
    dialect = _dialect(address.dialect)
    base_url = _filled(address.base_url or "", environment)
    if dialect is None or not base_url or address.upstream is not None:
        return None
    endpoint = endpoint_at(base_url, name=address.name, dialect=dialect)
    key_path = _KEY_PATHS.get(endpoint.origin)
    return KnownProvider(endpoint=endpoint, variable=address.key_variable, model_id=address.model_id, key_path=key_path)


def _dialect(word: str | None) -> Dialect | None:
    return next((dialect for dialect in DIALECTS if dialect == word), None)


def _filled(base_url: str, environment: Mapping[str, str]) -> str:
    """The URL with its variables replaced; nothing where one is not set."""
    for variable in _VARIABLE.findall(base_url):
        value = environment.get(variable, "")
        if value and not _VALUE.fullmatch(value):
            raise ConfigError(f"{variable} is no part of a path; it may have letters, digits, '-' and '_'")
        if not value:
            return ""
        base_url = base_url.replace(f"${{{variable}}}", value)
    return base_url
