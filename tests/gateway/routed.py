"""A whole server in this event loop, in front of providers that are real HTTP servers: routes of an own catalogue."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small4.catalog.load import load_catalog
from small4.gateway.assembly import Assembly
from small4.gateway.gateway import GatewayConfig
from small4.gateway.keys import ProviderKeys
from small4.gateway.ledger import Ledger, LedgerConfig
from small4.providers.endpoint import endpoint_at
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
    directory: Path, *routes: Made, budgets: Sequence[Any] = (), kept: Sequence[Made] = (), **options: Any
) -> AsyncIterator[Standing]:
    """All of it, for as long as the block lasts; of `kept` nothing is claimed. `options` are the assembly's."""
    own, url = directory / "catalog", str(directory / "ledger.db")
    own.mkdir()
    async with AsyncExitStack() as leaving:
        providers = {
            made.name: await leaving.enter_async_context(FaultServer(made.script)) for made in (*routes, *kept)
        }
        for made in routes:
            (own / f"{made.name}.toml").write_text(made.toml(providers[made.name].url))
        catalog, environment = load_catalog(own), {made.variable: made.key for made in routes}
        keys = ProviderKeys(directory / "state", environment, catalog=catalog)
        for made in kept:
            keys.set(endpoint_at(providers[made.name].url, name=made.name), made.key)
        ledger = leaving.enter_context(Ledger(LedgerConfig(url=url, budgets=tuple(budgets))))
        tries = GatewayConfig(retry_seconds=0.01, max_retries=0)
        assembly = Assembly(catalog, keys, ledger, **{"tries": tries, **options})
        leaving.push_async_callback(assembly.aclose)
        served = Served(directory / "state", offers=routed_offers(assembly.models), gateway=assembly)
        yield Standing(served, assembly, ledger, url, providers)
