"""The states of jobs and containers, the one table of allowed transitions, and the roll-up.

A container (sub job) walks one of two branches after it ran:

    created → download_submitted → job_submitting → job_submitted
        → upload_submitting → upload_submitted → complete
        → error_processing_submitting → error_processing_submitted → error

A job whose containers the service tracks follows them: it enters a state when all its containers have reached that
state or its error twin. Everything here is pure.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class JobState(str, Enum):
    """A state of a job, or of one of its containers."""

    CREATED = "created"
    DOWNLOAD_SUBMITTED = "download_submitted"
    JOB_SUBMITTING = "job_submitting"
    JOB_SUBMITTED = "job_submitted"
    UPLOAD_SUBMITTING = "upload_submitting"
    UPLOAD_SUBMITTED = "upload_submitted"
    COMPLETE = "complete"
    ERROR_PROCESSING_SUBMITTING = "error_processing_submitting"
    ERROR_PROCESSING_SUBMITTED = "error_processing_submitted"
    ERROR = "error"
    CANCELING = "canceling"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows this state."""
        return self in TERMINAL_STATES


class RefdataState(str, Enum):
    """A state of reference data at one site."""

    CREATED = "created"
    DOWNLOAD_SUBMITTED = "download_submitted"
    COMPLETE = "complete"
    ERROR = "error"


TERMINAL_STATES = frozenset({JobState.COMPLETE, JobState.ERROR, JobState.CANCELED})

_S = JobState

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    _S.CREATED: frozenset({_S.DOWNLOAD_SUBMITTED, _S.CANCELING, _S.ERROR}),
    _S.DOWNLOAD_SUBMITTED: frozenset({_S.JOB_SUBMITTING, _S.CANCELING, _S.ERROR}),
    _S.JOB_SUBMITTING: frozenset({_S.JOB_SUBMITTED, _S.CANCELING, _S.ERROR}),
    _S.JOB_SUBMITTED: frozenset({_S.UPLOAD_SUBMITTING, _S.ERROR_PROCESSING_SUBMITTING, _S.CANCELING, _S.ERROR}),
    _S.UPLOAD_SUBMITTING: frozenset({_S.UPLOAD_SUBMITTED, _S.CANCELING, _S.ERROR}),
    _S.UPLOAD_SUBMITTED: frozenset({_S.COMPLETE, _S.CANCELING, _S.ERROR}),
    _S.ERROR_PROCESSING_SUBMITTING: frozenset({_S.ERROR_PROCESSING_SUBMITTED, _S.CANCELING, _S.ERROR}),
    _S.ERROR_PROCESSING_SUBMITTED: frozenset({_S.CANCELING, _S.ERROR}),
    _S.CANCELING: frozenset({_S.CANCELED, _S.ERROR}),
    _S.COMPLETE: frozenset(),
    _S.ERROR: frozenset(),
    _S.CANCELED: frozenset(),
}
"""Which states may follow a state. The same table serves jobs and, without the canceling states, containers."""


def predecessors(state: JobState) -> frozenset[JobState]:
    """The states from which `state` may be entered."""
    return frozenset(s for s, after in TRANSITIONS.items() if state in after)


class Outcome(Enum):
    """What came of an attempt to apply a transition: never just yes or no."""

    APPLIED = "applied"
    REPLAYED = "replayed"
    """It was there already, which is success."""
    CONFLICT = "conflict"
    """Somebody moved it elsewhere."""
    MISSING = "missing"


CONTAINER_STATES: tuple[JobState, ...] = tuple(s for s in JobState if s not in {_S.CANCELING, _S.CANCELED})
"""The states that a container can have."""

_RANK: Mapping[JobState, int] = {
    _S.CREATED: 0,
    _S.DOWNLOAD_SUBMITTED: 1,
    _S.JOB_SUBMITTING: 2,
    _S.JOB_SUBMITTED: 3,
    _S.UPLOAD_SUBMITTING: 4,
    _S.ERROR_PROCESSING_SUBMITTING: 4,
    _S.UPLOAD_SUBMITTED: 5,
    _S.ERROR_PROCESSING_SUBMITTED: 5,
    _S.COMPLETE: 6,
    _S.ERROR: 6,
}

_ERROR_BRANCH = frozenset({_S.ERROR_PROCESSING_SUBMITTING, _S.ERROR_PROCESSING_SUBMITTED, _S.ERROR})
_FORWARD: tuple[JobState, ...] = tuple(s for s in _RANK if s not in _ERROR_BRANCH)
_BACK: tuple[JobState, ...] = (
    *_FORWARD[:4],
    _S.ERROR_PROCESSING_SUBMITTING,
    _S.ERROR_PROCESSING_SUBMITTED,
    _S.ERROR,
)


def container_states_before(state: JobState) -> frozenset[JobState]:
    """The container states that a report of `state` may move forward from.

    Reports come late, twice and out of order, so a report may skip states. It never moves a container back, across
    from one branch to the other except into `error`, or out of a terminal state.
    """
    if state is _S.ERROR:
        return frozenset(s for s in CONTAINER_STATES if not s.is_terminal)
    branch = _BACK if state in _ERROR_BRANCH else _FORWARD
    return frozenset(branch[: branch.index(state)])


@dataclass(frozen=True)
class ContainerTally:
    """Where a job's containers are: how many in each state, and when the last of them came as far as each rank.

    counts: containers by state, zeros left out.
    latest: by state, the time at which the last container that ever entered this state did so. Times are the
        service's, aware UTC.
    """

    counts: Mapping[JobState, int]
    latest: Mapping[JobState, datetime.datetime]

    @property
    def total(self) -> int:
        """The number of containers."""
        return sum(self.counts.values())

    @property
    def all_terminal(self) -> bool:
        """Whether no container has anything left to do."""
        return all(s.is_terminal for s, n in self.counts.items() if n)


@dataclass(frozen=True)
class DueTransition:
    """A transition that a job must make now, with the time of the last container that made it true."""

    state: JobState
    time: datetime.datetime | None


def roll_up(state: JobState, tally: ContainerTally) -> Sequence[DueTransition]:
    """The transitions that a job in `state` must still make to follow its containers, in order.

    With any container in the error branch the job takes the error branch once all have come that far. A job that is
    terminal or being cancelled does not follow its containers any more.
    """
    if state not in _RANK or state.is_terminal or not tally.total:
        return ()
    reached = min(_RANK[s] for s, n in tally.counts.items() if n)
    failing = any(tally.counts.get(s) for s in _ERROR_BRANCH)
    path = _BACK if state in _ERROR_BRANCH or (failing and state not in _FORWARD[4:]) else _FORWARD
    if failing and state in _FORWARD[4:]:
        # The job went up the forward branch before a container failed: only `error` can still follow.
        done = reached == _RANK[_S.ERROR]
        return (DueTransition(_S.ERROR, _latest_at(tally, _RANK[_S.ERROR])),) if done else ()
    return tuple(DueTransition(s, _latest_at(tally, _RANK[s])) for s in path[_RANK[state] + 1 : reached + 1])


def _latest_at(tally: ContainerTally, rank: int) -> datetime.datetime | None:
    """When the last container had come to `rank`.

    Exact where containers skip no states. Where they do, the tally does not hold all that it takes: the time is never
    after the true one, never before that of a lower rank, and never goes back from one look to the next.
    """
    return max((t for r in range(rank + 1) if (t := _entered(tally, r)) is not None), default=None)


def _entered(tally: ContainerTally, rank: int) -> datetime.datetime | None:
    """When the last of the containers that were at `rank` came there; past it, where all of them skipped it."""
    exact = [t for s, t in tally.latest.items() if _RANK[s] == rank]
    if exact:
        return max(exact)
    past = [t for s, t in tally.latest.items() if _RANK[s] > rank]
    return min(past) if past else None
