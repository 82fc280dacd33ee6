"""Keys of hosted providers: from the environment, or at rest, sealed, on this machine.

A key lies encrypted with AES-256-GCM in a file that its owner alone may read, under a secret in another such file.
Its seal is bound to the provider's name, base URL and dialect: moved to another entry, or with the URL of its entry
changed, it opens no more, so that no key can be made to go where it was not set for. It is never shown again, but for
its last characters. A variable of the environment wins.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from small4.catalog.card import Catalog
from small4.catalog.load import load_catalog
from small4.errors import ConfigError
from small4.gateway.known import known_providers, unusable_providers
from small4.gateway.private_files import locked, make_private, secret_in, write_private
from small4.gateway.sealing import Seal, derived_key
from small4.places import config_directory, state_directory
from small4.providers.endpoint import Dialect, Endpoint, endpoint_at
from small4.providers.provider_key import ProviderKey

MAX_KEYS = 1000
PURPOSE = "provider keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKey:
    """A provider's key as it lies on disk, with the provider that it was set for."""

    name: str
    base_url: str
    dialect: Dialect
    sealed: str
    created: float  # seconds since 1970

    @property
    def endpoint(self) -> Endpoint:
        return endpoint_at(self.base_url, name=self.name, dialect=self.dialect)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key to use, and where it comes from."""

    key: ProviderKey
    source: str  # the name of a variable, or "kept"


class ProviderKeys:
    """The provider keys of one state directory and one environment; `known` are the providers that have names,
    `unusable` what is wrong with the others of the catalogue.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        *,
        catalog: Catalog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = directory / "provider-keys.json"
        self._secret_file = directory / "provider-secret"
        self._environment = os.environ if environment is None else environment
        self._clock = clock
        catalog = catalog or load_catalog()
        self.known = known_providers(self._environment, catalog)
        self.unusable = unusable_providers(self._environment, catalog)

    @classmethod
    def of_user(cls) -> "ProviderKeys":
        """Those of whoever runs this program; their own files for the catalogue name more providers."""
        return cls(state_directory(), catalog=load_catalog(config_directory() / "catalog"))

    def set(self, endpoint: Endpoint, text: str) -> None:
        """Keep a key for a provider, in the place of the one before it."""
        key = ProviderKey(text.strip(), endpoint.origin)
        if not endpoint.is_confidential:
            raise ConfigError(f"{endpoint.origin} would get the key in plain text; use https://")
        with self._changing() as kept:
            if endpoint.name not in kept and len(kept) >= MAX_KEYS:
                raise ConfigError(f"there are {MAX_KEYS} keys, the limit; remove some")
            sealed = self._seal(kept, endpoint).seal(key.text_for(endpoint.origin))
            kept[endpoint.name] = KeptKey(
                name=endpoint.name,
                base_url=endpoint.base_url,
                dialect=endpoint.dialect,
                sealed=sealed,
                created=self._clock(),
            )

    def remove(self, name: str) -> KeptKey:
        """Forget a key."""
        with self._changing() as kept:
            if name not in kept:
                raise ConfigError(f"no key is kept for {name[:80]!r}; `small4 keys list` tells for which one is")
            return kept.pop(name)

    def kept(self) -> dict[str, KeptKey]:
        """The keys on disk, by the name of their provider."""
        try:
            listing = json.loads(self._file.read_text(encoding="utf-8"))
            return {entry["name"]: _from_json(entry) for entry in listing["keys"]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{self._file} cannot be read as keys; put it back from a copy, or remove it") from None

    def find(self, endpoint: Endpoint) -> FoundKey | None:
        """The key for a provider, if there is one: its variable of the environment, else the one that is kept."""
        known = self.known.get(endpoint.name)
        if known is not None and known.variable is not None and known.endpoint.origin == endpoint.origin:
            text = self._environment.get(known.variable, "").strip()
            if text:
                return FoundKey(ProviderKey(text, endpoint.origin), known.variable)
        entries = self.kept()
        entry = entries.get(endpoint.name)
        if entry is None:
            return None
        if entry.endpoint != endpoint:
            raise ConfigError(
                f"the key that is kept for {endpoint.name} is for {entry.base_url}, not {endpoint.base_url}; "
                f"set one for it under another name: small4 keys set {endpoint.base_url} --name NAME"
            )
        text = self._seal(entries, endpoint).open(entry.sealed) or ""
        if not text:
            raise ConfigError(f"the key that is kept for {endpoint.name} was changed or moved; set it again")
        return FoundKey(ProviderKey(text, endpoint.origin), "kept")

    def _seal(self, kept: Mapping[str, KeptKey], endpoint: Endpoint) -> Seal:
        """What seals and opens one provider's key; no new secret is made while keys need one that is gone."""
        way_out = f"put it back, or remove it and {self._file.name} and set the keys again"
        if kept and not self._secret_file.exists():
            raise ConfigError(f"{self._secret_file} is gone, and the keys need it; {way_out}")
        secret = secret_in(self._secret_file, way_out)
        if self._secret_file.stat().st_mode & 0o077:
            raise ConfigError(f"others may read {self._secret_file}; close it: chmod 600 {self._secret_file}")
        bound_to = json.dumps([endpoint.name, endpoint.base_url, endpoint.dialect])
        return Seal(derived_key(secret, PURPOSE), bound_to)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, KeptKey]]:
        """The keys to change; they are written in one step on leaving, with every other program kept out."""
        make_private(self._file.parent)
        with locked(self._file.with_suffix(".lock")):
            kept = self.kept()
            yield kept
            listing = {"version": 1, "keys": [_as_json(key) for key in kept.values()]}
            write_private(self._file, json.dumps(listing, indent=1).encode())


def _as_json(key: KeptKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in KeptKey.__dataclass_fields__}


def _from_json(entry: dict[str, Any]) -> KeptKey:
    if entry["dialect"] not in get_args(Dialect):
        raise ValueError
    return KeptKey(**entry)
