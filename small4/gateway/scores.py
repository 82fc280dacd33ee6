"""How good a route is for a request: its cost by the catalogue, its speed and uptime by our own measurements.

With one weight, routes are sorted by that metric. With more, each metric becomes a share of the best value among the
candidates (best / value where less is better, value / best where more is) and the blend is their weighted mean. What
is not known comes last and adds nothing to a blend; speeds that others claim are not known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from small4.catalog.price import cost_of
from small4.catalog.route import Route
from small4.gateway.health import Measurement
from small4.gateway.needs import Needs
from small4.gateway.policy import Percentile, Preference
from small4.gateway.rolling import Percentiles
from small4.wire.routing_fields import Metric

MORE_IS_BETTER: dict[Metric, bool] = {"price": False, "throughput": True, "latency": False, "uptime": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a candidate was sorted by; None is not known."""

    usd: Decimal | None  # of this request, at most
    throughput: float | None  # median
    latency_seconds: float | None  # median
    uptime: float | None
    blend: float | None = None  # from 0 to 1, where more than one metric has a weight

    def of(self, metric: Metric) -> float | None:
        """One metric as a number."""
        if metric == "price":
            return None if self.usd is None else float(self.usd)
        return {"throughput": self.throughput, "latency": self.latency_seconds, "uptime": self.uptime}[metric]


def scores_of(route: Route, needs: Needs, measured: Measurement | None) -> Scores:
    """A route's scores for a request, without those that depend on the other candidates."""
    cost = cost_of(needs.usage, route.prices, num_images=needs.num_images, is_batch=needs.is_batch)
    return Scores(
        usd=cost.at_most_usd,
        throughput=_percentile(measured.tokens_per_second if measured else None, "p50"),
        latency_seconds=_percentile(measured.first_token_seconds if measured else None, "p50"),
        uptime=None if measured is None else measured.uptime,
    )


def blends(scores: Iterable[Scores], weights: Mapping[Metric, float]) -> list[float]:
    """The blend of every candidate."""
    rows, total = list(scores), sum(weights.values())
    shares = {metric: _shares([row.of(metric) for row in rows], MORE_IS_BETTER[metric]) for metric in weights}
    return [
        sum(weight * shares[metric][i] for metric, weight in weights.items()) / total if total else 0.0
        for i in range(len(rows))
    ]


def meets_wishes(measured: Measurement | None, preference: Preference) -> bool:
    """Whether it is known to be as fast as is wished; a wish only moves a route back."""
    speeds = measured.tokens_per_second if measured else None
    waits = measured.first_token_seconds if measured else None
    least = [(_percentile(speeds, name), speed) for name, speed in preference.min_throughput.items()]
    most = [(_percentile(waits, name), seconds) for name, seconds in preference.max_latency_seconds.items()]
    return all(known is not None and known >= wished for known, wished in least) and all(
        known is not None and known <= wished for known, wished in most
    )


def _percentile(percentiles: Percentiles | None, name: Percentile) -> float | None:
    return (
        None
        if percentiles is None
        else {"p50": percentiles.p50, "p75": percentiles.p75, "p90": percentiles.p90, "p99": percentiles.p99}[name]
    )


def _shares(values: list[float | None], more_is_better: bool) -> list[float]:
    known = [value for value in values if value is not None]
    if not known:
        return [0.0] * len(values)
    best = max(known) if more_is_better else min(known)
    return [0.0 if value is None else _share(value, best, more_is_better) for value in values]


def _share(value: float, best: float, more_is_better: bool) -> float:
    if value == best:
        return 1.0
    return value / best if more_is_better else best / value
