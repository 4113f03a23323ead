"""What to do about a container that has not come to an end. Pure.

| the engine says | the executor | decision |
|---|---|---|
| unknown | never came | submit |
| unknown | came once | lost: the engine has forgotten it |
| queued | any | wait |
| running | never came, or was heard lately | wait |
| running | said that it was ending, or silent for too long | end the run; it comes back as ended |
| ended | any | lost: nobody is left who could report |

A lost container begins its next attempt, and after the last one fails with the reasons.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import Enum

from cdmtaskservice.domain.records import ContainerRecord
from cdmtaskservice.sites.base import RunState, RunStatus


class Action(Enum):
    """What to do about a container."""

    WAIT = "wait"
    SUBMIT = "submit"
    END = "end"
    LOST = "lost"


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
) -> Decision:
    """What to do about a container that was not over before the engine was asked.

    reachable_since: since when executors could have reached the service without a break; silence before that is the
        service's own. heartbeat_timeout: seconds.
    """
    if status.state is RunState.UNKNOWN:
        if container.claim is None:
            return Decision(Action.SUBMIT)
        return Decision(Action.LOST, "the site does not know its worker any more")
    if status.state is RunState.QUEUED:
        return Decision(Action.WAIT)
    if status.state is RunState.ENDED:
        why = container.ending or status.detail or "no reason is known"
        return Decision(Action.LOST, f"its worker ended without a result: {why}")
    if container.ending is not None:
        return Decision(Action.END, container.ending)
    if container.claim is None or container.seen is None:
        return Decision(Action.WAIT)
    silent = (now - max(container.seen, reachable_since)).total_seconds()
    if silent > heartbeat_timeout:
        return Decision(Action.END, f"its worker has not been heard of for {silent:.0f} seconds")
    return Decision(Action.WAIT)
