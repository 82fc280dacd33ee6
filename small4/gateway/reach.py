"""Which routes can be asked from here, and by which provider: those that have their key, or need none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from small4.catalog.route import Route
from small4.errors import ConfigError
from small4.gateway.keys import ProviderKeys
from small4.providers.hosted import SMALL4_CONTEXT, HostedProvider, served_model
from small4.providers.provider import Provider
from small4.providers.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Reach:
    """The providers of the routes that can be asked, and why each of the others cannot."""

    providers: Mapping[str, Provider] = field(default_factory=dict)  # by route
    missing: Mapping[str, str] = field(default_factory=dict)  # reasons, by route
    upstreams: tuple[Upstream, ...] = ()  # to be closed at the end, in the event loop that used them


def reach(routes: Iterable[Route], keys: ProviderKeys) -> Reach:
    """Connections to hosted routes, with the keys that there are now; routes of one provider share theirs."""
    providers: dict[str, Provider] = {}
    missing: dict[str, str] = {}
    upstreams: dict[str, Upstream] = {}
    for route in routes:
        reason = why_unreachable(route, keys)
        if reason is not None:
            missing[route.name] = reason
            continue
        endpoint = keys.known[provider_name(route)].endpoint
        if endpoint.name not in upstreams:
            found = keys.find(endpoint)
            upstreams[endpoint.name] = Upstream(endpoint, None if found is None else found.key)
        address = route.address
        model = served_model(address.model_id, route.context_tokens or SMALL4_CONTEXT)
        providers[route.name] = HostedProvider(
            upstreams[endpoint.name], address.model_id, model=model, held_to=address.upstream
        )
    return Reach(providers, missing, tuple(upstreams.values()))


def why_unreachable(route: Route, keys: ProviderKeys) -> str | None:
    """Why a hosted route cannot be asked; None if it can."""
    if route.address.dialect is None:
        return "small4 speaks no dialect of it"
    name = provider_name(route)
    known = keys.known.get(name)
    if known is None:
        return "a variable that its address needs is not set"
    try:
        has_key = known.variable is None or keys.find(known.endpoint) is not None
    except ConfigError as error:
        return str(error)
    return None if has_key else f"no key; see small4 keys set {name}"


def provider_name(route: Route) -> str:
    """Whose key opens it: a marketplace that is held to one provider keeps its own."""
    address = route.address
    return address.name if address.upstream is None else address.name.partition("/")[0]
