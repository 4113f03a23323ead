"""One transition of a job, made by a look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.records import JobRecord, Transition
from cdmtaskservice.domain.states import DueTransition, Outcome
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)


class Mover:
    """Moves jobs, each transition with an ID of its own."""

    def __init__(self, jobs: JobStore, clock: Clock, new_id: IdSource) -> None:
        self._jobs = jobs
        self._clock = clock
        self._new_id = new_id

    async def move(
        self, job: JobRecord, due: DueTransition, fields: Mapping[str, Any] | None = None
    ) -> JobRecord | None:
        """Make one transition; None where somebody else moved the job elsewhere meanwhile (cancelled it, say)."""
        transition = Transition(due.state, due.time or self._clock(), self._new_id())
        outcome, moved = await self._jobs.transition(job.id, transition, fields)
        if outcome in {Outcome.CONFLICT, Outcome.MISSING}:
            _log.info("transition_refused", job=job.id, to=due.state.value, outcome=outcome.value)
            return None
        return moved
