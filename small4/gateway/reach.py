"""Which routes can be asked from here, and by which provider: those that have their key, or need none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from small4.catalog.card import Address
from small4.catalog.route import Route
from small4.errors import ConfigError
from small4.gateway.keys import ProviderKeys
from small4.gateway.known import SMALL4, small4_among
from small4.providers.endpoint import Endpoint
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
        endpoint = endpoint_of_route(route, keys)
        assert endpoint is not None
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
    name, endpoint = provider_name(route, keys), endpoint_of_route(route, keys)
    if endpoint is None:
        return keys.unusable.get(name, "a variable that its address needs is not set")
    known = keys.known.get(name)
    try:
        has_key = (known is not None and known.variable is None) or keys.find(endpoint) is not None
    except ConfigError as error:
        return str(error)
    return None if has_key else f"no key; see small4 keys set {name}"


def endpoint_of_route(route: Route, keys: ProviderKeys) -> Endpoint | None:
    """Where its requests go: as the catalogue says, or as a key was set for the provider."""
    name = provider_name(route, keys)
    known, entry = keys.known.get(name), keys.kept().get(name)
    if known is not None:
        return known.endpoint
    return None if entry is None else entry.endpoint


def named_route(name: str, keys: ProviderKeys) -> Route | None:
    """`PROVIDER/MODEL` of a provider that a key was set for: any model of it, of which nothing is claimed."""
    provider, _, model_id = name.partition("/")
    entry = keys.kept().get(provider.lower())
    if entry is None or not model_id:
        return None
    address = Address(
        name=name.lower(),
        provider=entry.name,
        model_id=model_id,
        dialect=entry.dialect,
        base_url=entry.base_url,
        key_variable=None,
    )
    return Route(address=address, model=SMALL4 if small4_among([model_id]) else name)


def provider_name(route: Route, keys: ProviderKeys) -> str:
    """Whose key opens it: its own, or that of what stands before the slash: a marketplace, or a provider of many."""
    return route.name if route.name in keys.known else route.name.partition("/")[0]
