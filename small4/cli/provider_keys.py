"""`small4 keys set`, `test` and `rm`: keys of hosted providers, tried before they are kept, and never shown again."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from small4.cli import options

if TYPE_CHECKING:
    from small4.gateway.addresses import Reachable
    from small4.gateway.keys import ProviderKeys
    from small4.providers.endpoint import Dialect

Provider = Annotated[str, typer.Argument(help="mistral, openrouter, or another of `small4 cost`; or a base URL.")]


def set_command(
    provider: Provider,
    name: Annotated[str | None, typer.Option("--name", help="What to call the provider behind a URL.")] = None,
    dialect: options.DialectWord = None,
    skip_test: Annotated[bool, typer.Option("--skip-test", help="Keep the key without trying it.")] = False,
) -> None:
    """Keep a provider's key on this machine, sealed. It is asked for without echo, or read from standard input."""
    from small4.gateway.addresses import Reachable, endpoint_of
    from small4.gateway.keys import FoundKey
    from small4.providers.provider_key import ProviderKey

    keys = provider_keys()
    endpoint = endpoint_of(provider, keys, dialect_of(dialect), name)
    key, known = ProviderKey(_read_key(endpoint.name), endpoint.origin), keys.known.get(endpoint.name)
    if not skip_test:
        key_path = None if known is None else known.key_path
        print(_tried(Reachable(endpoint=endpoint, found=FoundKey(key, "typed"), key_path=key_path)))
    keys.set(endpoint, key.text_for(endpoint.origin))
    ending = f" (it ends in {key.ending})" if key.ending else ""
    print(f"kept for {endpoint.base_url}{ending}, sealed; it goes nowhere else and is not shown again")
    found = keys.find(endpoint)
    if found is not None and found.source != "kept":
        print(f"note: {found.source} is set in the environment and wins over it", file=sys.stderr)


def try_command(provider: Provider, dialect: options.DialectWord = None) -> None:
    """Try a provider's key, and tell which models it opens; nothing is spent."""
    from small4.gateway.addresses import address_of

    print(_tried(address_of(provider, provider_keys(), dialect_of(dialect))))


def remove_command(
    provider: Annotated[str, typer.Argument(help="As `small4 keys list` shows it, or its base URL.")],
) -> None:
    """Forget a provider's key."""
    from small4.gateway.addresses import address_of

    keys = provider_keys()
    name = address_of(provider, keys).endpoint.name if "://" in provider else provider.lower()
    print(f"forgot the key for {keys.remove(name).base_url}")


def provider_keys() -> "ProviderKeys":
    """The keys of this user and environment."""
    from small4.gateway.keys import ProviderKeys

    return ProviderKeys.of_user()


def provider_rows() -> list[dict[str, str]]:
    """Every provider that there is a key for: its name, where the key goes, how it ends, and where it comes from.

    One whose key cannot be used has the reason in the last place.
    """
    from small4.errors import ConfigError

    keys = provider_keys()
    kept = {name: entry.endpoint for name, entry in keys.kept().items()}
    endpoints = kept | {name: known.endpoint for name, known in keys.known.items()}
    rows: list[dict[str, str]] = []
    for name, endpoint in sorted(endpoints.items()):
        try:
            found = keys.find(endpoint)
        except ConfigError as error:
            rows.append(_row(name, endpoint.base_url, "", f"cannot be used: {error}"))
            continue
        if found is not None:
            rows.append(_row(name, endpoint.base_url, found.key.ending, found.source))
    unusable = sorted((name, reason) for name, reason in keys.unusable.items() if name not in endpoints)
    return rows + [_row(name, "", "", f"cannot be used: {reason}") for name, reason in unusable]


def _row(name: str, base_url: str, ending: str, source: str) -> dict[str, str]:
    return {"name": name, "base_url": base_url, "ends_in": ending, "from": source}


def dialect_of(word: str | None) -> "Dialect | None":
    """A dialect by its name."""
    from small4.errors import ConfigError
    from small4.providers.endpoint import DIALECTS

    for dialect in DIALECTS:
        if word == dialect:
            return dialect
    if word is not None:
        raise ConfigError(f"unknown dialect {word[:40]!r}; choose one of {', '.join(DIALECTS)}")
    return None


def _read_key(name: str) -> str:
    from small4.errors import ConfigError

    if sys.stdin.isatty():
        text = str(typer.prompt(f"Key for {name} (not shown)", hide_input=True, err=True))
    else:
        text = sys.stdin.readline()
    if not text.strip():
        raise ConfigError(f"no key was given; paste it, or pipe it: small4 keys set {name} < FILE")
    return text.strip()


def _tried(address: "Reachable") -> str:
    """Ask the provider; what it says of its models and of the key."""
    import asyncio

    from small4.gateway.known import small4_among
    from small4.providers.discovery import Discovery, discover
    from small4.providers.upstream import Upstream

    async def ask() -> Discovery:
        upstream = Upstream(address.endpoint, address.key)
        try:
            return await discover(upstream, address.key_path)
        finally:
            await upstream.aclose()

    found = asyncio.run(ask())
    ids = [model.id for model in found.models]
    own = small4_among(ids)
    if address.found is None:
        verdict = "it answers without a key"
    elif found.is_key_proven:
        verdict = "the key is good"
    else:
        verdict = "it answers, but to anybody, so the key was not tried"
    listed = f"{len(ids)} model{'' if len(ids) == 1 else 's'}"
    return f"{address.endpoint.name}: {verdict}; {listed}" + (f", Small 4 is {own}" if own else f": {_some(ids)}")


def _some(ids: list[str]) -> str:
    shown = ", ".join(ids[:5])
    return shown + (", ..." if len(ids) > 5 else "") if ids else "none"
