"""Keeps the numbers, and writes the page on which Prometheus reads them.

Names follow one rule: `cts_`, then what it is of, then what is measured, in base units. A counter ends in `_total`,
times and sizes in `_seconds` and `_bytes`, and what is 1 only to carry labels in `_info`; all else is a plain number
of things, or 1 or 0 for yes or no. Labels have few values: words of the code, the settings' sites, and routes as
templates, never paths, users or jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cdmtaskservice.meter import Outcome
from cdmtaskservice.services.numbers import Gauges

__all__ = ["CONTENT_TYPE_LATEST", "PrometheusMetrics"]

K = TypeVar("K", bound=tuple[str, ...])

_ANSWERS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LOOKS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STATES = (
    *(1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE),
    *(_HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY),
)


class PrometheusMetrics:
    """The numbers of one process. Prometheus adds up those of several replicas; the store's are the same for all."""

    def __init__(self, version: str, git_hash: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "cts_http_requests",
            "Requests answered, by the class of the status",
            ("method", "route", "status"),
            registry=registry,
        )
        self._answers = Histogram(
            "cts_http_request_duration_seconds",
            "Time until the last byte of the answer was given away",
            ("method", "route"),
            buckets=_ANSWERS,
            registry=registry,
        )
        self._calls = Histogram(
            "cts_external_call_seconds",
            "Calls to other systems with all their tries, by what came of them",
            ("system", "call", "outcome"),
            buckets=_CALLS,
            registry=registry,
        )
        self._states = Histogram(
            "cts_job_state_seconds",
            "How long jobs were in a state, when they left it",
            ("site", "state"),
            buckets=_STATES,
            registry=registry,
        )
        self._looks = Histogram(
            "cts_look_seconds",
            "Looks, by what came of them",
            ("of", "outcome"),
            buckets=_LOOKS,
            registry=registry,
        )
        self._late = Histogram(
            "cts_look_delay_seconds",
            "How late looks that were due began",
            ("of",),
            buckets=_LOOKS,
            registry=registry,
        )
        self._reports = Counter(
            "cts_executor_reports",
            "Claims, signs of life and new states that executors have brought",
            ("site", "report"),
            registry=registry,
        )
        build = Info("cts_build", "Which version runs", registry=registry)
        build.info({"version": version, "git_hash": git_hash})
        ProcessCollector(namespace="cts", registry=registry)

    # What happens; see `Meter` and `Metrics`

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request was answered."""
        self._requests.labels(method, route, f"{status // 100}xx").inc()
        if seconds is not None:
            self._answers.labels(method, route).observe(seconds)

    def called(self, system: str, call: str, outcome: Outcome, seconds: float) -> None:
        """Something outside was called."""
        self._calls.labels(system, call, outcome).observe(seconds)

    def left_state(self, site: str, state: str, seconds: float) -> None:
        """A job has left a state."""
        self._states.labels(site, state).observe(seconds)

    def looked(self, of: str, outcome: str, seconds: float, late: float | None) -> None:
        """A look is over."""
        self._looks.labels(of, outcome).observe(seconds)
        if late is not None:
            self._late.labels(of).observe(late)

    def reported(self, site: str, report: str) -> None:
        """An executor has called."""
        self._reports.labels(site, report).inc()

    # What there is

    def page(self, gauges: Gauges | None, sites: Mapping[str, bool]) -> bytes:
        """Everything in Prometheus' text format; without `gauges`, the numbers from the store are left out."""
        now = CollectorRegistry()
        now.register(_Counted(self._registry))
        now.register(_Found(gauges, sites))
        return generate_latest(now)


class _Counted(Collector):
    """What a registry has, without the time at which each number came to be, which nobody asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class _Found(Collector):
    """What the store says, and how the sites are."""

    def __init__(self, gauges: Gauges | None, sites: Mapping[str, bool]) -> None:
        self._gauges = gauges
        self._sites = sites

    def collect(self) -> Iterable[Metric]:
        available = {(site,): float(yes) for site, yes in self._sites.items()}
        yield _gauge("cts_site_available", "Whether a site can take work", ("site",), available)
        yield _gauge("cts_store_up", "Whether the store gave its numbers", (), {(): float(self._gauges is not None)})
        if self._gauges is not None:
            yield from _of_the_store(self._gauges)


def _of_the_store(found: Gauges) -> Iterable[Metric]:
    by_state = ("site", "state")
    yield _gauge("cts_jobs", "Jobs", by_state, found.jobs)
    yield _gauge("cts_jobs_waiting", "Jobs that cannot go on now, and say why", by_state, found.waiting)
    yield _gauge(
        "cts_job_oldest_seconds", "For how long the job is in a state that is in it for longest", by_state, found.oldest
    )
    due = {(of,): lag.due for of, lag in found.lag.items()}
    yield _gauge("cts_looks_due", "What waits for a look that is due", ("of",), due)
    late = {(of,): lag.seconds for of, lag in found.lag.items()}
    yield _gauge("cts_look_lag_seconds", "For how long the look is due that waits longest", ("of",), late)
    yield _gauge(
        "cts_jobs_owing_messages",
        "Jobs with state changes that the broker has not taken yet",
        (),
        {(): found.owed},
    )
    yield _gauge("cts_messages_owed", "State changes that the broker has not taken yet", (), {(): found.messages})
    yield _gauge(
        "cts_messages_owed_oldest_seconds", "For how long the oldest of them is owed", (), {(): found.owed_seconds}
    )
    yield _gauge("cts_refdata_stagings", "Pieces of reference data at sites", by_state, found.stagings)


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Mapping[K, float]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
