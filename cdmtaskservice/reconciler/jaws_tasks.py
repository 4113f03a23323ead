"""Tasks of remote code as a job's look sees them: begun, followed, and begun again where that is worth it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.jaws_flow import Flow
from cdmtaskservice.sites.jaws.plans import Plan
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_MOST_REFUSALS = 5
"""Times that S3 may refuse fresh URLs of a task in a row."""
_MOST_CRASHES = 10
"""Times that a task which was begun may end without a word in a row."""
_MOST_ABSENT = 8
"""Times that what a run left may not be where it should be, over some quarter of an hour."""
_LONGEST_DELAY = 60.0
_PATIENCE = 20
"""What has gone on for so many seconds is looked at once a second."""

PlanMaker = Callable[[JobRecord], Awaitable[Plan]]
"""Makes the plan of a task for a job with what was noted of it, that is as it is when the task is begun."""

AWAY = "NERSC or JAWS does not answer as it should; it goes on when that is over"
"""What owners are told of an outage."""


@dataclass(frozen=True)
class JawsJobConfig:
    """look_delay: seconds between looks at what goes on. max_attempts: runs that JAWS itself may fail.

    submit_timeout: seconds that `jaws submit` may take, and within which it must begin. submit_window: seconds after
    which a submission that was not answered can no longer take effect.
    """

    look_delay: float
    max_attempts: int
    submit_timeout: float

    @property
    def submit_window(self) -> float:
        return 2 * self.submit_timeout + 60.0


class Waits(Exception):
    """Nothing more can be done now. why: for administrators; told: for the owner."""

    def __init__(self, delay: float, why: str | None = None, told: str | None = None) -> None:
        super().__init__(why)
        self.delay, self.why, self.told = delay, why, told


class Fails(Exception):
    """The job cannot go on."""

    def __init__(self, error: str, admin_error: str | None = None) -> None:
        super().__init__(error)
        self.error, self.admin_error = error, admin_error


class JawsTasks:
    """The tasks of jobs. What is returned as a job has what was noted meanwhile."""

    def __init__(self, jobs: JobStore, files: FileStore, clock: Clock, config: JawsJobConfig) -> None:
        self._jobs = jobs
        self._files = files
        self._clock = clock
        self._config = config

    async def note(self, job: JobRecord, flow: Flow) -> JobRecord:
        """Note how far the job has come. Waits, so that nothing is begun, where somebody else has done so."""
        flow = replace(flow, version=flow.version + 1)
        if not await self._jobs.note_flow(job, flow.stored):
            raise Waits(0.0)
        return replace(job, flow=flow.stored)

    async def begin(self, job: JobRecord, site: JawsSite, kind: str, plan: PlanMaker, left: int = 0) -> JobRecord:
        """Begin a task, noting it before, and its ID after. left: files that it is to send."""
        flow = Flow.of(job).begin(kind, self._clock(), left)
        job = await self.note(job, flow)
        handle = await site.begin_task(job.id, flow.name, kind, await plan(job))
        if (detail := _DETAILS.get((kind, job.state is JobState.ERROR_PROCESSING_SUBMITTING))) is not None:
            await self._jobs.note_handle(job.id, detail, handle)
        return await self.note(job, replace(Flow.of(job), handle=handle))

    async def result(self, job: JobRecord, site: JawsSite, kind: str, plan: PlanMaker | None) -> tuple[JobRecord, Any]:
        """What a task found. It is begun if it was not, and again where it failed and may be. Else waits or fails.

        Without a plan it is not begun here: None where it is to be.
        """
        flow = Flow.of(job)
        now = self._clock()
        if flow.task == kind and (pause := flow.pause(now)) > 0:
            raise Waits(pause, flow.why, flow.told)
        if flow.task != kind or flow.not_before:
            if plan is None:
                return job, None
            await self._require(site, kind)
            await self.begin(job, site, kind, plan)
            raise Waits(self.delay(0.0), flow.why or None, flow.told or None)
        status = await site.task_status(job.id, flow.name, flow.handle or None, flow.age(now))
        if status.result is not None:
            return job, status.result
        if status.running:
            raise Waits(self.delay(flow.age(now)), flow.why or None, flow.told or None)
        if status.failure is None:
            if flow.crashed >= _MOST_CRASHES:
                raise Fails("NERSC failed to do what the job needs; it is not the job's fault", str(status.lost))
            await self.try_again(job, flow, str(status.lost), counter="crashed" if status.crashed else "")
        failure = status.failure
        assert failure is not None
        counter = {"renewed": "refused", "absent": "absent"}.get(failure.again or "", "")
        worn_out = {"refused": flow.refused >= _MOST_REFUSALS, "absent": flow.absent >= _MOST_ABSENT}
        if failure.again is None or worn_out.get(counter, False):
            raise Fails(failure.error, failure.admin_error)
        await self.try_again(job, flow, failure.admin_error or failure.error, failure.error, counter=counter)
        raise AssertionError("unreachable")

    async def try_again(self, job: JobRecord, flow: Flow, why: str, told: str = AWAY, *, counter: str = "") -> NoReturn:
        """Let the task be begun again after a pause."""
        flow = flow.failed(self._clock(), self._config.look_delay, why, told, counter)
        _log.warning("task_failed", job=job.id, task=flow.name, why=why[:300])
        await self.note(job, flow)
        raise Waits(max(0.0, flow.pause(self._clock())), why, told)

    async def _require(self, site: JawsSite, kind: str) -> None:
        """Raises: SiteUnreachableError where a task of that kind should not be begun now."""
        await (site.require_up() if kind in {"stage", "submit"} else site.require_nersc_up())

    async def stage_plan(self, job: JobRecord, site: JawsSite) -> Plan:
        """How the job's inputs come to NERSC."""
        if Flow.of(job).refused:
            await site.check_s3()  # it may be our own keys that are not good any more
        return await site.stage_plan(await self._files.inputs(job.id, stop=job.input_file_count))

    def delay(self, age: float) -> float:
        """Seconds until the next look at what has gone on for so long."""
        return min(_LONGEST_DELAY, max(self._config.look_delay, age / _PATIENCE))


_DETAILS: Mapping[tuple[str, bool], str] = {
    ("stage", False): "nersc_download",
    ("send", False): "nersc_upload",
    ("send", True): "nersc_log_upload",
}
"""By a task's kind and whether a failure is processed, where its ID is kept for administrators."""
