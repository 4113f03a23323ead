"""One look at a job whose containers report to the service: every site whose executor is ours.

The look reads what the containers have reported and what the engine says, and moves the job accordingly. It starts
from what is stored, so it may be repeated after a crash at any instruction.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.records import ContainerRecord, JobRecord, OutputFiles, Reached, Transition
from cdmtaskservice.domain.states import DueTransition, JobState, Outcome, roll_up
from cdmtaskservice.reconciler.decisions import Action, decide
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.reconciler.summary import failure_fields, usage_fields
from cdmtaskservice.sites.base import Run, RunRequest, Site, SiteUnreachableError
from cdmtaskservice.store.containers import FAILING_STATES, ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ContainerJobConfig:
    """look_delay and heartbeat_timeout in seconds; max_attempts per container."""

    look_delay: float
    heartbeat_timeout: float
    max_attempts: int
    cancel_delay: float = 1.0
    """Seconds between looks at a job whose containers are being stopped."""


class ContainerJobs:
    """The step of the reconciler for sites where the service tracks the containers itself."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        sites: Mapping[str, Site],
        clock: Clock,
        new_id: IdSource,
        config: ContainerJobConfig,
    ) -> None:
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._sites = sites
        self._clock = clock
        self._new_id = new_id
        self._config = config

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        """Look at a job once.

        full: ask the engine too; otherwise only take in what the containers have reported.
        """
        if job.state is JobState.CANCELING:
            return await self._cancel(job)
        if not job.state.is_terminal:
            job = await self._follow(job)
        if job.state.is_terminal:
            return await self._finish(job)
        if job.state is JobState.CANCELING:
            return await self._cancel(job)
        failed, held = await self._tend(job, reachable_since) if full else (False, job.waiting)
        return Wait(job, 0.0 if failed else self._config.look_delay, held)

    def _site(self, job: JobRecord) -> Site:
        try:
            return self._sites[job.site]
        except KeyError:
            raise SiteUnreachableError(f"The site {job.site} is not in the settings any more") from None

    async def _follow(self, job: JobRecord) -> JobRecord:
        """Make the transitions that the containers' states ask for."""
        tally = await self._containers.tally(job.id)
        for due in roll_up(job.state, tally):
            moved = await (self._end(job, due) if due.state.is_terminal else self._move(job, due))
            if moved is None:
                return await self._jobs.get(job.id) or job
            job = moved
        return job

    async def _move(
        self, job: JobRecord, due: DueTransition, fields: Mapping[str, Any] | None = None
    ) -> JobRecord | None:
        """Make one transition; None where somebody else moved the job elsewhere meanwhile (cancelled it, say)."""
        transition = Transition(due.state, due.time or self._clock(), self._new_id())
        outcome, moved = await self._jobs.transition(job.id, transition, fields)
        if outcome in {Outcome.CONFLICT, Outcome.MISSING}:
            _log.info("transition_refused", job=job.id, to=due.state.value, outcome=outcome.value)
            return None
        return moved

    async def _end(self, job: JobRecord, due: DueTransition) -> JobRecord | None:
        """Bring together what the containers left, and end the job."""
        containers = await self._containers.list(job.id)
        outputs = await self._gather_outputs(job, containers)
        fields: dict[str, Any] = {
            **usage_fields(containers, job.input["cpus"]),
            "output_file_count": len(outputs),
        }
        if due.state is JobState.ERROR:
            fields |= failure_fields(containers)
        elif not outputs:
            due = DueTransition(JobState.ERROR, due.time)
            mount = job.input["params"]["output_mount_point"]
            fields["error"] = (
                f"No container wrote an output file below {mount}; check the job's arguments and the containers' logs"
            )
        return await self._move(job, due, fields)

    async def _gather_outputs(self, job: JobRecord, containers: Sequence[ContainerRecord]) -> OutputFiles:
        files: list[str] = []
        checksums: list[str] = []
        for container in containers:
            outputs = container.outputs
            if outputs is None and container.state is JobState.COMPLETE:
                outputs = await self._files.outputs(job.id, container=container.number, attempt=container.attempt)
            if outputs is not None:
                files.extend(outputs.files)
                checksums.extend(outputs.crc64nvmes)
        gathered = OutputFiles(files, checksums)
        await self._files.put_outputs(job.id, gathered)
        return gathered

    async def _tend(self, job: JobRecord, reachable_since: datetime.datetime) -> tuple[bool, str | None]:
        """See to it that every container which is not over is with the engine, once.

        Returns whether a container was failed, which the job must follow, and what the engine says holds one up.
        """
        site = self._site(job)
        live = {Run(job.id, c.number, c.attempt): c for c in await self._containers.live(job.id)}
        statuses = await site.poll(live.keys())
        now = self._clock()
        failed = False
        submit: list[RunRequest] = []
        end: dict[str, list[Run]] = {}
        for run, container in live.items():
            decision = decide(container, statuses[run], now, reachable_since, self._config.heartbeat_timeout)
            if decision.action is Action.SUBMIT:
                submit.append(_request(job, run))
            elif decision.action is Action.END:
                end.setdefault(decision.why, []).append(run)
            elif decision.action is Action.LOST:
                if self._may_retry(container):
                    again = await self._retry(job, container, decision.why)
                    if again is not None:
                        submit.append(_request(job, again))
                else:
                    await self._give_up(container, decision.why)
                    failed = True
        for why, runs in end.items():
            await site.end(runs, why)
        if submit:
            await site.submit(submit)
        held = (f"container {run.container}: {status.detail}" for run, status in statuses.items() if status.holds_up)
        return failed, next(held, None)

    def _may_retry(self, container: ContainerRecord) -> bool:
        # What its program did is known once it is in the error branch, and its job may be there with it: no way back.
        return container.attempt < self._config.max_attempts and container.state not in FAILING_STATES

    async def _retry(self, job: JobRecord, container: ContainerRecord, why: str) -> Run | None:
        """Begin the container's next attempt; None where its report came just before."""
        begun = await self._containers.next_attempt(job.id, container.number, container.attempt, self._clock(), why)
        if begun is None:
            return None
        _log.warning("attempt_lost", job=job.id, container=container.number, attempt=container.attempt, why=why)
        return Run(job.id, container.number, begun.attempt)

    async def _give_up(self, container: ContainerRecord, why: str) -> None:
        """Fail a container that was lost and has no further attempt."""
        _log.warning(
            "container_lost", job=container.job_id, container=container.number, attempt=container.attempt, why=why
        )
        error = f"its worker was lost {container.attempt} times, the last time because {why}"
        if container.state in FAILING_STATES:
            error = container.error or f"its program ended with exit code {container.exit_code}"
            error += f"; its worker was lost before the logs were kept, because {why}"
        now = self._clock()
        await self._containers.report(
            container.job_id,
            container.number,
            JobState.ERROR,
            Reached(now, now),
            attempt=container.attempt,
            error=error,
            admin_error=f"Attempt {container.attempt} of {self._config.max_attempts} was lost: {why}",
        )

    async def _cancel(self, job: JobRecord) -> Next:
        site = self._site(job)
        runs = [Run(job.id, c.number, c.attempt) for c in await self._containers.live(job.id)]
        left = await site.end(runs, "the job was canceled") if runs else ()
        if left:
            return Wait(job, self._config.cancel_delay, f"{len(left)} containers are still being stopped")
        containers = await self._containers.list(job.id)
        fields = usage_fields(containers, job.input["cpus"])
        canceled = await self._move(job, DueTransition(JobState.CANCELED, self._clock()), fields)
        return await self._finish(canceled or job)

    async def _finish(self, job: JobRecord) -> Next:
        """Let go of what was kept for a job that is over."""
        await self._files.release_claims(job.id)
        await self._site(job).release(job.id)
        return Done(job)


def _request(job: JobRecord, run: Run) -> RunRequest:
    return RunRequest(
        run=run,
        user=job.user,
        cpus=job.input["cpus"],
        memory=job.input["memory"],
        runtime=job.runtime,
        gpus=job.input.get("gpus") or 0,
    )
