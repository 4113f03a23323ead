"""One look at reference data at one site.

| state | wanted | what a look does |
|---|---|---|
| created | its data | begins to stage it → download_submitted |
| download_submitted | its data | sees whether it is there, and has it copied where JAWS must → complete, or → error |
| complete, error | nothing | nothing |
| any | cleaning | stops what goes on (→ error), and removes what it has left |
| any | retired | stops what goes on, and removes everything |

Whatever is done is a task near the storage, begun as the note of it says (`flow.py`) and followed (`tasks.py`). What
was begun for one purpose is stopped before anything is begun for another.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.refdata import RefdataRecord, StagingProgress, StagingRecord, StagingTransition
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.reconciler.refdata_errands import RefdataErrands
from cdmtaskservice.reconciler.tasks import Fails, Tasks, Waits
from cdmtaskservice.sites import refdata as plans
from cdmtaskservice.sites.refdata import COPY, REMOVE, STAGE, RefdataPlace, StagingLimits
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus
from cdmtaskservice.store.codec import from_millis, to_millis
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.stagings import StagingStore

_log = structlog.get_logger(__name__)

_ORPHANED = 600.0
"""Seconds after which a staging without its data will never have any: the registration was broken off."""
_STUBBORN = 300.0
"""Seconds before what could not be removed is tried again."""
_COPY_PATIENCE = 43200.0
"""Half of the seconds, as `time_limit` counts them, after which JAWS is asked again to copy something small: a day."""
_LONGEST_EXPIRY = 7 * 86400
"""Seconds for which a presigned request can be good."""

S = RefdataState


@dataclass(frozen=True)
class StagingConfig:
    """look_delay: seconds between looks at what goes on. presign_expiry: seconds for which a download can begin.

    most_failures: tries in a row that may come to nothing. silence: seconds without a word of a reference data service
    after which what it did is lost.
    """

    look_delay: float
    presign_expiry: int
    most_failures: int
    silence: float
    limits: StagingLimits


class _StagingTasks(Tasks[StagingRecord, RefdataPlace]):
    kind = "staging"
    away = "staging came to nothing, and is tried again"
    forgiven = ("failures", "refused", "crashed")
    lost = "staging failed again and again without a word; an administrator can see why"

    def __init__(self, stagings: StagingStore, clock: Clock, config: StagingConfig) -> None:
        super().__init__(stagings, clock, config.look_delay)
        self._stagings = stagings
        self.most_failures = config.most_failures

    def _why_it_waits(self, status: TaskStatus, flow: Flow) -> str | None:
        return status.why  # what the try before came to is no news of one that goes on for hours

    def _why(self, failure: TaskFailure) -> str:
        # Of a trace the last line says what it was.
        said = (failure.admin_error or "").strip().rpartition("\n")[2]
        return f"{failure.error} {said}".strip()

    def _left(self, record: StagingRecord) -> int:
        # What is still to come of the file; it stays, by pieces, from one try to the next.
        return max(0, record.progress.total - record.progress.done) if record.progress else -1

    def _detail(self, record: StagingRecord, kind: str) -> str | None:
        return "nersc_download" if kind == STAGE else None

    async def _require(self, place: RefdataPlace, kind: str) -> None:
        await place.require_up()

    async def _seen(self, record: StagingRecord, status: TaskStatus) -> None:
        if status.progress is not None and (told := read_progress(status.progress)) is not None:
            await self._stagings.note_progress(record, told)


class Stagings:
    """The step of the reconciler for reference data."""

    def __init__(
        self,
        refdata: RefdataStore,
        stagings: StagingStore,
        jobs: JobStore,
        presign: Callable[[str, str, int], str],
        places: Mapping[str, RefdataPlace],
        served: Collection[str],
        clock: Clock,
        config: StagingConfig,
    ) -> None:
        """presign: makes, for a site, a GET of an S3 path that is good for so many seconds. served: the sites to which
        reference data services bring it; places: by site, those to which it comes otherwise."""
        self._refdata = refdata
        self._stagings = stagings
        self._jobs = jobs
        self._presign = presign
        self._places = places
        self._served = served
        self._clock = clock
        self._config = config
        self._tasks = _StagingTasks(stagings, clock, config)

    @property
    def limits(self) -> StagingLimits:
        """What every staging is bound to."""
        return self._config.limits

    async def look(self, job: StagingRecord, *, full: bool, reachable_since: datetime.datetime) -> Next[StagingRecord]:
        """Look at a staging once."""
        staging = job
        refdata = await self._refdata.get(staging.refdata_id)
        if refdata is None:
            return await self._orphan(staging)
        try:
            place = self._place(staging, reachable_since)
            if refdata.retired_on is not None:
                return await self._retire(staging, refdata, place)
            if staging.cleaning:
                return Wait(await self._clean(staging, place), 0.0)
            if staging.is_over:
                return Done(staging)
            step = self._begin if staging.state is S.CREATED else self._follow
            return Wait(await step(staging, refdata, place), 0.0)
        except Waits as e:
            return Wait(staging, e.delay, e.why, e.told)
        except Fails as e:
            return await self._fail(staging, e)

    def _place(self, staging: StagingRecord, reachable_since: datetime.datetime) -> RefdataPlace:
        if staging.site in self._served:
            return RefdataErrands(self._stagings, self._clock, self._config.silence, reachable_since)
        if staging.site not in self._places:
            raise Waits(_STUBBORN, f"the site {staging.site} has no room for reference data in the settings any more")
        return self._places[staging.site]

    # The steps

    async def _begin(self, staging: StagingRecord, refdata: RefdataRecord, place: RefdataPlace) -> StagingRecord:
        staging = await self._turn_to(staging, place, "stage")
        if (other := await self._brought_by_another(staging, place)) is not None:
            raise Waits(self._config.look_delay, f"it waits for the data at NERSC, which is staged for {other}")
        await place.require_up()
        if not Flow.of(staging).task:
            staging = await self._tasks.begin(staging, place, STAGE, lambda s: self._plan(refdata, s.site, place))
        return await self._move(staging, S.DOWNLOAD_SUBMITTED)

    async def _follow(self, staging: StagingRecord, refdata: RefdataRecord, place: RefdataPlace) -> StagingRecord:
        staging = await self._turn_to(staging, place, "stage")
        if not Flow.of(staging).done:
            staging, found = await self._tasks.result(
                staging, place, STAGE, lambda s: self._plan(refdata, s.site, place)
            )
            # A service that knows no more than the contract does not say how much it was.
            counts = {"files": found.get("files"), "unpacked": found.get("bytes")}
            await self._stagings.set_fields(staging.id, {k: v for k, v in counts.items() if v is not None})
            staging = await self._tasks.note(staging, replace(Flow.of(staging), done=1))
        if place.copies:
            staging = await self._copied(staging, refdata, place)
        _log.info("refdata_staged", refdata=refdata.id, site=staging.site)
        return await self._move(staging, S.COMPLETE, {"cleaned": 1, "admin_error": None, "traceback": None})

    async def _clean(self, staging: StagingRecord, place: RefdataPlace) -> StagingRecord:
        staging = await self._turn_to(staging, place, "clean")
        if not staging.is_over:
            staging = await self._move(staging, S.ERROR, {"error": "an administrator has stopped it, to clean up"})
        plan = plans.clean(staging.refdata_id, place.root())
        staging, _ = await self._tasks.result(staging, place, REMOVE, lambda _: _made(plan))
        staging = await self._tasks.note(staging, replace(Flow.of(staging), task="", purpose=""))
        if not await self._stagings.cleaned(staging):
            raise Waits(0.0)
        return replace(staging, cleaning=False, cleaned=True)

    async def _retire(self, staging: StagingRecord, refdata: RefdataRecord, place: RefdataPlace) -> Next[StagingRecord]:
        if staging.removed_on is not None:
            return Done(staging)
        # It was not retired while anything needed it, and nothing can have come to need it since.
        if using := await self._jobs.using_refdata(refdata.id, 3):
            raise Waits(_STUBBORN, f"it is needed by the jobs {', '.join(using)}")
        if place.copies and (other := await self._not_removed(staging, place)) is not None:
            raise Waits(self._config.look_delay, f"it waits until the data is removed at NERSC, for {other}")
        staging = await self._turn_to(staging, place, "retire")
        if not staging.is_over:
            staging = await self._move(staging, S.ERROR, {"error": "it was retired before it was staged"})
        if not Flow.of(staging).done:
            plan = plans.remove(staging, place.root())
            staging, _ = await self._tasks.result(staging, place, REMOVE, lambda _: _made(plan))
            staging = await self._tasks.note(staging, replace(Flow.of(staging), done=1))
        if place.copies:
            staging = await self._copy_removal(staging, refdata, place)
        _log.info("refdata_removed", refdata=refdata.id, site=staging.site)
        now = self._clock()
        await self._stagings.set_fields(staging.id, {"removed_on": to_millis(now), "cleaning": 0, "cleaned": 1})
        return Done(staging)

    async def _copied(self, staging: StagingRecord, refdata: RefdataRecord, place: RefdataPlace) -> StagingRecord:
        limit = plans.time_limit(refdata, _COPY_PATIENCE)
        await self._tasks.expire(staging, COPY, limit, f"JAWS has not copied the data within {limit:.0f} s")
        staging, _ = await self._tasks.result(staging, place, COPY, lambda _: _made({"id": refdata.id}))
        return staging

    async def _copy_removal(self, staging: StagingRecord, refdata: RefdataRecord, place: RefdataPlace) -> StagingRecord:
        try:
            staging = await self._copied(staging, refdata, place)
        except Fails as e:
            # It may be that JAWS copies nothing that is not there: what is left at that site is for its people.
            said = f"JAWS did not say that it has removed the data there: {e.admin_error or e.error}"
            await self._stagings.set_fields(staging.id, {"admin_error": said[:10_000]})
        return staging

    # Parts of steps

    async def _turn_to(self, staging: StagingRecord, place: RefdataPlace, purpose: str) -> StagingRecord:
        """See to it that nothing goes on but what serves the purpose, in the present round."""
        flow, wanted = Flow.of(staging), (purpose, staging.round + 1)
        if (flow.purpose, flow.attempt) == wanted:
            return staging
        age = flow.age(self._clock())
        if flow.task and not await place.stop_task(staging.id, flow.name, flow.handle or None, age):
            raise Waits(self._config.look_delay, f"the task {flow.name} is still being stopped")
        anew = Flow(version=flow.version, purpose=purpose, attempt=staging.round + 1, number=flow.number)
        return await self._tasks.note(staging, anew)

    async def _brought_by_another(self, staging: StagingRecord, place: RefdataPlace) -> str | None:
        """The site for which the same data is being brought to the same place, or will be before it is for this one."""
        for other, there in await self._others(staging, place):
            flow = Flow.of(other)
            this_round = (flow.purpose, flow.attempt) == ("stage", other.round + 1)
            brought = this_round and flow.done
            begun = other.state is S.DOWNLOAD_SUBMITTED
            comes_first = (there.copies, other.site) < (place.copies, staging.site)
            if not other.is_over and not brought and (begun or comes_first):
                return other.site
        return None

    async def _not_removed(self, staging: StagingRecord, place: RefdataPlace) -> str | None:
        """A site for which the same data is still to be removed at the same place."""
        for other, there in await self._others(staging, place):
            if not there.copies and other.removed_on is None:
                return other.site
        return None

    async def _others(
        self, staging: StagingRecord, place: RefdataPlace
    ) -> Sequence[tuple[StagingRecord, RefdataPlace]]:
        """The stagings of the same data whose tasks are done at the same place."""
        found = [
            (other, self._places[other.site])
            for other in await self._stagings.of([staging.refdata_id])
            if other.site != staging.site and other.site in self._places
        ]
        return [(other, there) for other, there in found if there.root() == place.root()]

    async def _plan(self, refdata: RefdataRecord, site: str, place: RefdataPlace) -> Plan:
        return plans.stage(refdata, place.root(), self.presigned(refdata, site), self._config.limits)

    def presigned(self, refdata: RefdataRecord, site: str) -> str:
        """A GET that is good for as long as one try may take, if that can be."""
        limit = int(plans.time_limit(refdata, self._config.limits.patience))
        return self._presign(site, refdata.file, min(_LONGEST_EXPIRY, max(self._config.presign_expiry, limit)))

    async def _move(
        self, staging: StagingRecord, state: RefdataState, fields: Mapping[str, Any] | None = None
    ) -> StagingRecord:
        """Move on. Waits where somebody has moved it elsewhere."""
        moved = await self._stagings.transition(staging, StagingTransition(state, self._clock()), fields)
        if moved is None:
            raise Waits(0.0)
        return moved

    async def _fail(self, staging: StagingRecord, failure: Fails) -> Next[StagingRecord]:
        _log.warning("refdata_failed", staging=staging.id, error=failure.error, admin_error=failure.admin_error)
        current = await self._stagings.get(staging.id) or staging
        if current.overtakes(staging):  # what has failed is not wanted any more
            return Wait(current, 0.0)
        if staging.is_over or current.is_over:  # what could not be done was cleaning
            await self._stagings.note_flow(current, replace(Flow.of(current), task="", failures=0).next_version.stored)
            return Wait(current, _STUBBORN, failure.admin_error or failure.error)
        if current.errand is not None:
            await self._stagings.drop_errand(current.id, current.errand.task)
        fields = {"error": failure.error[:10_000], "admin_error": (failure.admin_error or failure.error)[:10_000]}
        moved = await self._stagings.transition(current, StagingTransition(S.ERROR, self._clock()), fields)
        return Wait(moved or current, 0.0)

    async def _orphan(self, staging: StagingRecord) -> Next[StagingRecord]:
        age = (self._clock() - staging.transitions[0].time).total_seconds()
        if age < _ORPHANED:
            return Wait(staging, self._config.look_delay, "its registration is not complete")
        await self._stagings.delete(staging.id)
        return Done(staging)


async def _made(plan: Plan) -> Plan:
    return plan


def read_progress(told: Mapping[str, Any]) -> StagingProgress | None:
    """What remote code says of how far it is; None for what nobody can read."""
    try:
        return StagingProgress(
            phase=str(told["phase"])[:20],
            done=_count(told["bytes_done"]),
            total=_count(told["bytes_total"]),
            files=_count(told["files_done"]),
            unpacked=_count(told["bytes_unpacked"]),
            at=from_millis(int(float(told["time"]) * 1000)),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _count(told: Any) -> int:
    """A number that every store can hold."""
    return max(0, min(int(told), 2**53))
