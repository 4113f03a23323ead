"""One run at JAWS for each attempt at a job, whatever crashes, times out or comes late.

Three things keep it so. The task that calls `jaws submit` begins once for an attempt, by a marker that only one can
make, and not later than it was told. A run carries the attempt's tag, by which JAWS is asked for it before anything is
submitted anew. And an attempt is given up only when its submission can no longer take effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.reconciler.flow import Flow, seconds_since
from cdmtaskservice.reconciler.jaws_tasks import JawsJobConfig, JawsTasks
from cdmtaskservice.reconciler.tasks import AWAY, Fails, Waits
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.central import JawsRun, NoSuchRunError
from cdmtaskservice.sites.jaws.plans import tag
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.tasks import Plan
from cdmtaskservice.store.codec import from_millis, to_millis
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_SETTLED = 20.0
"""Seconds after a `jaws submit` that failed in which JAWS may come to list a run of it."""
_GONE = 600.0
"""Seconds for which JAWS must say that it has no such run, before that is believed."""


class JawsSubmission:
    """The runs of jobs."""

    def __init__(self, jobs: JobStore, files: FileStore, tasks: JawsTasks, clock: Clock, config: JawsJobConfig) -> None:
        self._jobs = jobs
        self._files = files
        self._tasks = tasks
        self._clock = clock
        self._config = config

    async def run_of(self, job: JobRecord, site: JawsSite) -> tuple[JobRecord, JawsRun]:
        """The run of the current attempt, which is submitted if it was not. Waits where that cannot be said yet."""
        flow = Flow.of(job)
        if not flow.run:
            job, run_id = await self._submitted(job, site)
            await self._jobs.note_handle(job.id, "jaws", run_id)
            job = await self._tasks.note(job, replace(Flow.of(job), run=run_id))
            flow = Flow.of(job)
        try:
            run = await site.run(flow.run)
        except NoSuchRunError as e:
            now = self._clock()
            if not flow.missing:
                await self._tasks.note(job, replace(flow, missing=to_millis(now)))
            if not flow.missing or seconds_since(flow.missing, now) < _GONE:
                raise Waits(self._config.look_delay, str(e), AWAY) from None
            return await self.lose_run(job, str(e))
        if flow.missing:
            job = await self._tasks.note(job, replace(flow, missing=0))
        return job, run

    async def lose_run(self, job: JobRecord, why: str) -> NoReturn:
        """A run came to nothing, through no fault of the job: the next attempt, if there is one."""
        flow = Flow.of(job)
        if flow.failed_runs + 1 >= self._config.max_attempts:
            raise Fails(
                f"JAWS failed to run it, {flow.failed_runs + 1} times; it is not the job's fault",
                f"attempt {flow.attempt}: {why}",
            )
        _log.warning("jaws_run_lost", job=job.id, run=flow.run, attempt=flow.attempt, why=why[:300])
        await self._tasks.note(
            job, flow.next_attempt(self._clock(), self._config.look_delay, why, AWAY, failed_run=True)
        )
        raise Waits(0.0, why)

    async def stop_runs(self, job: JobRecord, site: JawsSite) -> Sequence[str]:
        """Cancel all runs of the job's attempts; returns those that are not over yet."""
        flow = Flow.of(job)
        runs = {run.id: run for run in await site.runs_of(job.id)}
        known = {flow.run, *job.handles.get("jaws", ())}
        if flow.task == "submit" and not flow.run:
            status = await site.task_status(job.id, flow.name, None)
            known.add(str(status.result["run_id"]) if status.result is not None else "")
        for run_id in known - runs.keys() - {""}:
            with suppress(NoSuchRunError):
                runs[run_id] = await site.run(run_id)
        going = [run.id for run in runs.values() if not run.over]
        refused: SiteUnreachableError | None = None
        for run_id in going:
            try:
                await site.cancel_run(run_id)
            except NoSuchRunError:
                continue
            except SiteUnreachableError as e:
                refused = e  # the others are to be stopped all the same
        if refused is not None:
            raise refused
        return going

    async def in_doubt(self, job: JobRecord, site: JawsSite) -> str | None:
        """Why JAWS may still come to know of a run of this job; None where it cannot."""
        flow = Flow.of(job)
        if flow.task != "submit" or flow.run:
            return None
        status = await site.task_status(job.id, flow.name, flow.handle or None)
        if status.result is not None:
            return None
        if status.failure is None:
            late = flow.age(self._clock()) < self._config.submit_window
            return "a submission to JAWS may still take effect" if late else None
        if not flow.ended:
            job = await self._tasks.note(job, replace(flow, ended=to_millis(self._clock())))
        settled = seconds_since(Flow.of(job).ended, self._clock()) >= _SETTLED
        return None if settled else "JAWS may still come to know of a run"

    async def _submitted(self, job: JobRecord, site: JawsSite) -> tuple[JobRecord, str]:
        """The ID of the attempt's run."""
        flow = Flow.of(job)
        if flow.task != "submit":
            return await self._begin(job, site)
        now = self._clock()
        status = await site.task_status(job.id, flow.name, flow.handle or None, flow.age(now))
        if status.result is not None:
            return job, str(status.result["run_id"])
        age = flow.age(now)
        if status.running:
            raise Waits(self._tasks.delay(age))
        if not flow.handle and age < self._config.submit_timeout:
            # It is not known whether it was begun. Begun again it does nothing if it was.
            handle = await site.begin_task(job.id, flow.name, "submit", await self._plan(job, site))
            await self._tasks.note(job, replace(flow, handle=handle))
            raise Waits(self._tasks.delay(age))
        if runs := await site.runs_of(job.id, flow.attempt):
            return job, runs[0].id
        why = status.lost or (status.failure and (status.failure.admin_error or status.failure.error)) or ""
        told = AWAY if status.failure is None else status.failure.error
        if (doubt := await self.in_doubt(job, site)) is not None:
            raise Waits(self._config.look_delay, f"{doubt}: {why}", told)
        _log.warning("submission_failed", job=job.id, attempt=flow.attempt, why=why[:300])
        flow = flow.next_attempt(now, self._config.look_delay, why, told, failed_run=False)
        await self._tasks.note(job, flow)
        raise Waits(max(0.0, flow.pause(now)), why, told)

    async def _begin(self, job: JobRecord, site: JawsSite) -> tuple[JobRecord, str]:
        """Submit, unless JAWS has a run already."""
        flow = Flow.of(job)
        if (pause := flow.pause(self._clock())) > 0 and not flow.task:
            raise Waits(pause, flow.why, flow.told)
        # Of an attempt that was given up, a run may have come after all: nothing is submitted beside it.
        runs = await site.runs_of(job.id)
        mine = [run for run in runs if run.tag == tag(job.id, flow.attempt)] or [run for run in runs if not run.over]
        if mine:
            return job, mine[0].id
        if not flow.staged:
            job, _ = await self._tasks.result(job, site, "stage", lambda noted: self._tasks.stage_plan(noted, site))
            job = await self._tasks.note(job, replace(Flow.of(job), staged=1))
        await site.require_up()
        await self._tasks.begin(job, site, "submit", lambda noted: self._plan(noted, site))
        raise Waits(self._tasks.delay(0.0))

    async def _plan(self, job: JobRecord, site: JawsSite) -> Plan:
        """How the run is submitted, of a job with the note that it is about to be."""
        flow = Flow.of(job)
        begun = from_millis(flow.begun).timestamp()
        inputs = await self._files.inputs(job.id, stop=job.input_file_count)
        return site.submit_plan(job, flow.attempt, inputs, begun + self._config.submit_timeout)
