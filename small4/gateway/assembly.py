"""All gateways of a server, put together: the routes that can be asked, who decides among them, and their books."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from small4.catalog.card import Catalog
from small4.catalog.price import UNKNOWN_PRICES, Prices
from small4.catalog.route import LOCAL, Route, local_route, routes_of
from small4.errors import ConfigError
from small4.gateway.candidates import Chooser
from small4.gateway.config import RoutingConfig
from small4.gateway.explanation import explain
from small4.gateway.gateway import Gateway, GatewayConfig
from small4.gateway.health import Health
from small4.gateway.keys import ProviderKeys
from small4.gateway.known import SMALL4
from small4.gateway.ledger import Ledger
from small4.gateway.policy import covers
from small4.gateway.reach import Reach, named_route, reach
from small4.gateway.trail import Trails
from small4.providers.hosted import SMALL4_CONTEXT, served_model
from small4.providers.provider import Provider, ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """The model that is loaded on this machine."""

    name: str
    provider: Provider
    prices: Prices = UNKNOWN_PRICES  # of the machine; nobody sends a bill
    is_small4: bool = False  # then it is a route to Small 4; a nano is one to itself alone


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedModel:
    """A name that callers may ask for, and the gateway to its routes."""

    id: str
    gateway: Gateway
    aliases: tuple[str, ...] = ()
    is_local: bool = False  # it is answered on this machine alone


class Assembly:
    """The gateways of one server; `aclose` in the event loop that they answered in."""

    def __init__(
        self,
        catalog: Catalog,
        keys: ProviderKeys,
        ledger: Ledger,
        *,
        config: RoutingConfig | None = None,
        tries: GatewayConfig | None = None,
        local: LocalModel | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """`names` are others for the local model, or for Small 4 where there is none."""
        self.health, self.ledger = Health(), ledger
        self._tries = tries or GatewayConfig()
        self.trails = Trails(self._tries.max_trails)
        self._card, self._local = catalog.find(SMALL4), local
        config = config or RoutingConfig()
        self._others = tuple(self._named(config, keys))
        routes = [route for route in (*routes_of(self._card, date.today()), *self._others) if _is_wanted(route, config)]
        self.reach: Reach = reach(routes, keys)
        providers: Mapping[str, Provider] = self.reach.providers
        if local is not None:
            providers = {**providers, LOCAL: local.provider}
        if not providers:
            raise ConfigError(
                "no route can be asked: keep a provider's key (small4 keys set mistral), or name a model to load"
            )
        self.chooser = Chooser(self._routes_on, providers, self.health, config)
        self._routes = {route.name: route for route in self._routes_on(date.today()) if route.name in providers}
        self.models = tuple(self._models(tuple(names)))

    @property
    def routes(self) -> Collection[str]:
        """The names of all routes that can be asked."""
        return self._routes.keys()

    def explain(self, request_id: str, key: str) -> dict[str, Any] | None:
        """Where a request of this key went, and why; None for another's, and for one that never was."""
        trail = self.trails.find(request_id, key)
        return None if trail is None else explain(trail, self.reach.missing)

    async def aclose(self) -> None:
        """Close the connections to all providers."""
        for upstream in self.reach.upstreams:
            await upstream.aclose()

    def _models(self, names: tuple[str, ...]) -> Iterator[RoutedModel]:
        """What callers may ask for: Small 4 wherever it is, each hosted route by itself, and the model loaded here."""
        card, local = self._card, self._local
        is_small4_here = local is not None and local.is_small4
        to_small4 = [
            name
            for name, route in self._routes.items()
            if (is_small4_here if route.is_local else route.model == card.id)
        ]
        taken = {card.id, *card.aliases}
        if to_small4:
            yield RoutedModel(
                id=card.id,
                gateway=self._gateway(card.id, to_small4),
                aliases=card.aliases + (names if local is None else ()),
            )
        for name, route in self._routes.items():
            if name != LOCAL and name not in taken:
                there = f"{route.address.provider if route in self._others else name}/{route.address.model_id}"
                gateway = self._gateway(name, [other for other in self._routes if covers(name, other)])
                yield RoutedModel(id=name, gateway=gateway, aliases=() if there in (*taken, name) else (there,))
        if local is not None:
            gateway = self._gateway(LOCAL, [LOCAL], local.provider.model)
            yield RoutedModel(id=local.name, gateway=gateway, aliases=(LOCAL, *names), is_local=True)

    def _gateway(self, name: str, routes: list[str], model: ServedModel | None = None) -> Gateway:
        contexts = [self._routes[route].context_tokens or SMALL4_CONTEXT for route in routes]
        return Gateway(
            model or served_model(name, max(contexts)),
            self.chooser.among(routes),
            self.ledger,
            self.health,
            self._tries,
            trails=self.trails,
        )

    def _named(self, config: RoutingConfig, keys: ProviderKeys) -> Iterator[Route]:
        """The routes of the settings that the catalogue does not have; raises for what means none."""
        known = {address.name for address in self._card.addresses} | {LOCAL}
        for name in sorted(config.routes or ()):
            if any(covers(name.lower(), other) for other in known):
                continue
            route = named_route(name, keys)
            if route is None:
                raise ConfigError(
                    f"there is no route {name[:80]!r}; there are {', '.join(sorted(known))}, "
                    f"and PROVIDER/MODEL of any provider that a key was set for"
                )
            yield route

    def _routes_on(self, today: date) -> list[Route]:
        routes, local = [*routes_of(self._card, today), *self._others], self._local
        if local is not None:
            # Its context is left out: the engine counts a prompt exactly, and routing only about.
            has_eyes = "images" in local.provider.model.abilities
            routes.append(local_route(local.name, prices=local.prices, reads_images=has_eyes))
        return routes


def _is_wanted(route: Route, config: RoutingConfig) -> bool:
    return config.routes is None or any(covers(name.lower(), route.name) for name in config.routes)
