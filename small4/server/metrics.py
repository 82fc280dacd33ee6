"""What is counted and timed, for Prometheus to collect; the names stand in `metric_names.py`."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from small4.server.exchange import Exchange
from small4.server.metric_names import METRICS, Metric

if TYPE_CHECKING:
    from small4.gateway.health import Health

LAG_INTERVAL_SECONDS = 0.25


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._health: Health | None = None
        self._counted: dict[tuple[str, ...], int] = {}  # totals of routes at the last page
        self._counters = {key: self._make(row) for key, row in METRICS.items() if row.kind == "counter"}
        self._gauges = {key: self._make_gauge(row) for key, row in METRICS.items() if row.kind == "gauge"}
        self._histograms = {key: self._make_histogram(row) for key, row in METRICS.items() if row.kind == "histogram"}

    def watch(self, key: str, read: Callable[[], float]) -> None:
        """Have a gauge read its value whenever it is asked for."""
        self._gauges[key].set_function(read)

    def watch_routes(self, health: "Health") -> None:
        """Have the routes' counters follow these totals."""
        self._health = health

    def record(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        seconds = exchange.seconds
        status = str(exchange.status)
        self._histograms["http_duration"].labels(exchange.method, exchange.route, status).observe(seconds)
        if exchange.model is None:
            return
        labels = (exchange.operation, exchange.model)
        self._histograms["duration"].labels(*labels, exchange.error or "").observe(seconds)
        self._counters["left"].inc(exchange.has_left)
        if exchange.first_event_seconds is not None:
            self._histograms["first_token"].labels(*labels).observe(exchange.first_event_seconds)
        self._record_usage(exchange, labels)

    def _record_usage(self, exchange: Exchange, labels: tuple[str, str]) -> None:
        usage = exchange.usage
        if usage is None:
            return
        tokens = {
            "input": usage.prompt_tokens,
            "output": usage.completion_tokens,
            "cached": usage.cached_tokens,
            "reasoning": usage.reasoning_tokens,
        }
        for kind, num_tokens in tokens.items():
            estimate = str(exchange.is_estimate).lower()
            self._histograms["token_usage"].labels(*labels, kind, estimate).observe(num_tokens)
        if exchange.first_event_seconds is not None and usage.completion_tokens > 1:
            seconds = (exchange.seconds - exchange.first_event_seconds) / (usage.completion_tokens - 1)
            self._histograms["per_token"].labels(*labels).observe(seconds)

    async def measure_lag(self) -> None:
        """Time the event loop for as long as it runs."""
        while True:
            due = time.perf_counter() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self._histograms["loop_lag"].observe(max(0.0, time.perf_counter() - due))

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        if self._health is not None:
            self._follow(self._health)
        return bytes(generate_latest(self._registry))

    def _follow(self, health: "Health") -> None:
        """Raise the routes' counters by what was added since the last time."""
        for route, totals in health.totals().items():
            for result, number in totals.results.items():
                self._raise("route_attempts", (route, result), number)
            self._raise("route_tokens", (route,), totals.num_tokens)
            self._gauges["route_open"].labels(route).set(health.phase(route) == "open")

    def _raise(self, key: str, labels: tuple[str, ...], total: int) -> None:
        counted = self._counted.get((key, *labels), 0)
        self._counters[key].labels(*labels).inc(total - counted)
        self._counted[key, *labels] = total

    def _make(self, row: Metric) -> Counter:
        return Counter(row.name.removesuffix("_total"), row.help, row.labels, registry=self._registry)

    def _make_gauge(self, row: Metric) -> Gauge:
        return Gauge(row.name, row.help, row.labels, registry=self._registry)

    def _make_histogram(self, row: Metric) -> Histogram:
        return Histogram(row.name, row.help, row.labels, registry=self._registry, buckets=row.buckets)
