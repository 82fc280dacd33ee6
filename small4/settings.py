"""small4.toml and the environment -> what the packages are configured with; nobody else reads the two.

    a flag of the command line  >  a variable of the environment  >  the file  >  the default

The file is the one that --config or SMALL4_CONFIG names, else small4.toml in the user's directory for configuration,
never in the current one: who may see a prompt must not depend on where a command is typed. A key that nothing knows is
an error, since a misspelt policy must not be taken for none.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from small4.errors import ConfigError, FieldError
from small4.gateway.budgets import Budget
from small4.gateway.config import RoutingConfig
from small4.gateway.policy import Policy, policy_from, preference_of
from small4.places import config_directory, state_directory
from small4.wire.routing_fields import parse_provider

Table = Mapping[str, Any]
T = TypeVar("T")

FILE_NAME = "small4.toml"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 4119
TABLES = ("serve", "gateway", "policy", "policies", "budgets", "local")
ASKS_FOR_GATEWAY = ("gateway", "policy", "policies", "budgets")  # so that none of them is ever passed over in silence
ORDERS = ("order", "sort", "preferred_min_throughput", "preferred_max_latency")  # of a `provider` object; no policies
WORDS_OF_TRUTH = {"1": True, "true": True, "0": False, "false": False}
LOCAL_COST = (  # fields of `catalog.local_cost.LocalCost`
    *("watts", "usd_per_kwh", "hardware_usd", "hardware_years", "used_share"),
    *("prompt_tokens_per_second", "output_tokens_per_second"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them, from wherever they come."""

    file: Path | None = None  # that was read
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    model: str | None = None  # to load; None: nobody said
    has_gateway: bool = False
    ledger: str = ""  # a path or a URL
    books_ends_first: bool = True  # see `GatewayConfig`
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    budgets: tuple[Budget, ...] = ()
    local_cost: Mapping[str, Decimal] = field(default_factory=dict)  # what this machine draws, cost and does


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings; `flags` are those of the command line that were given, by the names of the fields."""
    environment = os.environ if environment is None else environment
    file, tables = _read(config, environment)
    _check_tables(tables, file)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    values = {name: source.find(given, environment, tables, file) for name, source in _SOURCES.items()}
    return Settings(
        file=file,
        **{name: value for name, value in values.items() if value is not None},
        routing=_routing(tables, file),
        budgets=tuple(_budget(table, file) for table in tables.get("budgets", ())),
        local_cost={name: _decimal(value, f"local.{name}", file) for name, value in tables.get("local", {}).items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where one plain value may come from."""

    flag: str
    variable: str
    table: str
    key: str
    read: Callable[[Any], Any]  # raises ValueError for what it cannot be
    kind: str  # in an error
    default: Callable[[Table], Any] = lambda tables: None

    def find(self, flags: Table, environment: Mapping[str, str], tables: Table, file: Path | None) -> Any:
        places = (
            ("its flag", flags.get(self.flag)),
            (self.variable, environment.get(self.variable) or None),
            (f"{file}: {self.table}.{self.key}", tables.get(self.table, {}).get(self.key)),
        )
        for place, value in places:
            if value is not None:
                try:
                    return self.read(value)
                except ValueError:
                    raise ConfigError(f"{place} is {str(value)[:80]!r}; give {self.kind}") from None
        return self.default(tables)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _port(value: Any) -> int:
    is_whole = isinstance(value, str | int) and not isinstance(value, bool)
    if not is_whole or not 0 <= int(value) < 65536:
        raise ValueError
    return int(value)


def _truth(value: Any) -> bool:
    truth = WORDS_OF_TRUTH.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise ValueError
    return truth


def _default_ledger(tables: Table) -> str:
    return str(state_directory() / "ledger.db")


_SOURCES = {
    "host": _Source(flag="host", variable="SMALL4_HOST", table="serve", key="host", read=_text, kind="an address"),
    "port": _Source(flag="port", variable="SMALL4_PORT", table="serve", key="port", read=_port, kind="0 to 65535"),
    "model": _Source(flag="model", variable="SMALL4_MODEL", table="serve", key="model", read=_text, kind="a model"),
    "has_gateway": _Source(
        flag="gateway",
        variable="SMALL4_GATEWAY",
        table="serve",
        key="gateway",
        read=_truth,
        kind="true or false",
        default=lambda tables: any(name in tables for name in ASKS_FOR_GATEWAY),
    ),
    "books_ends_first": _Source(
        flag="books_ends_first",
        variable="SMALL4_BOOKS_ENDS_FIRST",
        table="gateway",
        key="books_ends_first",
        read=_truth,
        kind="true or false",
    ),
    "ledger": _Source(
        flag="ledger",
        variable="SMALL4_LEDGER",
        table="gateway",
        key="ledger",
        read=_text,
        kind="a path or a URL",
        default=_default_ledger,
    ),
}


def _read(config: Path | None, environment: Mapping[str, str]) -> tuple[Path | None, Table]:
    """The file and what is in it; only one that was not asked for by name may be missing."""
    named = config or (Path(environment["SMALL4_CONFIG"]) if environment.get("SMALL4_CONFIG") else None)
    file = named or config_directory() / FILE_NAME
    try:
        return file, tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except FileNotFoundError:
        if named is not None:
            raise ConfigError(f"there is no {file}; give another with --config, or leave it out") from None
        return None, {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _check_tables(tables: Table, file: Path | None) -> None:
    """Raises for what is of the wrong shape, or has a key that nothing knows."""
    _check_keys(tables, TABLES, file)
    for name in TABLES:
        kind = list if name == "budgets" else dict
        if not isinstance(tables.get(name, kind()), kind):
            raise ConfigError(f"{file}: {name} is written [{'[budgets]' if kind is list else name}]")
    _check_keys(tables.get("serve", {}), ("host", "port", "model", "gateway"), file, "serve")
    _check_keys(tables.get("gateway", {}), ("ledger", "routes", "sort", "books_ends_first"), file, "gateway")
    _check_keys(tables.get("local", {}), LOCAL_COST, file, "local")
    for table in tables.get("budgets", ()):
        _check_keys(table, ("scope", "dollars", "period", "name"), file, "budgets")


def _check_keys(table: Any, known: tuple[str, ...], file: Path | None, name: str = "") -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {name} must be a table")
    unknown = sorted(set(table) - set(known))
    if unknown:
        path = ".".join(filter(None, (name, unknown[0][:80])))
        raise ConfigError(f"{file}: nothing is called {path}; there are {', '.join(known)}")


def _routing(tables: Table, file: Path | None) -> RoutingConfig:
    gateway = tables.get("gateway", {})
    routes = gateway.get("routes")
    if routes is not None and not (isinstance(routes, list) and all(isinstance(name, str) for name in routes)):
        raise ConfigError(f"{file}: gateway.routes is a list of names, as `small4 routes` shows them")
    return RoutingConfig(
        routes=None if routes is None else frozenset(routes),
        policy=_policy(tables.get("policy", {}), "policy", file),
        by_key={key: _policy(table, f"policies.{key[:80]}", file) for key, table in tables.get("policies", {}).items()},
        preference=_told(lambda: preference_of(parse_provider({"sort": _plain(gateway.get("sort"))}, "gateway")), file),
    )


def _policy(table: Any, path: str, file: Path | None) -> Policy:
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {path} must be a table")
    orders = [name for name in ORDERS if name in table]
    if orders:
        raise ConfigError(f"{file}: {path}.{orders[0]} orders routes and is no policy; see gateway.sort")
    return _told(lambda: policy_from(table, path), file)


def _told(make: Callable[[], T], file: Path | None) -> T:
    """What it makes; an error of a field says which file it stands in."""
    try:
        return make()
    except FieldError as error:
        raise ConfigError(f"{file}: {error}") from None


def _plain(value: Any) -> Any:
    """Numbers as they come in JSON."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return float(value) if isinstance(value, Decimal) else value


def _budget(table: Table, file: Path | None) -> Budget:
    scope, period, name = table.get("scope"), table.get("period", "day"), table.get("name")
    if scope == "app":
        raise ConfigError(f"{file}: a budget of scope 'app' would limit nobody, since there are no apps yet; use 'key'")
    if scope not in ("key", "all") or period not in ("day", "month"):
        raise ConfigError(f"{file}: a budget has scope (key or all), dollars, and a period (day or month)")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{file}: budgets.name is the id of a key")
    return Budget(
        scope=scope, dollars=_decimal(table.get("dollars"), "budgets.dollars", file), period=period, name=name
    )


def _decimal(value: Any, path: str, file: Path | None) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite() or value < 0:
        raise ConfigError(f"{file}: {path} is {str(value)[:80]!r}; give a number from 0")
    return Decimal(value)
