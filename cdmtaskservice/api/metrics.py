"""Numbers on requests, and the page on which Prometheus reads all numbers.

Names are `cts_` and what is counted, with its unit. Labels have few values: routes are templates, never paths.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from cdmtaskservice.services.health import Gauges

__all__ = ["CONTENT_TYPE_LATEST", "HttpMetrics"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class HttpMetrics:
    """Counts the requests of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cts_http_requests",
            "Requests answered, by the class of the status",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "cts_http_request_duration_seconds",
            "Time until the last byte of the answer was given away",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered with `status` after `seconds`."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = route_template(scope)
        self._requests.labels(method, route, f"{status // 100}xx").inc()
        self._seconds.labels(method, route).observe(seconds)

    def page(self, gauges: Gauges | None) -> bytes:
        """Everything in Prometheus' text format; without `gauges`, the numbers from the store are left out."""
        return generate_latest(self._registry) + generate_latest(_registry_of(gauges))


def route_template(scope: Scope) -> str:
    """The path of the route that served a request, with its parameters' names; `none` where there was no route."""
    return getattr(scope.get("route"), "path", None) or "none"


class _StoreNumbers(Collector):
    def __init__(self, gauges: Gauges | None) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("cts_store_up", "Whether the store gave its numbers")
        up.add_metric((), 0 if self._gauges is None else 1)
        yield up
        if self._gauges is None:
            return
        jobs = GaugeMetricFamily("cts_jobs", "Jobs by site and state", labels=("site", "state"))
        for (site, state), count in sorted(self._gauges.jobs.items()):
            jobs.add_metric((site, state), count)
        yield jobs
        owed = GaugeMetricFamily("cts_jobs_owing_messages", "Jobs with state changes that the broker has not taken yet")
        owed.add_metric((), self._gauges.owed)
        yield owed


def _registry_of(gauges: Gauges | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_StoreNumbers(gauges))
    return registry
