"""A page of metrics with something of everything on it, and what stands on such a page."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cdmtaskservice.api.metrics import PrometheusMetrics
from cdmtaskservice.services.numbers import Gauges, LookLag

SYSTEMS = ("auth", "database", "htcondor", "jaws", "kafka", "nersc", "registry", "s3")
"""All that the service calls."""


def full_page() -> str:
    """Every metric that there is, with a sample at least."""
    metrics = PrometheusMetrics("1.2.3", "0123abc")
    metrics.answered("GET", "/jobs/{job_id}", 200, 0.1)
    for system in SYSTEMS:
        for outcome in ("ok", "refused", "error", "canceled"):
            metrics.called(system, "call", outcome, 0.1)
    metrics.left_state("local", "created", 2.0)
    metrics.looked("job", "done", 0.1, 0.2)
    metrics.reported("local", "claim")
    return metrics.page(some_gauges(), {"local": True}).decode()


def some_gauges() -> Gauges:
    """What the store may say."""
    active = ("local", "job_submitted")
    return Gauges(
        jobs={active: 3, ("local", "complete"): 5},
        owed=2,
        waiting={active: 1},
        oldest={active: 7.5},
        messages=4,
        owed_seconds=3.0,
        lag={"job": LookLag(1, 0.5), "staging": LookLag(0, 0.0)},
        stagings={("local", "complete"): 1},
    )


def samples(page: str) -> list[Sample]:
    """All samples of a page."""
    return [s for family in text_string_to_metric_families(page) for s in family.samples]


def kinds(page: str) -> Mapping[str, str]:
    """The type of each metric on a page, by its name as the page has it."""
    lines = [line.split() for line in page.splitlines() if line.startswith("# TYPE")]
    return {name: kind for _, _, name, kind in lines}
