"""From a request to the routes that the gateway tries: rules, scores and order, joined with whoever answers on each.

    policy      of the caller's key, set by the server; the request's `provider` object can only narrow it
    order       what the request says of it, else what the server prefers
    measured    each route's last half hour, at most a few seconds old
    breakers    routes that are left alone at the moment are tried last

Only routes that can be asked are decided about, so that a decision takes a fraction of a millisecond.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

from small4.catalog.route import Route
from small4.chat import ChatRequest
from small4.gateway.attempt import Candidate
from small4.gateway.config import RoutingConfig
from small4.gateway.gateway import Candidates
from small4.gateway.health import Health, Measurement, Window
from small4.gateway.needs import needs_of
from small4.gateway.policy import Policy, Preference, policy_of, preference_of
from small4.gateway.routing import Routing, route_request
from small4.gateway.trail import Trail
from small4.providers.estimate import prompt_tokens
from small4.providers.provider import Caller, Provider
from small4.wire.routing_fields import ProviderFields

WINDOW: Window = "30m"  # by which routes are compared
KEPT_SECONDS = 2.0  # for which a measurement is believed
MAX_SHARED = 1000  # keys whose last decision is remembered


class Chooser:
    """Decides about every request. Lives in one event loop."""

    def __init__(
        self,
        routes_on: Callable[[date], Iterable[Route]],
        providers: Mapping[str, Provider],
        health: Health,
        config: RoutingConfig | None = None,
        today: Callable[[], date] = date.today,
    ) -> None:
        """`routes_on` tells what is claimed of the routes on a day: prices begin, and claims age."""
        self._routes_on, self._providers, self._today = routes_on, providers, today
        self._health, self.config = health, config or RoutingConfig()
        self._speeds = Speeds(health)
        self._policies: dict[str, Policy] = {}
        self._removed: dict[str, Routing] = {}
        self._day: date | None = None
        self._routes: dict[str, Route] = {}
        self._candidates: dict[str, Candidate] = {}

    def among(self, names: Iterable[str]) -> Candidates:
        """What decides among these routes, for a `Gateway`."""
        return partial(self._choose, frozenset(names))

    def _choose(self, names: frozenset[str], request: ChatRequest, caller: Caller, trail: Trail) -> Sequence[Candidate]:
        self._renew()
        policy, preference = self._policy(caller.name), self.config.preference
        if caller.wishes is not None:
            policy = policy.narrow(policy_of(caller.wishes))
            preference = preferred(caller.wishes, preference)
        routes = [route for name, route in self._routes.items() if name in names]
        needs = needs_of(request, prompt_tokens(request))
        routing = route_request(routes, policy, preference, needs, measured=self._speeds.of(routes))
        trail.needs, trail.routing = needs, self._shared(caller.name, routing)
        chosen = [self._candidates[one.route.name] for one in routing.required()]
        return sorted(chosen, key=lambda one: not self._health.can_pass(one.route))

    def _renew(self) -> None:
        """Read the claims again when a day has begun."""
        today = self._today()
        if today == self._day:
            return
        self._day = today
        self._routes = {route.name: route for route in self._routes_on(today) if route.name in self._providers}
        self._candidates = {
            name: Candidate(
                route=name,
                provider=self._providers[name],
                prices=route.prices,
                max_output_tokens=route.max_output_tokens,
                is_local=route.is_local,
            )
            for name, route in self._routes.items()
        }

    def _policy(self, key: str) -> Policy:
        if key not in self._policies:
            own = self.config.by_key.get(key)
            if own is None:
                return self.config.policy
            self._policies[key] = self.config.policy.narrow(own)
        return self._policies[key]

    def _shared(self, key: str, routing: Routing) -> Routing:
        """The same, with what was removed as the same object as before if it is equal: thousands are kept."""
        before = self._removed.get(key)
        if before is not None and before.removed == routing.removed:
            return replace(routing, removed=before.removed)
        if len(self._removed) >= MAX_SHARED:
            self._removed.clear()
        self._removed[key] = routing
        return routing


class Speeds:
    """The routes' measurements, each at most `KEPT_SECONDS` old unless many have to be taken anew.

    One takes as long as all the rest of a decision, so that each decision takes one at most: the oldest.
    """

    def __init__(self, health: Health, clock: Callable[[], float] = time.monotonic) -> None:
        self._health, self._clock = health, clock
        self._known: dict[str, Measurement] = {}
        self._taken: dict[str, float] = {}

    def of(self, routes: Sequence[Route]) -> Mapping[str, Measurement]:
        """By route, of all that were ever asked."""
        now = self._clock()
        oldest = min((route.name for route in routes), key=lambda name: self._taken.get(name, 0.0), default=None)
        if oldest is not None and now - self._taken.get(oldest, -KEPT_SECONDS) >= KEPT_SECONDS:
            self._taken[oldest] = now
            found = self._health.measure(oldest, WINDOW)
            self._known.pop(oldest, None)
            if found is not None:
                self._known[oldest] = found
        return self._known


def preferred(wishes: ProviderFields, default: Preference) -> Preference:
    """The order that a request asks for; sorted as the server prefers where it does not say."""
    asked = preference_of(wishes)
    return asked if asked.weights else replace(asked, weights=default.weights)
