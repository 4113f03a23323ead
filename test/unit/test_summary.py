"""What a job tells of its containers at its end."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from cdmtaskservice.domain.records import ContainerRecord, Reached, Usage
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.summary import failure_fields, usage_fields

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def container(number: int, state: JobState = JobState.COMPLETE, **kwargs: Any) -> ContainerRecord:
    return ContainerRecord("j", number, state, 1, {state: Reached(NOW, NOW)}, **kwargs)


def used(
    number: int, cpu: float | None = None, wall: float | None = None, memory: int | None = None
) -> ContainerRecord:
    return container(number, usage=Usage(cpu, wall, memory))


def test_usage_is_summed_and_the_largest_memory_kept() -> None:
    fields = usage_fields([used(0, 3600.0, 3600.0, 7), used(1, 1800.0, 3600.0, 5)], 2)
    assert fields == {"cpu_hours": 1.5, "cpu_factor": pytest.approx(5400 / (2 * 7200)), "max_memory": 7}


def test_what_nobody_measured_is_left_out() -> None:
    assert usage_fields([container(0), container(1)], 1) == {}
    assert usage_fields([used(0, memory=3), container(1)], 1) == {"max_memory": 3}
    assert usage_fields([used(0, wall=3.0)], 1) == {}


def test_a_container_that_used_nothing_divides_by_nothing() -> None:
    assert usage_fields([used(0, 0.0, 0.0, 0)], 1) == {"cpu_hours": 0.0, "max_memory": 0}


def test_cpu_time_without_a_wall_time_counts_for_the_hours_only() -> None:
    fields = usage_fields([used(0, 3600.0, 7200.0), used(1, 3600.0)], 1)
    assert fields == {"cpu_hours": 2.0, "cpu_factor": 0.5}


def failed(number: int, **kwargs: Any) -> ContainerRecord:
    return container(number, JobState.ERROR, **kwargs)


def test_failures_are_told_to_the_owner_in_words() -> None:
    fields = failure_fields([container(0), failed(1, error="no such file"), failed(2, exit_code=4), failed(3)])
    assert fields == {
        "error": (
            "3 of 4 containers failed; container 1: no such file; container 2: its program ended with exit code 4; see "
            "its logs; container 3: it failed; an administrator can see why"
        )
    }


def test_administrators_are_told_in_full() -> None:
    fields = failure_fields(
        [failed(0, error="a"), failed(1, admin_error="all of it", traceback="line 1"), failed(2, traceback="line 2")]
    )
    assert fields["admin_error"] == "container 1: all of it"
    assert fields["traceback"] == "line 1"


def test_a_thousand_failures_stay_short() -> None:
    long = "x" * 20_000
    fields = failure_fields([failed(n, error=long, admin_error=long, traceback=long + "end") for n in range(1000)])
    assert len(fields["error"]) < 11_000
    assert all(f"container {n}: xxx" in fields["error"] for n in range(5))
    assert "container 5" not in fields["error"]
    assert fields["error"].endswith("; and 995 more")
    assert len(fields["admin_error"]) <= 10_000
    assert len(fields["traceback"]) == 10_000
    assert fields["traceback"].endswith("end")
