"""Why a route may not get a request: each rule looks at one thing and gives its reason, or nothing.

A rule about data asks for what is known: unknown never passes. A rule about abilities removes a route only for what it
is known to lack, unless the request requires parameters; then it is the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.regions import HERE, region_covers
from small4.catalog.route import Route
from small4.gateway.needs import Needs
from small4.gateway.policy import Policy, covers


@dataclass(frozen=True, slots=True)
class Reason:
    """A rule that removed a route, by the field that asked for it, and what it found."""

    rule: str
    text: str


def reasons_against(route: Route, policy: Policy, needs: Needs) -> tuple[Reason, ...]:
    """Every reason for which the route may not get the request; none if it may."""
    return tuple([Reason(name, text) for name, rule in _RULES.items() if (text := rule(route, policy, needs))])


def _dialect(route: Route, policy: Policy, needs: Needs) -> str | None:
    return "small4 speaks no dialect of it" if not route.is_local and route.address.dialect is None else None


def _only(route: Route, policy: Policy, needs: Needs) -> str | None:
    if policy.only is None or any(covers(slug, route.name) for slug in policy.only):
        return None
    return f"is not among {_listed(policy.only)}"


def _ignore(route: Route, policy: Policy, needs: Needs) -> str | None:
    return "is to be ignored" if any(covers(slug, route.name) for slug in policy.ignore) else None


def _local_only(route: Route, policy: Policy, needs: Needs) -> str | None:
    return "leaves this machine" if policy.local_only and not route.is_local else None


def _regions(route: Route, policy: Policy, needs: Needs) -> str | None:
    region = route.posture.region
    if policy.regions is None or region == HERE:
        return None
    if region is not None and any(region_covers(wanted, region) for wanted in policy.regions):
        return None
    return f"its region is {region or 'unknown'}, not {_listed(policy.regions, ' or ')}"


def _zdr(route: Route, policy: Policy, needs: Needs) -> str | None:
    posture = route.posture
    if not policy.zdr or (posture.zdr == "yes" and posture.keeps_nothing):
        return None
    if posture.zdr == "contract":
        return "zero data retention takes a contract with it"
    if posture.zdr == "yes":
        return f"zero data retention is claimed, and prompts are kept {posture.retention_days} days"
    return f"zero data retention is {posture.zdr or 'unknown'}"


def _training(route: Route, policy: Policy, needs: Needs) -> str | None:
    if not policy.no_training or route.posture.training == "no":
        return None
    return f"training on prompts is {route.posture.training or 'unknown'}"


def _retention(route: Route, policy: Policy, needs: Needs) -> str | None:
    limit, posture = policy.max_retention_days, route.posture
    # 0 days with no zero data retention contradict each other: then the days are unknown.
    days = 0 if posture.keeps_nothing else posture.retention_days or None
    if limit is None or (days is not None and days <= limit):
        return None
    return f"keeps prompts {'for an unknown time' if days is None else f'{days} days'}, not at most {limit}"


def _collection(route: Route, policy: Policy, needs: Needs) -> str | None:
    posture = route.posture
    if not policy.no_collection or (posture.training == "no" and posture.keeps_nothing):
        return None
    kept = "" if posture.retention_days is None else f" for {posture.retention_days} days"
    return f"may train on prompts or keep them{kept}: training is {posture.training or 'unknown'}"


def _distillable(route: Route, policy: Policy, needs: Needs) -> str | None:
    if not policy.distillable or route.posture.is_distillable:
        return None
    return f"use of its answers for training is {'unknown' if route.posture.is_distillable is None else 'barred'}"


def _posture_age(route: Route, policy: Policy, needs: Needs) -> str | None:
    limit, age = policy.max_posture_age_days, route.posture.age_days
    if limit is None or (age is not None and age <= limit):
        return None
    return f"what is claimed of its posture is {'undated' if age is None else f'{age} days old'}, not at most {limit}"


def _quantizations(route: Route, policy: Policy, needs: Needs) -> str | None:
    quantization = route.quantization or "unknown"
    if policy.quantizations is None or quantization in policy.quantizations:
        return None
    return f"its quantisation is {quantization}, not {_listed(policy.quantizations, ' or ')}"


def _max_price(route: Route, policy: Policy, needs: Needs) -> str | None:
    """The local engine bills nothing, so no cap removes it."""
    if route.is_local:
        return None
    rates, cap = route.prices.rates(needs.prompt_tokens, is_batch=needs.is_batch), policy.max_price
    checks = [
        ("prompt", rates.prompt, cap.prompt),
        ("completion", rates.output, cap.completion),
        ("thought", rates.output if rates.reasoning is None else rates.reasoning, cap.completion),
        ("call", route.prices.request_usd, cap.request),
        ("image", route.prices.image_usd, cap.image if needs.num_images else None),
    ]
    return next((text for what, price, limit in checks if (text := _over(what, price, limit))), None)


def _over(what: str, price: Decimal | None, limit: Decimal | None) -> str | None:
    if limit is None or (price is not None and price <= limit):
        return None
    return f"its price of a {what} is {'unknown' if price is None else f'${price:f}'}, the cap is ${limit:f}"


def _parameters(route: Route, policy: Policy, needs: Needs) -> str | None:
    missing = needs.parameters - route.parameters
    if not policy.require_parameters or not missing:
        return None
    return f"is not known to support {_listed(missing)}"


def _abilities(route: Route, policy: Policy, needs: Needs) -> str | None:
    lacking = {ability for ability in needs.abilities if route.abilities.get(ability) is False}
    if "grammar" in needs.abilities and not route.is_local:
        lacking.add("grammar")  # no provider's API can say one
    if needs.num_images and route.reads_images is False:
        lacking.add("images")
    return f"cannot do {_listed(lacking)}" if lacking else None


def _context(route: Route, policy: Policy, needs: Needs) -> str | None:
    wanted = needs.prompt_tokens + (needs.max_tokens or 1)
    if route.context_tokens is None or wanted <= route.context_tokens:
        return None
    return f"its context is {route.context_tokens} tokens, and the request needs {wanted}"


def _output_limit(route: Route, policy: Policy, needs: Needs) -> str | None:
    if route.max_output_tokens is None or needs.max_tokens is None or needs.max_tokens <= route.max_output_tokens:
        return None
    return f"it writes at most {route.max_output_tokens} tokens, and max_tokens is {needs.max_tokens}"


def _listed(names: frozenset[str] | set[str], glue: str = ", ") -> str:
    return glue.join(sorted(names)) or "anything"


# By the name that a caller knows it by: a field of the `provider` object, or what the request needs.
_RULES: dict[str, Callable[[Route, Policy, Needs], str | None]] = {
    "dialect": _dialect,
    "only": _only,
    "ignore": _ignore,
    "local_only": _local_only,
    "regions": _regions,
    "zdr": _zdr,
    "training": _training,
    "max_retention_days": _retention,
    "data_collection": _collection,
    "enforce_distillable_text": _distillable,
    "max_posture_age_days": _posture_age,
    "quantizations": _quantizations,
    "max_price": _max_price,
    "require_parameters": _parameters,
    "abilities": _abilities,
    "context": _context,
    "max_tokens": _output_limit,
}
