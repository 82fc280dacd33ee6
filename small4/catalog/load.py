"""The catalogue from its files: TOML that came with small4, and what the user adds of their own.

    sources.toml             [ID] name, kind, seen, as_of, url, licence, note
    models/*.toml            id, name, maker, aliases, [[claims]]
    providers/*.toml         name, [[routes]], [[claims]]

A table of claims has a `source`, the `route` that it is about (none: the model), `says` with field = value, and `notes`
by field. `valid_from` dates prices that begin later, `above_prompt_tokens` those of longer prompts.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from small4.catalog.card import Address, Catalog, ModelCard
from small4.catalog.claims import SOURCE_RANK, Claim, Source
from small4.catalog.fields import field_named
from small4.errors import CatalogError

DIALECTS = ("openai", "responses", "mistral", "anthropic", "google")
Table = Mapping[str, Any]


def load_catalog(own: Path | None = None) -> Catalog:
    """What came with small4, and the user's own providers and claims if there is a directory of them.

    `own` holds files as in `providers/`; what they say without naming a source is said by the user.
    """
    data = files("small4.catalog") / "data"
    sources = {name: _source(name, table) for name, table in _read(data / "sources.toml").items()}
    models = [(file.name, _read(file)) for file in _toml_files(data / "models")]
    providers = [(file.name, _read(file)) for file in _toml_files(data / "providers")]
    own_files = [] if own is None or not own.is_dir() else _toml_files(own)
    for file in own_files:
        table = _read(file)
        sources[file.name] = _own_source(file.name, table)
        providers.append((file.name, {"source": file.name, **table}))
    return Catalog(tuple(_card(name, table, providers, sources) for name, table in models), sources)


def _toml_files(directory: Traversable) -> list[Traversable]:
    return sorted((file for file in directory.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)


def _read(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"{file.name} is not TOML: {error}") from None


def _source(name: str, table: Table) -> Source:
    known = {"name", "kind", "seen", "as_of", "url", "licence", "note", "version"}
    _check_keys(table, known, f"source {name}")
    if table.get("kind") not in SOURCE_RANK or not isinstance(table.get("seen"), date):
        raise CatalogError(f"source {name} needs a kind ({', '.join(SOURCE_RANK)}) and the day when it was seen")
    return Source(id=name, **{key: value for key, value in table.items() if key != "version"})


def _own_source(file: str, table: Table) -> Source:
    """What the user vouches for, on the day that the file gives."""
    seen = table.get("seen")
    if not isinstance(seen, date):
        raise CatalogError(f"{file} needs `seen`: the day on which you looked, such as 2026-11-21")
    return Source(id=file, name=f"your own {file}", kind="own", seen=seen, as_of=seen)


def _card(
    file: str, table: Table, providers: list[tuple[str, dict[str, Any]]], sources: Mapping[str, Source]
) -> ModelCard:
    model = _text(table, "id", file)
    addresses: dict[str, Address] = {}
    claims = list(_claims(file, table, sources))
    for provider_file, provider in providers:
        _check_keys(provider, {"name", "routes", "claims", "source", "seen"}, provider_file)
        for route in provider.get("routes", ()):
            if route.get("model") == model:
                address = _address(provider_file, provider, route)
                addresses[address.name] = address
        claims += _claims(provider_file, provider, sources)
    for claim in claims:
        if claim.route is not None and claim.route not in addresses:
            raise CatalogError(f"{claim.source.name} speaks of the route {claim.route!r}, which no file has")
    aliases = tuple(alias.lower() for alias in table.get("aliases", ()))
    names = {key: _text(table, key, file) for key in ("name", "maker")}
    return ModelCard(id=model, **names, aliases=aliases, addresses=tuple(addresses.values()), claims=tuple(claims))


def _address(file: str, provider: Table, route: Table) -> Address:
    _check_keys(route, {"name", "model", "model_id", "dialect", "base_url", "key_variable", "upstream"}, file)
    if route.get("dialect") not in (*DIALECTS, None):
        raise CatalogError(f"{file}: the dialect {route['dialect']!r} is unknown; there are {', '.join(DIALECTS)}")
    return Address(
        name=_text(route, "name", file).lower(),
        provider=_text(provider, "name", file),
        model_id=_text(route, "model_id", file),
        dialect=route.get("dialect"),
        base_url=_text(route, "base_url", file),
        key_variable=route.get("key_variable"),
        upstream=route.get("upstream"),
    )


def _claims(file: str, table: Table, sources: Mapping[str, Source]) -> Iterator[Claim]:
    known = {"route", "source", "says", "notes", "valid_from", "above_prompt_tokens"}
    for group in table.get("claims", ()):
        _check_keys(group, known, file)
        source = group.get("source", table.get("source"))
        if source not in sources:
            raise CatalogError(f"{file}: the source {source!r} is not in sources.toml")
        notes = group.get("notes", {})
        _check_keys(notes, set(group.get("says", ())), f"{file}, notes")
        for name, value in group.get("says", {}).items():
            field = field_named(name, file)
            yield Claim(
                field=field,
                value=field.check(value, file),
                source=sources[source],
                route=group["route"].lower() if "route" in group else None,
                above_prompt_tokens=group.get("above_prompt_tokens", 0),
                valid_from=group.get("valid_from"),
                note=notes.get(name, ""),
            )


def _check_keys(table: Table, known: set[str], where: str) -> None:
    unknown = set(table) - known
    if unknown:
        raise CatalogError(f"{where}: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")


def _text(table: Table, key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise CatalogError(f"{where} needs a {key} of text")
    return value
