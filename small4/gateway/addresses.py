"""Which provider a word means: one that is known, one that a key was set for, or the one behind a URL."""

from dataclasses import dataclass

from small4.errors import ConfigError
from small4.gateway.keys import FoundKey, ProviderKeys
from small4.providers.endpoint import Dialect, Endpoint, endpoint_at
from small4.providers.provider_key import ProviderKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """A provider that can be asked."""

    endpoint: Endpoint
    found: FoundKey | None  # None: it gets no key
    model_id: str | None = None  # Small 4's id there, where it is known
    key_path: str | None = None  # that answers for a key

    @property
    def key(self) -> ProviderKey | None:
        return None if self.found is None else self.found.key


def endpoint_of(word: str, keys: ProviderKeys, dialect: Dialect | None = None, name: str | None = None) -> Endpoint:
    """The endpoint that a name or a URL means; a URL speaks OpenAI's dialect unless another is given."""
    if "://" in word:
        return endpoint_at(word, name=name, dialect=dialect or "openai")
    entry, known = keys.kept().get(word.lower()), keys.known.get(word.lower())
    if known is None and entry is None:
        if word.lower() in keys.unusable:
            raise ConfigError(keys.unusable[word.lower()])
        others = sorted({*keys.known, *keys.kept()})
        raise ConfigError(f"no provider is called {word[:80]!r}; there are {', '.join(others)}; or give its base URL")
    endpoint = known.endpoint if known is not None else entry.endpoint if entry is not None else None
    assert endpoint is not None
    if dialect not in (None, endpoint.dialect) or name not in (None, endpoint.name):
        raise ConfigError(f"{word} has its dialect and its name; give its base URL to call it otherwise")
    return endpoint


def address_of(word: str, keys: ProviderKeys, dialect: Dialect | None = None, *, needs_key: bool = True) -> Reachable:
    """The provider with the key that there is for it; one that is known by name needs one, unless the caller has it."""
    endpoint, found = endpoint_of(word, keys, dialect), None
    if "://" in word:
        endpoint, found = _behind(endpoint, keys, dialect)
    known, found = keys.known.get(endpoint.name), found or keys.find(endpoint)
    if known is None or known.endpoint != endpoint:
        return Reachable(endpoint=endpoint, found=found)
    if found is None and needs_key and known.variable is not None:
        raise ConfigError(
            f"there is no key for {endpoint.name}; set {known.variable}, or keep one: small4 keys set {endpoint.name}"
        )
    return Reachable(endpoint=endpoint, found=found, model_id=known.model_id, key_path=known.key_path)


def _behind(endpoint: Endpoint, keys: ProviderKeys, dialect: Dialect | None) -> tuple[Endpoint, FoundKey | None]:
    """The endpoint at a URL under the name that it has here; or as it is, with the key of its origin if it has one."""
    kept = {name: entry.endpoint for name, entry in keys.kept().items()}
    others = (kept | {name: known.endpoint for name, known in keys.known.items()}).values()
    for other in others:
        if other.base_url == endpoint.base_url and dialect in (None, other.dialect):
            return other, None
    found = [keys.find(other) for other in others if other.origin == endpoint.origin]
    own = [key for key in found if key is not None]
    return endpoint, own[0] if len(own) == 1 else None
