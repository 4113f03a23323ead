"""What is decided about a container: every row of the table."""

from __future__ import annotations

import datetime

import pytest

from cdmtaskservice.domain.records import ContainerRecord, Reached
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.decisions import Action, Decision, decide
from cdmtaskservice.sites.base import RunState, RunStatus

NOW = datetime.datetime(2030, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)
TIMEOUT = 60.0
LONG_AGO = NOW - datetime.timedelta(days=30)
R = RunState


def ago(seconds: float) -> datetime.datetime:
    return NOW - datetime.timedelta(seconds=seconds)


def container(claim: str | None = None, seen: float | None = None, ending: str | None = None) -> ContainerRecord:
    return ContainerRecord(
        "j",
        0,
        JobState.JOB_SUBMITTED,
        1,
        {JobState.CREATED: Reached(LONG_AGO, LONG_AGO)},
        claim=claim,
        seen=None if seen is None else ago(seen),
        ending=ending,
    )


NEVER_CAME = container()
HEARD = container("c", seen=1)
SILENT = container("c", seen=61)
ENDING = container("c", seen=1, ending="it was told to end")
ENDING_SILENT = container("c", seen=999, ending="it was told to end")
ENDED = "its worker ended without a result: "
SILENCE = "its worker has not been heard of for 61 seconds"


@pytest.mark.parametrize(
    ("engine", "executor", "expected"),
    [
        (R.UNKNOWN, NEVER_CAME, Decision(Action.SUBMIT)),
        *[
            (R.UNKNOWN, c, Decision(Action.LOST, "the site does not know its worker any more"))
            for c in (HEARD, SILENT, ENDING)
        ],
        *[(R.QUEUED, c, Decision(Action.WAIT)) for c in (NEVER_CAME, HEARD, SILENT, ENDING)],
        *[(R.RUNNING, c, Decision(Action.WAIT)) for c in (NEVER_CAME, HEARD)],
        (R.RUNNING, SILENT, Decision(Action.END, SILENCE)),
        *[(R.RUNNING, c, Decision(Action.END, "it was told to end")) for c in (ENDING, ENDING_SILENT)],
        *[(R.ENDED, c, Decision(Action.LOST, ENDED + "exit code 9")) for c in (NEVER_CAME, HEARD, SILENT)],
        (R.ENDED, ENDING, Decision(Action.LOST, ENDED + "it was told to end")),
    ],
)
def test_every_row_of_the_table(engine: RunState, executor: ContainerRecord, expected: Decision) -> None:
    assert decide(executor, RunStatus(engine, "exit code 9"), NOW, LONG_AGO, TIMEOUT) == expected


def test_an_end_without_a_reason_says_so() -> None:
    assert decide(HEARD, RunStatus(R.ENDED), NOW, LONG_AGO, TIMEOUT).why == ENDED + "no reason is known"


@pytest.mark.parametrize(
    ("seen", "reachable", "action"),
    [
        (60.0, 9999.0, Action.WAIT),
        (60.001, 9999.0, Action.END),
        (9999.0, 60.0, Action.WAIT),
        (9999.0, 60.001, Action.END),
        (9999.0, 0.0, Action.WAIT),
        (0.0, 9999.0, Action.WAIT),
    ],
)
def test_silence_counts_from_when_the_service_could_be_reached(seen: float, reachable: float, action: Action) -> None:
    status = RunStatus(R.RUNNING)
    assert decide(container("c", seen), status, NOW, ago(reachable), TIMEOUT).action is action


def test_what_can_only_fail_again_fails_at_once() -> None:
    for state in (R.ENDED, R.STUCK):
        status = RunStatus(state, "code 34: too much memory", error="it used too much memory")
        assert decide(HEARD, status, NOW, LONG_AGO, TIMEOUT) == Decision(Action.FAIL, "code 34: too much memory")


def test_what_is_stuck_is_ended() -> None:
    expected = Decision(Action.END, "it is held")
    assert decide(NEVER_CAME, RunStatus(R.STUCK, "it is held"), NOW, LONG_AGO, TIMEOUT) == expected


def test_an_engine_that_restarts_executors_is_left_to_it() -> None:
    running = RunStatus(R.RUNNING)
    assert decide(ENDING, running, NOW, LONG_AGO, TIMEOUT, restarts=True).action is Action.WAIT
    assert decide(ENDING_SILENT, running, NOW, LONG_AGO, TIMEOUT, restarts=True).action is Action.END


@pytest.mark.parametrize(
    ("seen", "age", "action"),
    [
        (9999.0, 61.0, Action.WAIT),
        (9999.0, 3600.0, Action.WAIT),
        (9999.0, 3601.0, Action.END),
        (61.0, 60.0, Action.WAIT),
        (61.0, 61.0, Action.END),
    ],
)
def test_an_executor_that_was_started_again_has_as_long_to_come_as_the_first(
    seen: float, age: float, action: Action
) -> None:
    status = RunStatus(R.RUNNING, age=age)
    assert decide(container("c", seen), status, NOW, LONG_AGO, TIMEOUT, restarts=True).action is action


@pytest.mark.parametrize(("age", "action"), [(3600.0, Action.WAIT), (3601.0, Action.END), (None, Action.WAIT)])
def test_an_executor_that_never_comes(age: float | None, action: Action) -> None:
    assert decide(NEVER_CAME, RunStatus(R.RUNNING, age=age), NOW, LONG_AGO, TIMEOUT).action is action
