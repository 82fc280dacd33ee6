"""What a gateway is told beforehand: which routes, under which policies, in which order. Loads no database."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from small4.gateway.policy import Policy, Preference


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """What the server holds requests to."""

    routes: frozenset[str] | None = None  # to be used, and models of other providers; None: all that the catalogue has
    policy: Policy = field(default_factory=Policy)  # of every caller
    by_key: Mapping[str, Policy] = field(default_factory=dict)  # by the key's id; narrows the one of every caller
    preference: Preference = field(default_factory=Preference)  # where a request says nothing of order
