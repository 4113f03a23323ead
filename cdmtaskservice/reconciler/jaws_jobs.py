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
instruction. What was begun is noted before (`flow.py`), and nothing is begun where somebody else has noted
something. What is begun twice does no harm, and a run is submitted once for each attempt, whatever happens
(`jaws_submission.py`). Callbacks only make a look come sooner.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import structlog

from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.errors import (
    IllegalS3PathError,
    NoSuchBucketError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
)
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import DueTransition, JobState
from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.reconciler.jaws_results import JawsResults
from cdmtaskservice.reconciler.jaws_submission import JawsSubmission
from cdmtaskservice.reconciler.jaws_tasks import JawsJobConfig, JawsTasks
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.reconciler.moving import Mover
from cdmtaskservice.reconciler.tasks import AWAY, Fails, Waits
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.central import CANCELLED, FAILED, SUCCEEDED, NoSuchRunError
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.tasks import Plan
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_MOST_WRONG = 3
"""Times in a row that S3 may have something else than what was sent."""

S = JobState
T = TypeVar("T")


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
        self._sites = sites
        self._clock = clock
        self._config = config
        self._mover = Mover(jobs, clock, new_id)
        self._results = JawsResults(containers, files)
        self._tasks = JawsTasks(jobs, files, clock, config)
        self._submission = JawsSubmission(jobs, files, self._tasks, clock, config)

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next[JobRecord]:
        """Look at a job once."""
        site = self._sites[job.site]
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
            if job.state.is_terminal:
                return await self._finish(job, site)
            return Wait(await steps[job.state](job, site), 0.0)
        except Waits as e:
            return Wait(job, e.delay, e.why, e.told)
        except Fails as e:
            return Wait(await self._fail(job, e), 0.0)
        except SiteUnreachableError as e:
            e.told = e.told or AWAY
            raise

    # The steps

    async def _stage(self, job: JobRecord, site: JawsSite) -> JobRecord:
        await site.require_up()
        job = await self._tasks.begin(job, site, "stage", lambda noted: self._tasks.stage_plan(noted, site))
        return await self._move(job, S.DOWNLOAD_SUBMITTED)

    async def _staged(self, job: JobRecord, site: JawsSite) -> JobRecord:
        job, _ = await self._tasks.result(job, site, "stage", lambda noted: self._tasks.stage_plan(noted, site))
        job = await self._tasks.note(job, replace(Flow.of(job), staged=1))
        return await self._move(job, S.JOB_SUBMITTING)

    async def _submit(self, job: JobRecord, site: JawsSite) -> JobRecord:
        job, _ = await self._submission.run_of(job, site)
        return await self._move(job, S.JOB_SUBMITTED)

    async def _follow(self, job: JobRecord, site: JawsSite) -> JobRecord:
        job, run = await self._submission.run_of(job, site)
        if not run.over:
            raise Waits(self._tasks.delay(Flow.of(job).age(self._clock())))
        if run.result in {SUCCEEDED, FAILED}:
            job = await self._tasks.note(job, replace(Flow.of(job), output_dir=run.output_dir or ""))
            return await self._move(
                job, S.UPLOAD_SUBMITTING if run.result == SUCCEEDED else S.ERROR_PROCESSING_SUBMITTING
            )
        log = await site.run_log(run.id)
        if run.result == CANCELLED or log.says_cancelled:
            raise Fails(
                "somebody at JAWS has cancelled its run", f"JAWS run {run.id} was cancelled: {log.text[-2000:]}"
            )
        return await self._submission.lose_run(job, f"JAWS itself failed run {run.id}: {log.text[-700:]}")

    async def _collect(self, job: JobRecord, site: JawsSite) -> JobRecord:
        failed = job.state is S.ERROR_PROCESSING_SUBMITTING
        job, collected = await self._collected(job, site, failed=failed)
        if self._files_to_send(job, collected):
            await site.require_nersc_up()
            job = await self._send(job, site, collected)
        return await self._move(job, S.ERROR_PROCESSING_SUBMITTED if failed else S.UPLOAD_SUBMITTED)

    async def _sent(self, job: JobRecord, site: JawsSite) -> JobRecord:
        failed = job.state is S.ERROR_PROCESSING_SUBMITTED
        sent: Mapping[str, Any] | None = None
        if Flow.of(job).task == "send":
            job, sent = await self._tasks.result(job, site, "send", None)
        job, collected = await self._collected(job, site, failed=failed)
        files = self._files_to_send(job, collected)
        if files and sent is None:  # it is to be tried again, or what was collected was lost meanwhile
            await site.require_nersc_up()
            await self._send(job, site, collected)
            raise Waits(self._tasks.delay(0.0))
        if sent is not None:
            plan = await site.plan_of(job.id, Flow.of(job).name)
            if plan is None:
                await self._tasks.try_again(job, Flow.of(job), "what was to be sent was noted at NERSC and is gone")
            else:
                await _stored(site.finish_sending(plan, sent["parts"]))
        if files and (wrong := await _stored(site.not_there(files))):
            await self._try_again(job, wrong)
        if failed:
            await self._results.store_failure(job, collected, self._clock())
            return await self._end(job, site, S.ERROR)
        await self._results.store(job, collected, self._clock())
        return await self._end(job, site, S.COMPLETE)

    async def _try_again(self, job: JobRecord, wrong: Sequence[str]) -> NoReturn:
        flow = Flow.of(job)
        named = ", ".join(wrong[:3])
        if flow.wrong >= _MOST_WRONG:
            raise Fails(f"the files {named} changed on the way to S3, again and again")
        await self._tasks.try_again(job, flow, f"S3 does not have what was sent: {named}", counter="wrong")

    async def _collected(
        self, job: JobRecord, site: JawsSite, *, failed: bool
    ) -> tuple[JobRecord, Sequence[Mapping[str, Any]]]:
        """What the run has left; looked for anew where what was found before is gone."""
        flow = Flow.of(job)
        if flow.collected:
            status = await site.task_status(job.id, flow.collected, None)
            if status.result is not None:
                return job, status.result["containers"]
            _log.warning("collected_anew", job=job.id, task=flow.collected)
            job = await self._tasks.note(job, replace(flow, collected="", task=""))
        job, result = await self._tasks.result(
            job, site, "collect", lambda noted: self._collect_plan(noted, site, failed)
        )
        flow = Flow.of(job)
        job = await self._tasks.note(job, replace(flow, collected=flow.name))
        return job, result["containers"]

    async def _collect_plan(self, job: JobRecord, site: JawsSite, failed: bool) -> Plan:
        flow = Flow.of(job)
        if failed and not flow.output_dir:
            log = await site.run_log(flow.run)
            raise Fails("JAWS could not run it; an administrator can see why", f"run {flow.run}: {log.text[-2000:]}")
        return site.collect_plan(job, flow.run, flow.output_dir, failed=failed)

    async def _send(self, job: JobRecord, site: JawsSite, collected: Sequence[Mapping[str, Any]]) -> JobRecord:
        """Begin to send what is not in S3 yet."""
        files = self._files_to_send(job, collected)
        again = Flow.of(job).task == "send"
        left = await _stored(site.missing(files)) if again else files
        return await _stored(self._tasks.begin(job, site, "send", lambda _: site.send_plan(left), left=len(left)))

    def _files_to_send(
        self, job: JobRecord, collected: Sequence[Mapping[str, Any]]
    ) -> Sequence[tuple[Mapping[str, Any], str]]:
        try:
            return self._results.files_to_send(job, collected)
        except ValueError as e:
            raise Fails(str(e)) from e

    # The end

    async def _cancel(self, job: JobRecord, site: JawsSite) -> JobRecord:
        flow = Flow.of(job)
        soon = self._config.look_delay
        if flow.submitted and (stopping := await self._submission.stop_runs(job, site)):
            raise Waits(soon, f"JAWS is still stopping {', '.join(stopping)}")
        submitted = flow.task == "submit" and flow.run  # that task is over
        age = flow.age(self._clock())
        if flow.task and not submitted and not await site.stop_task(job.id, flow.name, flow.handle or None, age):
            raise Waits(soon, f"the task {flow.name} at NERSC is still being stopped")
        if (why := await self._submission.in_doubt(job, site)) is not None:
            raise Waits(soon, why)
        return await self._move(job, S.CANCELED)

    async def _finish(self, job: JobRecord, site: JawsSite) -> Next[JobRecord]:
        """Nothing may go on at JAWS for a job that is over, not even what was thought not to have been taken."""
        flow = Flow.of(job)
        expected_over = job.state is S.COMPLETE and flow.attempt == 1
        if flow.submitted and not expected_over and (stopping := await self._submission.stop_runs(job, site)):
            return Wait(job, self._config.look_delay, f"JAWS is still stopping {', '.join(stopping)}")
        return Done(job)

    async def _end(self, job: JobRecord, site: JawsSite, state: JobState) -> JobRecord:
        hours = None
        with suppress(NoSuchRunError):
            hours = (await site.run(Flow.of(job).run)).cpu_hours
        state, fields = await self._results.summary(job, state, hours)
        return await self._move(job, state, fields)

    async def _fail(self, job: JobRecord, failure: Fails) -> JobRecord:
        _log.warning("job_failed", job=job.id, error=failure.error, admin_error=failure.admin_error)
        await self._results.fail_all(job, failure.error, failure.admin_error, self._clock())
        fields = {"error": failure.error, "admin_error": (failure.admin_error or failure.error)[:10_000]}
        moved = await self._mover.move(job, DueTransition(S.ERROR, None), fields)
        return moved or await self._jobs.get(job.id) or job

    async def _move(self, job: JobRecord, state: JobState, fields: Mapping[str, Any] | None = None) -> JobRecord:
        """Move the containers, which are one run, and then the job. Waits where somebody has moved it elsewhere."""
        if not state.is_terminal:
            await self._containers.advance(job.id, state, self._clock())
        moved = await self._mover.move(job, DueTransition(state, None), fields)
        if moved is None:
            raise Waits(0.0)
        return moved


async def _stored(storing: Awaitable[T]) -> T:
    """What comes of storing something, where that is possible at all."""
    try:
        return await storing
    except (NoSuchBucketError, S3PathInaccessibleError, S3BucketInaccessibleError, IllegalS3PathError) as e:
        raise Fails(f"the outputs cannot be stored: {e.message}") from e
