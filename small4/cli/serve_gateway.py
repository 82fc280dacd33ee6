"""What `small4 serve --gateway` puts before its models: routes with your keys, policies, budgets and the ledger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from small4.cli.serve import is_release

if TYPE_CHECKING:
    from small4.gateway.assembly import Assembly, LocalModel
    from small4.llm import LLM
    from small4.server.keys import KeyStore
    from small4.settings import Settings


@contextmanager
def opened_gateway(
    settings: "Settings", speaker: "LLM | None", names: Sequence[str], store: "KeyStore"
) -> "Iterator[Assembly]":
    """The gateway that the settings ask for, with its ledger open for as long as the block lasts."""
    from small4.cli.catalog import MODEL, known_catalog
    from small4.gateway.assembly import Assembly
    from small4.gateway.gateway import GatewayConfig
    from small4.gateway.keys import ProviderKeys
    from small4.gateway.ledger import Ledger, LedgerConfig

    check_keys(settings, store)
    local = None if speaker is None else _local(speaker, settings)
    with Ledger(LedgerConfig(url=settings.ledger, budgets=settings.budgets)) as ledger:
        yield Assembly(
            known_catalog(MODEL),
            ProviderKeys.of_user(),
            ledger,
            config=settings.routing,
            tries=GatewayConfig(books_ends_first=settings.books_ends_first),
            local=local,
            names=names,
        )


def check_keys(settings: "Settings", store: "KeyStore") -> None:
    """Raises for a policy or budget of a key that does not exist: it would hold nobody to anything."""
    from small4.errors import ConfigError
    from small4.server.auth import LOCAL

    existing = {LOCAL, *(key.id for key in store.all_keys())}
    named = [*settings.routing.by_key, *(one.name for one in settings.budgets if one.scope == "key" and one.name)]
    unknown = [key for key in named if key not in existing]
    if unknown:
        raise ConfigError(
            f"{settings.file}: there is no key {unknown[0][:80]!r}; small4 keys list shows their ids, and {LOCAL!r} is "
            f"whoever calls from this machine while there is none"
        )


def gateway_lines(gateway: "Assembly", settings: "Settings") -> list[str]:
    """What a user has to know of it."""
    missing = len(gateway.reach.missing)
    more = f"; {missing} more cannot be asked: small4 routes tells why" if missing else ""
    told = [f"routes   {', '.join(sorted(gateway.routes))}{more}", f"ledger   {_shown(settings.ledger)}"]
    budgets = [f"${budget.dollars.normalize():f} a {budget.period} ({budget.scope})" for budget in settings.budgets]
    return [*told, *([f"budgets  {', '.join(budgets)}"] if budgets else [])]


def _local(speaker: "LLM", settings: "Settings") -> "LocalModel":
    from small4.catalog.local_cost import LocalCost
    from small4.gateway.assembly import LocalModel

    name = Path(speaker.name).name
    prices = LocalCost(**settings.local_cost).prices()
    return LocalModel(name=name, provider=speaker.provider, prices=prices, is_small4=is_release(name))


def _shown(ledger: str) -> str:
    """Its address without a password."""
    from small4.gateway.ledger_database import parse_url

    return ledger if "://" not in ledger else parse_url(ledger).render_as_string(hide_password=True)
