"""One look at a job that runs through JAWS.

| state | what a look does |
|---|---|
| created | begins to stage the inputs at NERSC → download_submitted |
| download_submitted | sees whether they are there → job_submitting |
| job_submitting | submits one run, unless one with the attempt's tag is there → job_submitted |
| job_submitted | sees what JAWS says of the run: → upload_submitting, or → error_processing_submitting |
| upload_submitting | has what the run left checksummed, and begins to send it to S3 → upload_submitted |
| upload_submitted | sees whether it has come, and looks at each object → complete |
| error_processing_… | the same with the logs and exit codes of the containers that failed → error |
| canceling | stops what was begun and cancels the run → canceled |

Each look starts from what is stored and what NERSC and JAWS say, so it may be repeated after a crash at any
instruction. What was begun is noted before (`jaws_flow.py`); what is begun twice does no harm, and a run is submitted
once for each attempt, whatever happens. Callbacks only make a look come sooner.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import structlog

from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import DueTransition, JobState
from cdmtaskservice.reconciler.jaws_flow import Flow
from cdmtaskservice.reconciler.jaws_results import JawsResults
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.reconciler.moving import Mover
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.central import CANCELLED, FAILED, SUCCEEDED, JawsRun, NoSuchRunError
from cdmtaskservice.sites.jaws.plans import Plan
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_MOST_REFUSALS = 5
"""Times that S3 may refuse fresh URLs of a task in a row."""
_MOST_CRASHES = 10
"""Times that a task may end without a word in a row."""
_MOST_LOOKS_FOR_RESULTS = 8
"""Times that a run's results may not be where they should be, over some twenty minutes."""
_MOST_WRONG = 3
"""Times in a row that S3 may have something else than what was sent."""
_SETTLED = 20.0
"""Seconds after a failed `jaws submit` in which JAWS may come to list a run of it."""
_LONGEST_DELAY = 60.0
_PATIENCE = 20
"""What has gone on for so many seconds is looked at once a second."""

_AWAY = "NERSC or JAWS does not answer as it should; it goes on when that is over"

S = JobState


@dataclass(frozen=True)
class JawsJobConfig:
    """look_delay: seconds between looks at what goes on. max_attempts: runs that JAWS itself may fail. submit_window:
    seconds after which a submission that was not answered can no longer take effect."""

    look_delay: float
    max_attempts: int
    submit_window: float


class _Waits(Exception):
    """Nothing more can be done now. why: for administrators; told: for the owner."""

    def __init__(self, delay: float, why: str | None = None, told: str | None = None) -> None:
        super().__init__(why)
        self.delay, self.why, self.told = delay, why, told


class _Fails(Exception):
    """The job cannot go on."""

    def __init__(self, error: str, admin_error: str | None = None) -> None:
        super().__init__(error)
        self.error, self.admin_error = error, admin_error


class JawsJobs:
    """The step of the reconciler for JAWS sites."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        sites: Mapping[str, JawsSite],
        clock: Clock,
        new_id: IdSource,
        config: JawsJobConfig,
    ) -> None:
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._sites = sites
        self._clock = clock
        self._mover = Mover(jobs, clock, new_id)
        self._results = JawsResults(containers, files)
        self._config = config

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        """Look at a job once."""
        site = self._sites[job.site]
        if job.state.is_terminal:
            return await self._finish(job, site)
        steps: Mapping[JobState, Callable[[JobRecord, JawsSite], Awaitable[JobRecord]]] = {
            S.CREATED: self._stage,
            S.DOWNLOAD_SUBMITTED: self._staged,
            S.JOB_SUBMITTING: self._submit,
            S.JOB_SUBMITTED: self._follow,
            S.UPLOAD_SUBMITTING: self._collect,
            S.UPLOAD_SUBMITTED: self._sent,
            S.ERROR_PROCESSING_SUBMITTING: self._collect,
            S.ERROR_PROCESSING_SUBMITTED: self._sent,
            S.CANCELING: self._cancel,
        }
        try:
            return Wait(await steps[job.state](job, site), 0.0)
        except _Waits as e:
            return Wait(job, e.delay, e.why, e.told)
        except _Fails as e:
            return Wait(await self._fail(job, e), 0.0)

    # The steps

    async def _stage(self, job: JobRecord, site: JawsSite) -> JobRecord:
        await site.require_up()
        await self._begin(job, site, "stage", lambda: self._stage_plan(job, site))
        return await self._move(job, S.DOWNLOAD_SUBMITTED)

    async def _staged(self, job: JobRecord, site: JawsSite) -> JobRecord:
        await self._result(job, site, "stage", lambda: self._stage_plan(job, site))
        return await self._move(job, S.JOB_SUBMITTING)

    async def _submit(self, job: JobRecord, site: JawsSite) -> JobRecord:
        await self._submitted(job, site)
        return await self._move(job, S.JOB_SUBMITTED)

    async def _follow(self, job: JobRecord, site: JawsSite) -> JobRecord:
        run = await self._submitted(job, site)
        flow = Flow.of(await self._now(job))
        if not run.over:
            raise _Waits(self._delay(flow.age(self._clock())))
        if run.result == SUCCEEDED:
            return await self._move(job, S.UPLOAD_SUBMITTING)
        if run.result == FAILED:
            return await self._move(job, S.ERROR_PROCESSING_SUBMITTING)
        log = await site.run_log(run.id)
        if run.result == CANCELLED or "cancel" in log.lower():
            raise _Fails("somebody at JAWS has cancelled its run", f"JAWS run {run.id} was cancelled: {log[-2000:]}")
        return await self._lose_run(job, flow, f"JAWS itself failed run {run.id}: {log[-700:]}")

    async def _lose_run(self, job: JobRecord, flow: Flow, why: str) -> NoReturn:
        """A run came to nothing, through no fault of the job: the next attempt, if there is one."""
        if flow.failed_runs + 1 >= self._config.max_attempts:
            raise _Fails(
                f"JAWS failed to run it, {flow.failed_runs + 1} times; it is not the job's fault",
                f"attempt {flow.attempt}: {why}",
            )
        _log.warning("jaws_run_lost", job=job.id, run=flow.run, attempt=flow.attempt, why=why[:300])
        await self._note(job, flow.next_attempt(why, failed_run=True))
        raise _Waits(0.0, why)

    async def _collect(self, job: JobRecord, site: JawsSite) -> JobRecord:
        failed = job.state is S.ERROR_PROCESSING_SUBMITTING
        flow = Flow.of(job)
        if flow.task != "send":
            await self._result(job, site, "collect", lambda: self._collect_plan(job, site, failed))
            flow = replace(flow, collected=flow.name)
            await self._note(job, flow)
            job = replace(job, flow=flow.stored)
        files = self._files_to_send(job, await self._collected(job, site, flow))
        if files:
            await self._begin(job, site, "send", lambda: site.send_plan(files))
        return await self._move(job, S.ERROR_PROCESSING_SUBMITTED if failed else S.UPLOAD_SUBMITTED)

    async def _sent(self, job: JobRecord, site: JawsSite) -> JobRecord:
        collected = await self._collected(job, site, Flow.of(job))
        files = self._files_to_send(job, collected)
        if files:
            sent = await self._result(job, site, "send", lambda: site.send_plan(files))
            flow = Flow.of(job)
            plan = await site.plan_of(job.id, flow.name)
            if wrong := await site.finish_sending(plan, sent["parts"]):
                if flow.failures >= _MOST_WRONG:
                    raise _Fails(f"the files {', '.join(wrong[:3])} changed on the way to S3, again and again")
                await self._try_again(job, flow, f"S3 does not have what was sent: {', '.join(wrong[:3])}")
        if job.state is S.ERROR_PROCESSING_SUBMITTED:
            await self._results.store_failure(job, collected, self._clock())
            return await self._end(job, site, S.ERROR)
        await self._results.store(job, collected, self._clock())
        return await self._end(job, site, S.COMPLETE)

    async def _cancel(self, job: JobRecord, site: JawsSite) -> JobRecord:
        flow = Flow.of(job)
        soon = self._config.look_delay
        if flow.task and not await site.stop_task(job.id, flow.name, flow.handle or None):
            raise _Waits(soon, f"the task {flow.name} at NERSC is still being stopped")
        if flow.attempt > 1 or flow.task not in {"", "stage"}:
            stopping = await self._stop_runs(job, site)
            if stopping:
                raise _Waits(soon, f"JAWS is still stopping {', '.join(stopping)}")
        if flow.task == "submit" and not flow.run:
            status = await site.task_status(job.id, flow.name, flow.handle or None)
            settled = self._config.submit_window if status.lost is not None else _SETTLED
            if flow.age(self._clock()) < settled:
                raise _Waits(soon, "a submission to JAWS may still take effect")
        return await self._move(job, S.CANCELED)

    async def _finish(self, job: JobRecord, site: JawsSite) -> Next:
        """Nothing may go on at JAWS for a job that is over, not even what was submitted twice over."""
        if Flow.of(job).attempt > 1 and (stopping := await self._stop_runs(job, site)):
            return Wait(job, self._config.look_delay, f"JAWS is still stopping {', '.join(stopping)}")
        return Done(job)

    async def _stop_runs(self, job: JobRecord, site: JawsSite) -> Sequence[str]:
        """Cancel all runs of the job's attempts; returns those that are not over yet."""
        going = [run.id for run in await site.runs_of(job.id) if not run.over]
        for run_id in going:
            with suppress(NoSuchRunError):
                await site.cancel_run(run_id)
        return going

    # Submitting

    async def _submitted(self, job: JobRecord, site: JawsSite) -> JawsRun:
        """The run of the current attempt, which is submitted if it was not. Waits where that cannot be said yet."""
        flow = Flow.of(job)
        if not flow.run:
            flow = replace(flow, run=await self._submit_once(job, site, flow))
            await self._note(job, flow)
            await self._jobs.note_handle(job.id, "jaws", flow.run)
        try:
            return await site.run(flow.run)
        except NoSuchRunError as e:
            if flow.age(self._clock()) < self._config.submit_window:
                raise _Waits(self._config.look_delay, str(e)) from None
            return await self._lose_run(job, flow, str(e))

    async def _submit_once(self, job: JobRecord, site: JawsSite, flow: Flow) -> str:
        """The ID of the attempt's run."""
        if flow.task != "submit":
            if (pause := flow.pause(self._clock())) > 0:
                raise _Waits(pause, flow.why, flow.told)
            # Another process may have submitted before it died, and its note been lost with a task's.
            if runs := await site.runs_of(job.id, flow.attempt):
                return runs[0].id
            await site.require_up()
            inputs = await self._files.inputs(job.id, stop=job.input_file_count)
            await self._begin(job, site, "submit", _at_once(site.submit_plan(job, flow.attempt, inputs)))
            raise _Waits(self._delay(0.0))
        status = await site.task_status(job.id, flow.name, flow.handle or None)
        if status.result is not None:
            return str(status.result["run_id"])
        age = flow.age(self._clock())
        if status.running:
            raise _Waits(self._delay(age))
        if not flow.handle and age < self._config.submit_window:
            # It is not known whether it was begun. Begun again it does nothing if it was.
            inputs = await self._files.inputs(job.id, stop=job.input_file_count)
            handle = await site.begin_task(job.id, flow.name, "submit", site.submit_plan(job, flow.attempt, inputs))
            await self._note(job, replace(flow, handle=handle))
            raise _Waits(self._delay(age))
        if runs := await site.runs_of(job.id, flow.attempt):
            return runs[0].id
        why = status.lost or (status.failure and (status.failure.admin_error or status.failure.error)) or ""
        told = _AWAY if status.failure is None else status.failure.error
        settled = _SETTLED if status.failure is not None else self._config.submit_window
        if age < settled:
            raise _Waits(self._config.look_delay, f"it is not known yet whether JAWS has the run: {why}", told)
        _log.warning("submission_failed", job=job.id, attempt=flow.attempt, why=why)
        flow = flow.failed(self._clock(), why, told).next_attempt(why, failed_run=False)
        await self._note(job, flow)
        raise _Waits(max(0.0, flow.pause(self._clock())), why, told)

    # Tasks of remote code

    async def _begin(self, job: JobRecord, site: JawsSite, kind: str, plan: Callable[[], Awaitable[Plan]]) -> None:
        """Begin a task, noting it before, and its ID after."""
        flow = Flow.of(job).begin(kind, self._clock())
        await self._note(job, flow)
        handle = await site.begin_task(job.id, flow.name, kind, await plan())
        await self._note(job, replace(flow, handle=handle))
        if (detail := _DETAILS.get((kind, job.state is S.ERROR_PROCESSING_SUBMITTING))) is not None:
            await self._jobs.note_handle(job.id, detail, handle)

    async def _result(
        self, job: JobRecord, site: JawsSite, kind: str, plan: Callable[[], Awaitable[Plan]]
    ) -> Mapping[str, Any]:
        """What a task found. It is begun if it was not, and again where it failed and may be. Else waits or fails."""
        flow = Flow.of(job)
        now = self._clock()
        if flow.task != kind or flow.not_before:
            if flow.task == kind and (pause := flow.pause(now)) > 0:
                raise _Waits(pause, flow.why, flow.told)
            await site.require_up()
            if flow.task == kind:
                flow = replace(flow, not_before=0)
                job = replace(job, flow=flow.stored)
            await self._begin(job, site, kind, plan)
            raise _Waits(self._delay(0.0), flow.why or None, flow.told or None)
        status = await site.task_status(job.id, flow.name, flow.handle or None)
        if status.result is not None:
            return status.result
        if status.running:
            raise _Waits(self._delay(flow.age(now)), flow.why or None, flow.told or None)
        if status.failure is None:
            if flow.crashed >= _MOST_CRASHES:
                raise _Fails("NERSC failed to do what the job needs; it is not the job's fault", str(status.lost))
            await self._try_again(job, flow, str(status.lost), lost=True)
        failure = status.failure
        assert failure is not None
        refused = failure.again == "renewed"
        no_results = kind == "collect" and flow.failures >= _MOST_LOOKS_FOR_RESULTS
        if failure.again is None or (refused and flow.refused >= _MOST_REFUSALS) or no_results:
            raise _Fails(failure.error, failure.admin_error)
        await self._try_again(job, flow, failure.admin_error or failure.error, failure.error, refused=refused)
        raise AssertionError("unreachable")

    async def _try_again(
        self, job: JobRecord, flow: Flow, why: str, told: str = _AWAY, *, refused: bool = False, lost: bool = False
    ) -> NoReturn:
        flow = flow.failed(self._clock(), why, told, refused=refused, lost=lost)
        _log.warning("task_failed", job=job.id, task=flow.name, why=why[:300])
        await self._note(job, flow)
        raise _Waits(max(0.0, flow.pause(self._clock())), why, told)

    async def _stage_plan(self, job: JobRecord, site: JawsSite) -> Plan:
        return await site.stage_plan(await self._files.inputs(job.id, stop=job.input_file_count))

    async def _collect_plan(self, job: JobRecord, site: JawsSite, failed: bool) -> Plan:
        return site.collect_plan(job, await site.run(Flow.of(job).run), failed=failed)

    async def _collected(self, job: JobRecord, site: JawsSite, flow: Flow) -> Sequence[Mapping[str, Any]]:
        """What was found before."""
        status = await site.task_status(job.id, flow.collected, None)
        if status.result is None:
            raise SiteUnreachableError(f"What the run of job {job.id} has left was noted at NERSC and is gone")
        containers: Sequence[Mapping[str, Any]] = status.result["containers"]
        return containers

    def _files_to_send(
        self, job: JobRecord, collected: Sequence[Mapping[str, Any]]
    ) -> Sequence[tuple[Mapping[str, Any], str]]:
        try:
            return self._results.files_to_send(job, collected)
        except ValueError as e:
            raise _Fails(str(e)) from e

    # Moving

    async def _now(self, job: JobRecord) -> JobRecord:
        return await self._jobs.get(job.id) or job

    async def _note(self, job: JobRecord, flow: Flow) -> None:
        await self._jobs.note_flow(job.id, flow.stored)

    async def _move(self, job: JobRecord, state: JobState, fields: Mapping[str, Any] | None = None) -> JobRecord:
        """Move the containers, which are one run, and then the job. Waits where somebody has moved it elsewhere."""
        if not state.is_terminal:
            await self._containers.advance(job.id, state, self._clock())
        moved = await self._mover.move(job, DueTransition(state, None), fields)
        if moved is None:
            raise _Waits(0.0)
        return moved

    async def _end(self, job: JobRecord, site: JawsSite, state: JobState) -> JobRecord:
        run = Flow.of(await self._now(job)).run
        hours = (await site.run(run)).cpu_hours if run else None
        state, fields = await self._results.summary(job, state, hours)
        return await self._move(job, state, fields)

    async def _fail(self, job: JobRecord, failure: _Fails) -> JobRecord:
        _log.warning("job_failed", job=job.id, error=failure.error, admin_error=failure.admin_error)
        await self._results.fail_all(job, failure.error, failure.admin_error, self._clock())
        fields = {"error": failure.error, "admin_error": (failure.admin_error or failure.error)[:10_000]}
        moved = await self._mover.move(job, DueTransition(S.ERROR, None), fields)
        return moved or await self._now(job)

    def _delay(self, age: float) -> float:
        """Seconds until the next look at what has gone on for so long."""
        return min(_LONGEST_DELAY, max(self._config.look_delay, age / _PATIENCE))


_DETAILS = {
    ("stage", False): "nersc_download",
    ("send", False): "nersc_upload",
    ("send", True): "nersc_log_upload",
}
"""By a task's kind and whether a failure is processed, where its ID is kept for administrators."""


def _at_once(plan: Plan) -> Callable[[], Awaitable[Plan]]:
    async def made() -> Plan:
        return plan

    return made
