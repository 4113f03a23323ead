"""The HTCondor site: every container is a proc in a pool's queue, and runs through the executor.

The schedd is the truth, and nothing is kept here that it could not be asked again. What a job's containers are in the
queue is said by three attributes of their ads: CTSJobID, CTSContainerNumber and CTSAttempt.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.sites.base import (
    Run,
    RunRequest,
    RunState,
    RunStatus,
    SiteHealth,
    SiteInfo,
    SiteUnreachableError,
    SubmissionRefusedError,
)
from cdmtaskservice.sites.htcondor import ads
from cdmtaskservice.sites.htcondor.ads import Found, Proc
from cdmtaskservice.sites.htcondor.analysis import Analyses
from cdmtaskservice.sites.htcondor.batch import Coalesced
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig
from cdmtaskservice.sites.htcondor.gateway import Gateway, PoolBusyError, PoolHangsError, PoolRefusedError
from cdmtaskservice.sites.htcondor.submission import OURS, describe, items

_log = structlog.get_logger(__name__)

_LATE_ANSWERS = 20.0
"""Seconds after a submission's time limit in which the schedd may still carry it out; `_SOON` twice is part of them."""

_SOON = 5.0
"""Seconds within which a submission must begin, or it is not made: until when it may take effect was noted before."""

_MISSED_LOOKS, _MISSED_SECONDS = 3, 10.0
"""A run that was in the queue and is in neither queue nor history counts as gone after so many looks and seconds."""

_ATTEMPTS = 100_000
"""More than any container has."""

_NAMED_CONTAINERS = 200
"""The history is asked for so many containers of a job by number, and for more of them by the job alone."""

_LONGEST_IN_QUEUE = 30 * 86400
"""Seconds. Nobody's job stays in the queue for longer after its last change of status, so that all records behind it
are older."""

_REFUSAL_STANDS = 120.0
"""Seconds for which a refused submission counts."""

_REFUSED_ACCOUNT = '"DENIED"'
"""In a refusal: it is the service's account that may not submit, whosever job it is."""

_FORGOTTEN_AFTER = 3600.0
"""Seconds after which what is known here of a job is dropped that nobody has asked about: another process may have
brought it to its end."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

_SHOWN: Sequence[str] = (
    *("ClusterId", "ProcId", "JobStatus", "EnteredCurrentStatus", "QDate", "JobStartDate", "JobCurrentStartDate"),
    *(
        "CompletionDate",
        "NumJobStarts",
        "NumShadowStarts",
        "NumHolds",
        "LastVacateTime",
        "RemoteHost",
        "LastRemoteHost",
    ),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "ReleaseReason", "RemoveReason", "VacateReason"),
    *("RequestCpus", "RequestMemory", "RequestDisk", "RequestGPUs", "LastRejMatchReason", "LastRejMatchTime"),
    *("RemoteUserCpu", "RemoteSysCpu", "RemoteWallClockTime", "ResidentSetSize", "ExitBySignal", "ExitCode"),
    *("ExitSignal", "AcctGroup", "AccountingGroup", "ConcurrencyLimits"),
    *("CTSJobID", "CTSContainerNumber", "CTSAttempt", "CTSReleases", "JobPrio", "Owner", "User"),
)
"""What administrators see of an ad: neither arguments nor environment, though there is no secret in them either."""


class HTCondorSite:
    """A `Site` whose engine is an HTCondor pool. Several processes may have one on the same pool."""

    restarts_executors = True

    def __init__(
        self,
        config: HTCondorSiteConfig,
        executable: Callable[[], Awaitable[str]],
        gateway: Gateway | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        """executable: gives the SHA-256 of the `executable.sh` that workers are to run, 64 hex digits."""
        self._config = config
        self._executable = executable
        self._gateway = gateway or Gateway.of(config, meter)
        self.submit_window = config.submit_timeout + _LATE_ANSWERS
        self._queue = Coalesced(self._fetch_queue)
        self._history = Coalesced(self._fetch_history)
        self._analyses = Analyses(self._gateway, config.timeout)
        self._known: dict[str, _Seen] = {}
        """By job, what the schedd was seen to have."""
        self._refused: dict[str, tuple[str, float]] = {}
        """By user, the last refusal of a job and until when it counts."""

    @property
    def info(self) -> SiteInfo:
        """Name, kind and limits, from the settings."""
        return self._config.info

    async def start(self) -> None:
        """Nothing to do: the agent is started when it is first needed."""

    async def stop(self) -> None:
        """End the agent. The pool goes on."""
        await self._gateway.close()

    async def health(self) -> SiteHealth:
        """Whether the schedd answers and takes jobs.

        That it refuses some jobs may be a matter of these, and closes the site to nobody else.
        """
        try:
            await self._gateway.call("ping", self._config.timeout)
        except SiteUnreachableError as error:
            return SiteHealth(False, error.message)
        now = time.monotonic()
        refusals = [why for why, until in self._refused.values() if now < until]
        account = next((why for why in refusals if _REFUSED_ACCOUNT in why), None)
        return SiteHealth(account is None, account)

    async def submit(self, requests: Sequence[RunRequest]) -> Sequence[str]:
        """Submit one cluster with a proc for each run. They must not be in the queue yet: `poll` tells."""
        if not requests:
            return ()
        job, user = requests[0].run.job_id, requests[0].user
        try:
            async with asyncio.timeout(_SOON):
                executable = await self._executable()
            taken = await self._gateway.call(
                "submit",
                self._config.submit_timeout,
                turn=_SOON,
                description=describe(self._config, requests, executable),
                items=items(requests),
            )
        except PoolRefusedError as error:
            self._refused[user] = error.message, time.monotonic() + _REFUSAL_STANDS
            told = "the cluster refuses to take it as it is; it is tried again, and the administrators see the reason"
            raise SubmissionRefusedError(error.message, told) from error
        except (PoolBusyError, TimeoutError) as error:
            raise SubmissionRefusedError(str(error) or "the executor's code is being packed") from error
        self._refused.clear()
        cluster = taken["cluster"]
        seen = self._seen(job)
        for request in requests:
            seen.runs[request.run] = len(requests) <= self._config.idle_at_once
            seen.missed.pop(request.run, None)
        _log.info("cluster_submitted", job=job, site=self.info.name, cluster=cluster, containers=len(requests))
        return (str(cluster),)

    async def poll(self, runs: Collection[Run], since: datetime.datetime | None = None) -> Mapping[Run, RunStatus]:
        """What the queue says of each run, and of those that are not in it what the history says.

        Removes what is in the queue twice, and releases what is held for a reason that may have passed.
        """
        found = await self._queue.ask({run.job_id for run in runs})
        statuses: dict[Run, RunStatus] = {}
        for run in runs:
            if (proc := found.procs.get(run)) is not None:
                seen = self._seen(run.job_id)
                seen.runs[run] = proc.proc is not None
                seen.missed.pop(run, None)
                statuses[run] = proc.status
        await self._tidy(found, {run.job_id for run in runs})
        absent = [run for run in runs if run not in statuses]
        if absent:
            try:
                history = await self._history.ask([(run, since) for run in absent])
            except PoolHangsError as error:
                # The others need not wait for it.
                statuses |= {run: RunStatus(RunState.QUEUED, error.message) for run in absent}
            else:
                statuses |= {run: history[run].status if run in history else self._unknown(run) for run in absent}
        return await self._explained(found, statuses)

    async def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        """Remove these runs from the queue: idle ones at once, running ones when their executors have stopped."""
        found = await self._queue.ask({run.job_id for run in runs})
        wanted = set(runs)
        left = [found.procs[run] for run in runs if run in found.procs and _is_there(found.procs[run])]
        clusters = {proc.cluster for proc in left}
        whole = {c for c in clusters if all(p.run in wanted for p in found.procs.values() if p.cluster == c)}
        jobs = [str(cluster) for cluster in sorted(whole)]
        # A proc that the cluster has not made yet can only be removed with all of it, or later.
        jobs += [proc.name for proc in left if proc.cluster not in whole and proc.proc is not None]
        if jobs:
            await self._remove(jobs, reason)
        # Whoever removed them, and whatever for: that they are gone is what is wanted here.
        await self._force([proc for proc in left if proc.unconfirmed])
        return [proc.run for proc in left]

    async def release(self, job_id: str) -> None:
        """Remove what is still waiting or held. Executors that run are about to end by themselves."""
        found = await self._queue.ask({job_id})
        waiting = [p for p in found.procs.values() if p.run.job_id == job_id and p.status.state is not RunState.RUNNING]
        if waiting:
            await self._remove(sorted({proc.name for proc in waiting}), "the job is over")
        self._known.pop(job_id, None)

    async def clean(self, job_id: str, handles: Sequence[str] = ()) -> None:
        """Nothing to do: HTCondor itself removes the files of a job when it ends."""

    async def runner_status(
        self, run: Run, since: datetime.datetime | None = None, handles: Sequence[str] = ()
    ) -> Mapping[str, object]:
        """Chosen attributes of the run's ad, and of one that finds no machine HTCondor's analysis."""
        constraint = (
            f"CTSJobID == {json.dumps(run.job_id)} && CTSContainerNumber == {run.container} "
            f"&& CTSAttempt == {run.attempt}"
        )
        found = await self._call("query", constraint=constraint, attributes=_SHOWN)
        if not found:
            found = await self._ask_history(constraint, _SHOWN, since, 1)
        if not found:
            return {}
        ad: dict[str, object] = {name: found[0][name] for name in _SHOWN if found[0].get(name) is not None}
        if ad.get("JobStatus") == ads.JobStatus.IDLE:
            name = f"{ad['ClusterId']}.{ad['ProcId']}"
            analysis = await self._analyses.of(name, name)
            if analysis is not None:
                ad["Analysis"] = analysis.told_to_admins()
        return ad

    # Asking the pool

    async def _call(self, name: str, limit: float | None = None, /, **arguments: Any) -> Any:
        return await self._gateway.call(name, limit or self._config.timeout, **arguments)

    async def _fetch_queue(self, jobs: Collection[str]) -> Found:
        found = await self._call("query", constraint=_of_jobs(jobs), attributes=ads.ATTRIBUTES, clusters=True)
        return ads.read_queue(found, self._config)

    async def _fetch_history(self, wanted: Collection[tuple[Run, datetime.datetime | None]]) -> Mapping[Run, Proc]:
        by_job: dict[str, list[Run]] = {}
        for run, _ in wanted:
            by_job.setdefault(run.job_id, []).append(run)
        named = [
            f"(CTSJobID == {json.dumps(job)} && member(CTSContainerNumber * {_ATTEMPTS} + CTSAttempt, "
            f"{{{','.join(str(r.container * _ATTEMPTS + r.attempt) for r in runs)}}}))"
            for job, runs in by_job.items()
            if len(runs) <= _NAMED_CONTAINERS
        ]
        whole = [job for job, runs in by_job.items() if len(runs) > _NAMED_CONTAINERS]
        constraint = " || ".join([*named, *([f"({_of_jobs(whole)})"] if whole else [])])
        oldest = min((since or _EPOCH for _, since in wanted), default=_EPOCH)
        # Each run has one record, unless it was submitted twice.
        most = -1 if whole else len(wanted)
        records = await self._ask_history(constraint, ads.ATTRIBUTES, oldest, most)
        found = ads.read_history(records, self._config)
        if len(records) == most and any(run not in found for run, _ in wanted):
            found = ads.read_history(await self._ask_history(constraint, ads.ATTRIBUTES, oldest, -1), self._config)
        return found

    async def _ask_history(
        self, constraint: str, attributes: Sequence[str], since: datetime.datetime | None, most: int
    ) -> Any:
        """Records of our own jobs. That the history is long does not mean that the pool hangs."""
        # The records are in the order in which jobs left the queue; other people's may have stayed there for long.
        oldest = int((since or _EPOCH).timestamp() - self._config.history_margin)
        ours = f"CTSJobID isnt undefined && EnteredCurrentStatus < {oldest}"
        until = f"({ours}) || EnteredCurrentStatus < {oldest - _LONGEST_IN_QUEUE}" if since is not None else ""
        return await self._gateway.call(
            "history",
            self._config.submit_timeout,
            vital=False,
            constraint=constraint,
            attributes=attributes,
            since=until,
            most=most,
        )

    def _seen(self, job_id: str) -> _Seen:
        now = time.monotonic()
        if job_id not in self._known:
            self._known = {j: s for j, s in self._known.items() if now - s.asked < _FORGOTTEN_AFTER}
        seen = self._known.setdefault(job_id, _Seen())
        seen.asked = now
        return seen

    def _unknown(self, run: Run) -> RunStatus:
        """A run that is nowhere. One that was there a moment ago may be between the queue and the history."""
        seen = self._known.get(run.job_id)
        if seen is None or run not in seen.runs:
            return RunStatus(RunState.UNKNOWN)
        now = time.monotonic()
        looks, since = seen.missed.get(run, (0, now))
        seen.missed[run] = looks + 1, since
        if looks + 1 < _MISSED_LOOKS or now - since < _MISSED_SECONDS:
            return RunStatus(RunState.QUEUED, "HTCondor lists it neither in its queue nor in its history just now")
        if seen.runs[run]:
            return RunStatus(RunState.ENDED, "it has left HTCondor's queue, and the history has no record of it")
        # It was never made a job of its own, so that there can be no record.
        return RunStatus(
            RunState.ENDED,
            "its cluster was removed from HTCondor's queue before it was its turn",
            error="somebody at the cluster, or a rule of it, has removed it from the queue",
        )

    # Doing something about it

    async def _tidy(self, found: Found, jobs: Collection[str]) -> None:
        surplus = dict(found.surplus)
        found.surplus.clear()  # those who share the answer need not remove it once more
        for reason, names in surplus.items():
            _log.warning("surplus_procs", site=self.info.name, procs=names, reason=reason)
            await self._remove(names, reason)
        dead = [p for run, p in found.procs.items() if p.unconfirmed and p.ours and run.job_id in jobs]
        await self._force(dead)
        for run, proc in found.procs.items():
            if proc.release and run.job_id in jobs:
                _log.info("hold_released", job=run.job_id, container=run.container, proc=proc.name)
                # Counted first: a crash in between must not make it free.
                await self._call("edit", jobs=[proc.name], attribute="CTSReleases", value=str(proc.releases + 1))
                reason = f"{OURS}what held it may have passed"
                await self._call("act", action="Release", jobs=[proc.name], reason=reason)
                found.procs[run] = replace(proc, release=False)

    async def _force(self, procs: Sequence[Proc]) -> None:
        """Take procs from the queue whose workers are dead or cut off. Nobody believes their executors any more."""
        if procs:
            names = [proc.name for proc in procs]
            _log.warning("removal_forced", site=self.info.name, procs=names)
            reason = f"{OURS}its worker did not confirm that it was removed"
            await self._call("act", action="RemoveX", jobs=names, reason=reason)

    async def _remove(self, jobs: Sequence[str], reason: str) -> None:
        words = " ".join(reason.split())
        await self._call("act", action="Remove", jobs=list(jobs), reason=f"{OURS}{words}")

    async def _explained(self, found: Found, statuses: Mapping[Run, RunStatus]) -> Mapping[Run, RunStatus]:
        """The same, saying of a run that has found no machine for a while whether there is one."""
        unmatched = [run for run in statuses if run in found.procs and found.procs[run].waits_unmatched]
        if not unmatched:
            return statuses
        explained = dict(statuses)
        for run in unmatched:
            proc = found.procs[run]
            try:
                analysis = await self._analyses.of(proc.name, proc.asks)
            except SiteUnreachableError as error:
                # It only explains, and nothing may wait for that.
                _log.warning("not_analyzed", job=run.job_id, proc=proc.name, error=error.message)
                break
            if analysis is not None and not analysis.matching:
                explained[run] = replace(
                    proc.status, detail=analysis.told_to_admins(), told=analysis.told_to_owner(self.info.name)
                )
        return explained


@dataclass
class _Seen:
    """What the schedd was seen to have of a job.

    runs: whether each was a proc of its own, or still to be made. missed: runs that it has not now, in how many looks,
    and since when. asked: when the job was last asked about.
    """

    runs: dict[Run, bool] = field(default_factory=dict)
    missed: dict[Run, tuple[int, float]] = field(default_factory=dict)
    asked: float = 0.0


def _of_jobs(jobs: Collection[str]) -> str:
    return f"member(CTSJobID, {{{','.join(json.dumps(job) for job in sorted(jobs))}}})"


def _is_there(proc: Proc) -> bool:
    return proc.status.state is not RunState.ENDED
