"""The page of metrics: its names follow one rule, and its labels have few values."""

from __future__ import annotations

import re

import pytest

from cdmtaskservice.api.metrics import PrometheusMetrics
from test.unit.metrics_page import full_page, kinds, samples, some_gauges

PAGE = full_page()

LABELS = frozenset(
    "call git_hash le method of outcome report route site state status system version".split()  # noqa: SIM905
)
"""All that may be told apart: nothing that grows with users, jobs or files."""

_TIMES = re.compile(r"oldest|delay|lag|duration|_seconds$|_time|latency")
_SIZES = re.compile(r"memory|_bytes$|_size")
_NO_BASE_UNITS = re.compile(r"_(ms|millis|milliseconds|minutes|hours|days|kb|mb|gb|percent)(_|$)")


@pytest.mark.parametrize(("name", "kind"), kinds(PAGE).items())
def test_names_follow_the_rule(name: str, kind: str) -> None:
    assert re.fullmatch(r"cts(_[a-z0-9]+)+", name)
    assert not _NO_BASE_UNITS.search(name)
    assert not re.search(r"_(sum|count|bucket|created)$", name)
    assert name.endswith("_total") == (kind == "counter")
    if name.endswith("_info"):
        assert {s.value for s in samples(PAGE) if s.name == name} == {1.0}
    if kind == "histogram":
        assert name.endswith(("_seconds", "_bytes"))
    if _TIMES.search(name):
        assert name.removesuffix("_total").endswith("_seconds")
    if _SIZES.search(name):
        assert name.endswith("_bytes")


def test_every_sample_belongs_to_a_metric_of_a_known_kind() -> None:
    known = kinds(PAGE)
    for sample in samples(PAGE):
        bare = re.sub(r"_(bucket|sum|count)$", "", sample.name)
        assert sample.name in known or known[bare] == "histogram"
    assert set(known.values()) == {"counter", "gauge", "histogram"}


def test_labels_are_the_known_ones() -> None:
    assert {label for sample in samples(PAGE) for label in sample.labels} == LABELS


def test_every_metric_says_what_it_is() -> None:
    told = dict(re.findall(r"^# HELP (\S+) (.+)$", PAGE, re.MULTILINE))
    assert set(told) == set(kinds(PAGE))


def test_without_the_store_there_is_what_the_process_itself_knows() -> None:
    metrics = PrometheusMetrics("1", "x")
    with_store = kinds(metrics.page(some_gauges(), {"local": True}).decode())
    without = kinds(metrics.page(None, {"local": True}).decode())
    assert set(with_store) - set(without) == {
        "cts_jobs",
        "cts_jobs_waiting",
        "cts_job_oldest_seconds",
        "cts_looks_due",
        "cts_look_lag_seconds",
        "cts_jobs_owing_messages",
        "cts_messages_owed",
        "cts_messages_owed_oldest_seconds",
        "cts_refdata_stagings",
    }
    assert {"cts_site_available", "cts_build_info", "cts_process_resident_memory_bytes"} <= set(without)
