"""What reference data services ask and report. The wire is described in docs/refdata.md."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import (
    IllegalParameterError,
    InvalidRefdataStateError,
    NoSuchRefdataError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.refdata import StagingRecord, staging_id
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.reconciler.stagings import Stagings, read_progress
from cdmtaskservice.sites import refdata as plans
from cdmtaskservice.sites.refdata import STAGE
from cdmtaskservice.sites.tasks import Plan
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.stagings import StagingStore

_log = structlog.get_logger(__name__)

_AT_ONCE = 100
"""Errands of a site that are looked at for one request."""


class RefdataDesk:
    """The calls of the reference data services. What they tell is written down; the reconciler moves the stagings."""

    def __init__(
        self,
        refdata: RefdataStore,
        stagings: StagingStore,
        step: Stagings,
        served: Collection[str],
        clock: Clock,
        look: Callable[[str], None],
        *,
        report_interval: float,
    ) -> None:
        """served: the sites whose data these services bring. look: told the ID of a staging to look at.
        report_interval: seconds between two signs of life."""
        self._refdata = refdata
        self._stagings = stagings
        self._step = step
        self._served = served
        self._clock = clock
        self._look = look
        self._report_interval = report_interval

    async def work(self, site: str, request: RefdataWorkRequest) -> Mapping[str, Any]:
        """What the one who asks is to do at the site: what it has taken before, and as much more as it has room for.

        Raises: UnsupportedOperationError for a site that has no reference data service.
        """
        self._check_served(site)
        orders = []
        room = request.room
        for staging in await self._stagings.open_errands(site, _AT_ONCE):
            errand = staging.errand
            if errand is None or errand.unwanted:
                continue
            if errand.claim is None and room > 0:
                if await self._stagings.claim_errand(staging.id, errand.task, request.claim, self._clock()):
                    room -= 1
                    self._look(staging.id)
                    orders.append(await self._order(staging, request.root))
            elif errand.claim == request.claim:
                orders.append(await self._order(staging, request.root))
        return {"work": [o for o in orders if o is not None], "report_interval": self._report_interval}

    async def progress(self, refdata_id: str, site: str, told: RefdataProgress) -> Mapping[str, Any]:
        """A sign of life. The answer says whether to stop."""
        self._check_served(site)
        name = staging_id(refdata_id, site)
        staging = await self._stagings.errand_seen(name, told.task, told.claim, self._clock())
        if staging is None:
            return {"stop": True}
        if told.progress is not None and (read := read_progress(told.progress.model_dump())) is not None:
            await self._stagings.note_progress(staging, read)
        return {"stop": bool(staging.errand and staging.errand.unwanted)}

    async def update(self, refdata_id: str, site: str, state: RefdataState, update: RefdataUpdate) -> None:
        """A task is done (`complete`), or has failed (`error`), or was begun (`download_submitted`).

        Without task and claim, which the services of old do not know, the task under way is meant. Said twice it is no
        error. Raises: NoSuchRefdataError, UnsupportedOperationError, IllegalParameterError for another state,
        InvalidRefdataStateError where that task is not the caller's.
        """
        self._check_served(site)
        staging = await self._stagings.get(staging_id(refdata_id, site))
        if staging is None or await self._refdata.get(refdata_id) is None:
            raise NoSuchRefdataError(f"There is no reference data with the ID {refdata_id!r} at the site {site}")
        if state is RefdataState.CREATED:
            raise IllegalParameterError("state: a reference data service reports download_submitted, complete or error")
        errand = staging.errand
        known = update.task is not None
        if errand is None or (known and (errand.task, errand.claim) != (update.task, update.claim)):
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is in the state {staging.state.value} at {site}, and the task that "
                "this tells of is not under way"
            )
        if state is RefdataState.DOWNLOAD_SUBMITTED or errand.outcome is not None:
            if errand.outcome is not None and not known and errand.outcome["ok"] != (state is RefdataState.COMPLETE):
                raise InvalidRefdataStateError(f"The staging of {refdata_id} at {site} is over")
            return
        if not known and errand.kind != STAGE:
            raise InvalidRefdataStateError(f"The reference data {refdata_id} is not being staged at {site}")
        outcome = _outcome(state, update)
        await self._stagings.end_errand(staging.id, errand.task, errand.claim, outcome, update.traceback)
        _log.info("refdata_reported", staging=staging.id, task=errand.task, state=state.value)
        self._look(staging.id)

    async def _order(self, staging: StagingRecord, root: str) -> Mapping[str, Any] | None:
        refdata = await self._refdata.get(staging.refdata_id)
        errand = staging.errand
        if refdata is None or errand is None:
            return None
        plan: Plan
        if errand.kind == STAGE:
            plan = plans.stage(refdata, root, self._step.presigned(refdata, staging.site), self._step.limits)
        elif refdata.retired_on is not None:
            plan = plans.remove(staging, root)
        else:
            plan = plans.clean(refdata.id, root)
        return {"refdata_id": refdata.id, "task": errand.task, "kind": errand.kind, "plan": plan}

    def _check_served(self, site: str) -> None:
        if site not in self._served:
            raise UnsupportedOperationError(
                f"The site {site!r} has no reference data service; those that have one are "
                f"{', '.join(self._served) or 'none'}"
            )


def _outcome(state: RefdataState, update: RefdataUpdate) -> Mapping[str, Any]:
    if state is RefdataState.COMPLETE:
        counts: Sequence[tuple[str, int | None]] = (("files", update.files), ("bytes", update.bytes))
        return {"ok": 1, **{name: count for name, count in counts if count is not None}}
    error = update.error or "the reference data service failed to stage it; an administrator can see why"
    told: Mapping[str, Any] = {"admin_error": update.admin_error, "again": update.again}
    crashed = {"crashed": 1} if update.crashed else {}
    return {"ok": 0, "error": error, **crashed, **{k: v for k, v in told.items() if v is not None}}
