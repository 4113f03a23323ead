"""One look at a job whose containers report to the service: every site whose executor is ours.

The look reads what the containers have reported and what the engine says, and moves the job accordingly. It starts
from what is stored, so it may be repeated after a crash at any instruction.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.records import ContainerRecord, JobRecord, OutputFiles, Reached
from cdmtaskservice.domain.states import DueTransition, JobState, roll_up
from cdmtaskservice.reconciler.decisions import Action, decide
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.reconciler.moving import Mover
from cdmtaskservice.reconciler.summary import failure_fields, usage_fields
from cdmtaskservice.sites.base import (
    ContainerSite,
    Run,
    RunRequest,
    RunState,
    RunStatus,
    SiteUnreachableError,
    SubmissionRefusedError,
)
from cdmtaskservice.store.containers import FAILING_STATES, ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0
"""Seconds before another attempt after one that never began; doubled from one to the next."""

_REFUSAL_PAUSE = 30.0
"""Seconds before a submission that was refused is tried again."""

_NOT_BEGUN = "the site's workers could not start it, through no fault of its own; it is tried again"


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
        sites: Mapping[str, ContainerSite],
        clock: Clock,
        new_id: IdSource,
        config: ContainerJobConfig,
    ) -> None:
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._sites = sites
        self._clock = clock
        self._mover = Mover(jobs, clock, new_id)
        self._config = config

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next[JobRecord]:
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
        if not full:
            return Wait(job, self._config.look_delay, job.waiting, job.told)
        failed, held = await self._tend(job, reachable_since)
        return Wait(job, 0.0 if failed else held.delay or self._config.look_delay, held.why, held.told)

    def _site(self, job: JobRecord) -> ContainerSite:
        try:
            return self._sites[job.site]
        except KeyError:
            raise SiteUnreachableError(f"The site {job.site} is not in the settings any more") from None

    async def _follow(self, job: JobRecord) -> JobRecord:
        """Make the transitions that the containers' states ask for."""
        tally = await self._containers.tally(job.id)
        for due in roll_up(job.state, tally):
            moved = await (self._end(job, due) if due.state.is_terminal else self._mover.move(job, due))
            if moved is None:
                return await self._jobs.get(job.id) or job
            job = moved
        return job

    async def _end(self, job: JobRecord, due: DueTransition) -> JobRecord | None:
        """Bring together what the containers left, and end the job."""
        containers = await self._measured(job, await self._containers.list(job.id))
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
        return await self._mover.move(job, due, fields)

    async def _measured(self, job: JobRecord, containers: Sequence[ContainerRecord]) -> Sequence[ContainerRecord]:
        """The containers, with what the engine has measured of those whose executors could not measure it."""
        unmeasured = {_run(c): c for c in containers if c.usage.cpu_seconds is None}
        if not unmeasured or not job.handles:
            return containers
        try:
            statuses = await self._site(job).poll(unmeasured.keys(), job.transitions[0].time)
        except SiteUnreachableError:
            return containers  # nobody should wait for that
        for run, container in unmeasured.items():
            await self._containers.note_usage(job.id, run.container, container.attempt, statuses[run].usage)
        return await self._containers.list(job.id)

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

    async def _tend(self, job: JobRecord, reachable_since: datetime.datetime) -> tuple[bool, _Held]:
        """See to it that every container which is not over is with the engine, once.

        Returns whether a container was failed, which the job must follow, and what the engine says holds one up.
        """
        site = self._site(job)
        # Before the engine is asked: what it has heard of since is in its answer or in doubt.
        doubtful = in_doubt(job, self._clock())
        live = {_run(c): c for c in await self._containers.live(job.id)}
        now = self._clock()
        never = site.submit_window and not job.handles and job.submitting_until is None
        # What is to wait before it is submitted, or of a job of which nothing was submitted, the engine cannot know.
        unknown = {run for run, c in live.items() if never or (c.claim is None and _pause(c, now) > 0)}
        asked = [run for run in live if run not in unknown]
        statuses = dict(await site.poll(asked, job.transitions[0].time)) if asked else {}
        statuses |= {run: RunStatus(RunState.UNKNOWN) for run in unknown}
        await self._note_handles(site, job, statuses.values())
        now = self._clock()
        failed = False
        submit: list[RunRequest] = []
        paused: list[tuple[ContainerRecord, float]] = []
        end: dict[str, list[Run]] = {}
        for run, container in live.items():
            status = statuses[run]
            timeout = self._config.heartbeat_timeout
            decision = decide(container, status, now, reachable_since, timeout, site.restarts_executors)
            if decision.action is Action.SUBMIT and (pause := _pause(container, now)) > 0:
                paused.append((container, pause))
            elif decision.action is Action.SUBMIT:
                submit.append(_request(job, run))
            elif decision.action is Action.END:
                end.setdefault(decision.why, []).append(run)
            elif decision.action is Action.FAIL:
                # First, since a run that is gone is only lost.
                if container.state in FAILING_STATES:
                    await self._give_up(container, decision.why, status)
                else:
                    await self._fail(container, status.error or decision.why, decision.why, status)
                failed = True
                if status.state is RunState.STUCK:
                    end.setdefault(decision.why, []).append(run)
            elif decision.action is Action.LOST:
                if self._may_retry(container, status):
                    again = await self._retry(container, decision.why, status)
                    if again is not None and (pause := _pause(again, now)) > 0:
                        paused.append((again, pause))
                    elif again is not None:
                        submit.append(_request(job, _run(again)))
                else:
                    await self._give_up(container, decision.why, status)
                    failed = True
        for why, runs in end.items():
            await site.end(runs, why)
        if submit and doubtful:
            return failed, _Held("it is not known yet whether an earlier submission to the site has taken effect")
        if submit and (refused := await self._submit(site, job, submit)) is not None:
            return failed, refused
        return failed, _what_holds_up(statuses, paused)

    async def _submit(self, site: ContainerSite, job: JobRecord, requests: Sequence[RunRequest]) -> _Held | None:
        """Give runs to the engine; returns why it does not take them.

        Before a submission that may take effect later than its answer, a note says until when.
        """
        if not site.submit_window:
            await site.submit(requests)
            return None
        until = self._clock() + datetime.timedelta(seconds=site.submit_window)
        await self._jobs.begin_submission(job.id, until)
        handles: Sequence[str] = ()
        try:
            handles = await site.submit(requests)
        except SubmissionRefusedError as refusal:
            await self._jobs.end_submission(job.id, site.info.kind, ())
            return _Held(refusal.message, refusal.told, _REFUSAL_PAUSE if refusal.told else None)
        await self._jobs.end_submission(job.id, site.info.kind, handles)
        return None

    async def _note_handles(self, site: ContainerSite, job: JobRecord, statuses: Collection[RunStatus]) -> None:
        """A submission whose answer was lost is known by what the engine has: then it is in doubt no more."""
        known = job.handles.get(site.info.kind, ())
        found = {s.handle for s in statuses if s.handle is not None} - set(known)
        if found:
            await self._jobs.end_submission(job.id, site.info.kind, sorted(found))

    def _may_retry(self, container: ContainerRecord, status: RunStatus) -> bool:
        # What its program did is known once it is in the error branch, and its job may be there with it: no way back.
        if container.state in FAILING_STATES:
            return False
        return status.blameless or container.counted_attempts < self._config.max_attempts

    async def _retry(self, container: ContainerRecord, why: str, status: RunStatus) -> ContainerRecord | None:
        """Begin the container's next attempt; None where its report came just before."""
        job_id, number, attempt = container.job_id, container.number, container.attempt
        begun = await self._containers.next_attempt(
            job_id, number, attempt, self._clock(), why, blameless=status.blameless
        )
        if begun is None:
            return None
        _log.warning("attempt_lost", job=job_id, container=number, attempt=attempt, why=why)
        return begun

    async def _give_up(self, container: ContainerRecord, why: str, status: RunStatus) -> None:
        """Fail a container that was lost and has no further attempt."""
        times = container.counted_attempts
        if container.state in FAILING_STATES:
            error = container.error or f"its program ended with exit code {container.exit_code}"
            error += f"; its worker was lost before the logs were kept, because {why}"
        elif container.claim is None:
            error = f"the site could not start it, tried {times} times, the last time because {why}"
        else:
            error = f"its worker was lost {times} times, the last time because {why}"
        admin_error = f"Attempt {times} of {self._config.max_attempts} was lost: {why}"
        await self._fail(container, error, admin_error, status)

    async def _fail(self, container: ContainerRecord, error: str, admin_error: str, status: RunStatus) -> None:
        # What its owner is told may have the program's own words, which are no business of the log.
        _log.warning(
            "container_lost",
            job=container.job_id,
            container=container.number,
            attempt=container.attempt,
            why=admin_error,
        )
        now = self._clock()
        await self._containers.note_usage(container.job_id, container.number, container.attempt, status.usage)
        await self._containers.report(
            container.job_id,
            container.number,
            JobState.ERROR,
            Reached(now, now),
            attempt=container.attempt,
            error=error,
            admin_error=admin_error,
        )

    async def _cancel(self, job: JobRecord) -> Next[JobRecord]:
        site = self._site(job)
        doubtful = in_doubt(job, self._clock())
        runs = [_run(c) for c in await self._containers.live(job.id)]
        left = await site.end(runs, "the job was canceled") if runs else ()
        if left:
            return Wait(job, self._config.cancel_delay, f"{len(left)} containers are still being stopped")
        if doubtful:
            return Wait(job, self._config.cancel_delay, "a submission to the site may still take effect")
        containers = await self._measured(job, await self._containers.list(job.id))
        fields = usage_fields(containers, job.input["cpus"])
        canceled = await self._mover.move(job, DueTransition(JobState.CANCELED, self._clock()), fields)
        return await self._finish(canceled or job)

    async def _finish(self, job: JobRecord) -> Next[JobRecord]:
        """Let go of what was kept for a job that is over."""
        doubtful = in_doubt(job, self._clock())
        await self._files.release_claims(job.id)
        await self._site(job).release(job.id)
        if doubtful:
            return Wait(job, self._config.look_delay, "a submission to the site may still take effect")
        return Done(job)


@dataclass(frozen=True)
class _Held:
    """What holds a job up: why for administrators, told for its owner, delay in seconds where it is to be looked at
    later than usual."""

    why: str | None = None
    told: str | None = None
    delay: float | None = None


def _pause(container: ContainerRecord, now: datetime.datetime) -> float:
    """Seconds before the current attempt may be submitted, where the ones before it never began."""
    unbegun = 0
    for lost in reversed(container.lost):
        if not lost.blameless:
            break
        unbegun += 1
    if not unbegun:
        return 0.0
    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(unbegun - 1, 20))
    return pause - (now - container.lost[-1].at).total_seconds()


def _what_holds_up(statuses: Mapping[Run, RunStatus], paused: Sequence[tuple[ContainerRecord, float]]) -> _Held:
    """The first container that does not go on, and how many more there are."""
    held = [(run.container, status) for run, status in statuses.items() if status.holds_up]
    for container, pause in paused:
        why = f"its next attempt begins in {pause:.0f} seconds; {container.lost[-1].why}"
        held.append((container.number, RunStatus(RunState.QUEUED, why, _NOT_BEGUN)))
    if not held:
        return _Held()
    more = f" ({len(held)} containers wait)" if len(held) > 1 else ""
    told = next((f"container {n}: {s.told}{more}" for n, s in held if s.told), None)
    return _Held(f"container {held[0][0]}: {held[0][1].detail}{more}", told)


def in_doubt(job: JobRecord, now: datetime.datetime) -> bool:
    """Whether a submission of the job's runs that nobody has heard of since may still take effect."""
    return job.submitting_until is not None and job.submitting_until > now


def _run(container: ContainerRecord) -> Run:
    return Run(container.job_id, container.number, container.run)


def _request(job: JobRecord, run: Run) -> RunRequest:
    return RunRequest(
        run=run,
        user=job.user,
        cpus=job.input["cpus"],
        memory=job.input["memory"],
        runtime=job.runtime,
        gpus=job.input.get("gpus") or 0,
        disk=job.disk,
    )
