"""What a route must be to get a prompt, and the order in which routes are tried.

A `Policy` only ever takes routes away, so policies form a lattice: `a.narrow(b)` lets through exactly the routes that
both let through. A server's policy for a key is narrowed by the policy of each request, and so nothing that a request
says can widen it. A `Preference` orders what is left and takes nothing away.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeVar

from small4.catalog.regions import region_covers
from small4.wire.routing_fields import Metric, PercentileFields, ProviderFields, SortFields, parse_provider

Percentile = Literal["p50", "p75", "p90", "p99"]
N = TypeVar("N", Decimal, int)
PERCENTILES: tuple[Percentile, ...] = ("p50", "p75", "p90", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCap:
    """The most that a provider may bill, in USD; None is no cap."""

    prompt: Decimal | None = None  # per million tokens
    completion: Decimal | None = None  # per million tokens
    request: Decimal | None = None
    image: Decimal | None = None

    def narrow(self, other: "PriceCap") -> "PriceCap":
        """The lower of each."""
        return PriceCap(
            prompt=_lower(self.prompt, other.prompt),
            completion=_lower(self.completion, other.completion),
            request=_lower(self.request, other.request),
            image=_lower(self.image, other.image),
        )


NO_CAP = PriceCap()
_SUFFIXES: dict[str, Metric] = {"nitro": "throughput", "floor": "price"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a route must be; the default lets every route through. Names are slugs: `a` stands for `a/b` too."""

    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    allow_fallbacks: bool = True  # False: one route, or those of the request's `order`
    require_parameters: bool = False  # every parameter of the request is known to be supported
    no_collection: bool = False  # neither trained on nor kept
    zdr: bool = False
    quantizations: frozenset[str] | None = None
    max_price: PriceCap = NO_CAP
    distillable: bool = False
    regions: frozenset[str] | None = None
    no_training: bool = False
    max_retention_days: int | None = None
    local_only: bool = False
    max_posture_age_days: int | None = None

    def narrow(self, other: "Policy") -> "Policy":
        """What lets through exactly the routes that both let through."""
        return Policy(
            only=_meet(self.only, other.only, covers),
            ignore=self.ignore | other.ignore,
            allow_fallbacks=self.allow_fallbacks and other.allow_fallbacks,
            require_parameters=self.require_parameters or other.require_parameters,
            no_collection=self.no_collection or other.no_collection,
            zdr=self.zdr or other.zdr,
            quantizations=_meet(self.quantizations, other.quantizations, str.__eq__),
            max_price=self.max_price.narrow(other.max_price),
            distillable=self.distillable or other.distillable,
            regions=_meet(self.regions, other.regions, region_covers),
            no_training=self.no_training or other.no_training,
            max_retention_days=_lower(self.max_retention_days, other.max_retention_days),
            local_only=self.local_only or other.local_only,
            max_posture_age_days=_lower(self.max_posture_age_days, other.max_posture_age_days),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """In which order routes are tried: those of `order` first, then by `weights`, or by price if there are none."""

    order: tuple[str, ...] = ()
    weights: Mapping[Metric, float] = field(default_factory=dict)  # one metric: sorted by it; more: by their blend
    min_throughput: Mapping[Percentile, float] = field(default_factory=dict)  # routes below go last
    max_latency_seconds: Mapping[Percentile, float] = field(default_factory=dict)  # routes above go last


def covers(slug: str, name: str) -> bool:
    """Whether a slug means a route: its name, or the first parts of it."""
    return name == slug or name.startswith(f"{slug}/")


def policy_of(fields: ProviderFields) -> Policy:
    """The part of a `provider` object that takes routes away."""
    cap = fields.max_price
    return Policy(
        only=_slugs(fields.only),
        ignore=_slugs(fields.ignore) or frozenset(),
        allow_fallbacks=fields.allow_fallbacks is not False,
        require_parameters=fields.require_parameters is True,
        no_collection=fields.data_collection == "deny",
        zdr=fields.zdr is True,
        quantizations=None if fields.quantizations is None else frozenset(fields.quantizations),
        max_price=NO_CAP
        if cap is None
        else PriceCap(prompt=cap.prompt, completion=cap.completion, request=cap.request, image=cap.image),
        distillable=fields.enforce_distillable_text is True,
        regions=None if fields.regions is None else frozenset(region.upper() for region in fields.regions),
        no_training=fields.training == "deny",
        max_retention_days=fields.max_retention_days,
        local_only=fields.local_only is True,
        max_posture_age_days=fields.max_posture_age_days,
    )


def preference_of(fields: ProviderFields) -> Preference:
    """The part of a `provider` object that orders routes."""
    return Preference(
        order=tuple(slug.lower() for slug in fields.order or ()),
        weights=_weights(fields.sort),
        min_throughput=_thresholds(fields.preferred_min_throughput),
        max_latency_seconds=_thresholds(fields.preferred_max_latency),
    )


def split_variant(model: str) -> tuple[str, Preference]:
    """A model's name without OpenRouter's suffix for sorting, and what the suffix prefers: `:nitro`, `:floor`."""
    name, _, suffix = model.rpartition(":")
    metric = _SUFFIXES.get(suffix.lower()) if name else None
    return (model, Preference()) if metric is None else (name, Preference(weights={metric: 1.0}))


def policy_from(table: Mapping[str, Any], path: str = "policy") -> Policy:
    """A server's policy for a key, from a table with the same fields as a request's `provider` object."""
    return policy_of(parse_provider(table, path))


def _slugs(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(name.lower() for name in names)


def _weights(sort: Metric | SortFields | None) -> dict[Metric, float]:
    if isinstance(sort, SortFields):
        return dict(sort.blend) if sort.blend else _weights(sort.by)
    return {} if sort is None else {sort: 1.0}


def _thresholds(value: float | PercentileFields | None) -> dict[Percentile, float]:
    if isinstance(value, PercentileFields):
        named = {name: getattr(value, name) for name in PERCENTILES}
        return {name: number for name, number in named.items() if number is not None}
    return {} if value is None else {"p50": value}


def _meet(
    left: frozenset[str] | None, right: frozenset[str] | None, covers: Callable[[str, str], bool]
) -> frozenset[str] | None:
    """The names that both sets cover: of two that overlap, the narrower."""
    if left is None or right is None:
        return right if left is None else left
    pairs = [(a, b) for a in left for b in right]
    return frozenset({b for a, b in pairs if covers(a, b)} | {a for a, b in pairs if covers(b, a)})


def _lower(left: N | None, right: N | None) -> N | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)
