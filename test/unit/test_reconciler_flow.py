"""What is counted of the tries of one task, and when it is counted anew."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.reconciler.jaws_tasks import JawsTasks

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
ALL = ("failures", "refused", "crashed")


def failed(flow: Flow, counter: str = "") -> Flow:
    return flow.failed(NOW, 5.0, "why", "told", counter)


def counts(flow: Flow) -> tuple[int, ...]:
    return flow.failures, flow.refused, flow.crashed


@pytest.mark.parametrize(
    ("lefts", "least"),
    [
        ((-1,), -1),
        ((-1, -1), -1),
        ((100, -1), 100),
        ((-1, 100), 100),
        ((100, 50, 70), 50),
        ((100, 50, -1, 70), 50),
        ((0, 100), 0),
        ((100, 0), 0),
    ],
)
def test_the_least_that_was_left_is_kept(lefts: tuple[int, ...], least: int) -> None:
    flow = Flow()
    for left in lefts:
        flow = flow.begin("refdata", NOW, left)
    assert (flow.left, flow.number) == (least, len(lefts))
    assert Flow(**flow.stored) == flow


@pytest.mark.parametrize(
    ("lefts", "forgiven"),
    [
        ((100, 99), True),
        ((100, 100), False),
        ((100, 101), False),
        ((100, -1), False),
        ((-1, 100), False),
        ((100, 50, 80, 60), False),
        ((100, 50, 80, 49), True),
        ((0, 0), False),
    ],
    ids=str,
)
def test_only_a_try_that_had_less_to_do_than_ever_begins_the_count_anew(lefts: tuple[int, ...], forgiven: bool) -> None:
    flow = Flow()
    for left in lefts[:-1]:
        flow = flow.begin("refdata", NOW, left, ALL)
    flow = failed(failed(flow, "refused"), "crashed")
    before = counts(flow)
    flow = flow.begin("refdata", NOW, lefts[-1], ALL)
    assert counts(flow) == ((0, 0, 0) if forgiven else before)


def test_of_jobs_only_refusals_are_forgiven() -> None:
    assert tuple(JawsTasks.forgiven) == ("refused",)
    flow = failed(failed(Flow().begin("stage", NOW, 5), "refused"), "crashed")
    assert counts(flow.begin("stage", NOW, 4)) == (2, 0, 1)
    assert counts(flow.begin("stage", NOW, 5)) == (2, 1, 1)


def test_another_task_has_counts_of_its_own() -> None:
    flow = failed(failed(Flow().begin("refdata", NOW, 5), "refused"), "crashed").begin("copy", NOW)
    assert (counts(flow), flow.left, flow.number) == ((0, 0, 0), -1, 2)


def test_what_is_held_up_has_not_failed() -> None:
    flow = failed(Flow().begin("refdata", NOW), "crashed")
    held: Any = flow.begin("refdata", NOW).held_up(NOW, 20.0, "w" * 2000, "told")
    assert counts(held) == counts(flow)
    assert (held.pause(NOW), held.handle, len(held.why), held.told) == (20.0, "", 1000, "told")
    again = held.held_up(NOW, 20.0, "w", "t")
    assert again.pause(NOW) == 20.0  # not longer and longer, as nothing is overcharged
