"""A whole server in this event loop, in front of providers that are real HTTP servers: routes of an own catalogue."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small4.catalog.load import load_catalog
from small4.gateway.assembly import Assembly
from small4.gateway.gateway import GatewayConfig
from small4.gateway.keys import ProviderKeys
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.server.models import routed_offers
from tests.providers.dialects import TEXT, sent
from tests.providers.fault_server import FaultServer, Script, stream, whole
from tests.server.asgi import Served

CANARY = "sk-canary-Zm9vYmFyYmF6cXV4-{name}-0123456789"
PRICED = {"price.input": "0.15", "price.output": "0.6", "price.cache_read": "0.015"}
ANSWER: Script = [stream(sent("openai", *TEXT).events)]
BROKEN: Script = [whole({"error": {"message": "down"}}, status=500)]


@dataclass(frozen=True)
class Made:
    """A hosted route: what its provider does, and what is claimed of it."""

    name: str
    script: Script = tuple(ANSWER)
    says: Mapping[str, Any] | None = None
    dialect: str = "openai"

    @property
    def variable(self) -> str:
        return f"{self.name.upper()}_KEY"

    @property
    def key(self) -> str:
        return CANARY.format(name=self.name)

    def toml(self, url: str) -> str:
        """Its file in the user's own catalogue."""
        says = "\n".join(f'"{name}" = {value!r}' for name, value in (self.says or PRICED).items())
        return (
            f'name = "{self.name}"\nseen = 2026-11-21\n[[routes]]\nname = "{self.name}"\nmodel = "mistral-small-4"\n'
            f'model_id = "m"\ndialect = "{self.dialect}"\nbase_url = "{url}/v1"\nkey_variable = "{self.variable}"\n'
            f'[[claims]]\nroute = "{self.name}"\n[claims.says]\n{says}\n'
        )


@dataclass
class Standing:
    """The server, its gateway, and the providers by the names of their routes."""

    served: Served
    assembly: Assembly
    ledger: Ledger
    url: str  # of the ledger
    providers: dict[str, FaultServer]


@asynccontextmanager
async def standing(
    directory: Path, *routes: Made, budgets: Sequence[Any] = (), **options: Any
) -> AsyncIterator[Standing]:
    """All of it, for as long as the block lasts; `options` are the assembly's."""
    own = directory / "catalog"
    own.mkdir()
    providers: dict[str, FaultServer] = {}
    for made in routes:
        server = await FaultServer(made.script).__aenter__()
        providers[made.name] = server
        (own / f"{made.name}.toml").write_text(made.toml(server.url))
    catalog, environment = load_catalog(own), {made.variable: made.key for made in routes}
    keys = ProviderKeys(directory / "state", environment, catalog=catalog)
    url = str(directory / "ledger.db")
    with Ledger(LedgerConfig(url=url, budgets=tuple(budgets))) as ledger:
        options = {"tries": GatewayConfig(retry_seconds=0.01, max_retries=0), **options}
        assembly = Assembly(catalog, keys, ledger, **options)
        served = Served(directory / "state", offers=routed_offers(assembly.models), gateway=assembly)
        try:
            yield Standing(served, assembly, ledger, url, providers)
        finally:
            await assembly.aclose()
            for server in providers.values():
                await server.__aexit__()
