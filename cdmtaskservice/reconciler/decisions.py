"""What to do about a container that has not come to an end. Pure.

| the engine says | the executor | decision |
|---|---|---|
| unknown | never came | submit |
| unknown | came once | lost: the engine has forgotten it |
| queued | any | wait |
| running | was heard lately, or has not come yet | wait |
| running | said that it was ending, unless the engine starts another one by itself | end the run |
| running | silent for too long, or has not come for an hour | end the run |
| stuck | any | end the run |
| ended | any | lost: nobody is left who could report |
| ended or stuck, and that another attempt would fail too | any | fail |

A run that is ended comes back as ended. A lost container begins its next attempt, and after the last one fails with the
reasons.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import Enum

from cdmtaskservice.domain.records import ContainerRecord
from cdmtaskservice.sites.base import RunState, RunStatus

_START_PATIENCE = 3600.0
"""Seconds for which a run may be running before its executor has come: the worker gets the executor's code first."""


class Action(Enum):
    """What to do about a container."""

    WAIT = "wait"
    SUBMIT = "submit"
    END = "end"
    LOST = "lost"
    FAIL = "fail"


@dataclass(frozen=True)
class Decision:
    """An action, and why."""

    action: Action
    why: str = ""


def decide(
    container: ContainerRecord,
    status: RunStatus,
    now: datetime.datetime,
    reachable_since: datetime.datetime,
    heartbeat_timeout: float,
    restarts: bool = False,
) -> Decision:
    """What to do about a container that was not over before the engine was asked.

    reachable_since: since when executors could have reached the service without a break; silence before that is the
        service's own. heartbeat_timeout: seconds. restarts: whether the engine starts executors again by itself.
    """
    if status.error is not None:
        return Decision(Action.FAIL, status.detail or status.error)
    if status.state is RunState.UNKNOWN:
        if container.claim is None:
            return Decision(Action.SUBMIT)
        return Decision(Action.LOST, "the site does not know its worker any more")
    if status.state is RunState.QUEUED:
        return Decision(Action.WAIT)
    if status.state is RunState.ENDED:
        why = container.ending or status.detail or "no reason is known"
        return Decision(Action.LOST, f"its worker ended without a result: {why}")
    if status.state is RunState.STUCK:
        return Decision(Action.END, status.detail or "it does not go on")
    if container.ending is not None and not restarts:
        return Decision(Action.END, container.ending)
    if container.claim is None or container.seen is None:
        if status.age is not None and status.age > _START_PATIENCE:
            return Decision(Action.END, f"its worker has not begun in {status.age:.0f} seconds")
        return Decision(Action.WAIT)
    silent = (now - max(container.seen, reachable_since)).total_seconds()
    if restarts and status.age is not None and status.age < (now - container.seen).total_seconds():
        # The engine has started it again since, and the one that it started has not come yet.
        if status.age > _START_PATIENCE:
            return Decision(Action.END, f"its worker has not begun again in {status.age:.0f} seconds")
        return Decision(Action.WAIT)
    if silent > heartbeat_timeout:
        return Decision(Action.END, f"its worker has not been heard of for {silent:.0f} seconds")
    return Decision(Action.WAIT)
