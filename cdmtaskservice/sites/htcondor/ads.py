"""What an ad of the queue or the history says of a run. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from cdmtaskservice.domain.records import Usage
from cdmtaskservice.sites.base import Run, RunState, RunStatus
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig
from cdmtaskservice.sites.htcondor.holds import HOLDS, RESTARTED_TOO_OFTEN, UNKNOWN, Remedy
from cdmtaskservice.sites.htcondor.submission import CODE_CHANGED, OURS, read_runs

ATTRIBUTES: Sequence[str] = (
    *("ClusterId", "ProcId", "JobStatus", "EnteredCurrentStatus", "ServerTime", "NumJobStarts"),
    *("CTSJobID", "CTSContainerNumber", "CTSAttempt", "CTSRuns", "CTSReleases", "JobMaterializeNextProcId"),
    *("JobMaterializePaused", "JobMaterializePauseReason"),
    *("RequestCpus", "RequestMemory", "RequestDisk", "RequestGPUs"),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "RemoveReason", "LastRejMatchReason"),
    *("ExitBySignal", "ExitCode", "ExitSignal"),
    *("RemoteUserCpu", "RemoteSysCpu", "RemoteWallClockTime", "ResidentSetSize"),
)
"""What is asked of each ad."""

Ad = Mapping[str, Any]

_PAUSED = "the cluster does not start more of the job's containers just now"

_CONFIRMATION = 30.0
"""Seconds beyond the time that an executor has to stop in which its worker must confirm that it is removed. One that is
dead never does, and the schedd would wait for it until the job's lease is over."""

_FIRST_RELEASE_AFTER = 5.0
_LONGEST_RELEASE_AFTER = 600.0

_WORKERS_FAULT = frozenset({2, 64, 69, 73, CODE_CHANGED, 78, 126, 127})
"""Exit codes of executors that end before they have begun: the next may find a better worker, or a mended one."""

_EXIT_CODES = {
    0: "its executor ended in good order",
    2: "the service refused the token on its worker",
    64: "its executor was called with wrong options, or cannot read the token on its worker",
    69: "its worker could not fetch the executor's code",
    70: "its executor failed",
    73: "its worker could not keep the executor's code",
    75: "the service did not answer its executor for too long",
    CODE_CHANGED: "the executor's program is another one than at submission",
    78: "its worker is not set up for executors: it needs Python 3.9 or later and a usable cache directory",
    126: "its worker's shell could not be run",
    127: "its worker lacks bash or sha256sum",
}


class JobStatus(IntEnum):
    """HTCondor's job attribute of that name. Source: its manual, the job ClassAd attributes."""

    IDLE = 1
    RUNNING = 2
    REMOVED = 3
    COMPLETED = 4
    HELD = 5
    TRANSFERRING_OUTPUT = 6
    SUSPENDED = 7


@dataclass(frozen=True)
class Proc:
    """A run in the queue or the history.

    proc: None where it is not in the queue yet, as the cluster makes its procs one after the other. release: it is
    held, and should be released now; releases: how often that has been done. unconfirmed: it has been removed, and its
    worker does not confirm that, so that only force takes it from the queue. ours: it was we who removed it. asks: what
    machines it asks for.
    """

    run: Run
    cluster: int
    proc: int | None
    status: RunStatus
    release: bool = False
    releases: int = 0
    waits_unmatched: bool = False
    unconfirmed: bool = False
    ours: bool = False
    asks: tuple[object, ...] = ()

    @property
    def name(self) -> str:
        """What HTCondor calls it: `cluster.proc`, or the cluster alone."""
        return f"{self.cluster}" if self.proc is None else f"{self.cluster}.{self.proc}"


@dataclass
class Found:
    """What the queue and the history have of some jobs.

    procs: by run, the one that counts. surplus: procs in the queue that nobody should run, by the reason.
    """

    procs: dict[Run, Proc] = field(default_factory=dict)
    surplus: dict[str, list[str]] = field(default_factory=dict)


def read_queue(ads: Iterable[Ad], config: HTCondorSiteConfig) -> Found:
    """The runs in the queue.

    Of two clusters that have the same run, as after a submission that took effect and was thought not to have, the
    first counts. So does the last attempt of a container.
    """
    found = Found()
    newest: dict[tuple[str, int], int] = {}
    procs = sorted((p for ad in ads for p in _procs(ad, config)), key=lambda p: (p.cluster, p.proc is None, p.proc))
    for proc in procs:
        container = proc.run.job_id, proc.run.container
        newest[container] = max(proc.run.attempt, newest.get(container, 0))
    for proc in procs:
        first = found.procs.setdefault(proc.run, proc)
        if proc.proc is None:
            continue
        if first is not proc and first.cluster != proc.cluster:
            found.surplus.setdefault(f"it was submitted twice, and {first.cluster} was first", []).append(proc.name)
        elif proc.run.attempt < newest[proc.run.job_id, proc.run.container]:
            found.surplus.setdefault("a later attempt has taken its place", []).append(proc.name)
    return found


def read_history(ads: Iterable[Ad], config: HTCondorSiteConfig) -> Mapping[Run, Proc]:
    """The runs in the history; of several records of one, the first in `ads` counts, which is the latest."""
    found: dict[Run, Proc] = {}
    for ad in ads:
        for proc in _procs(ad, config):
            found.setdefault(proc.run, replace(proc, status=ended(ad)))
    return found


def _procs(ad: Ad, config: HTCondorSiteConfig) -> Iterable[Proc]:
    job, cluster, proc = ad.get("CTSJobID"), ad.get("ClusterId"), ad.get("ProcId")
    if not isinstance(job, str) or not isinstance(cluster, int):
        return
    if not isinstance(proc, int) or proc < 0:
        made = ad.get("JobMaterializeNextProcId")
        if isinstance(made, int):
            status = RunStatus(RunState.QUEUED, handle=str(cluster))
            if ad.get("JobMaterializePaused"):
                why = ad.get("JobMaterializePauseReason") or "no reason is given"
                detail = f"HTCondor makes no more jobs of cluster {cluster}: {why}"
                status = replace(status, detail=detail, told=_PAUSED)
            for number, tried in read_runs(str(ad.get("CTSRuns") or ""))[made:]:
                yield Proc(Run(job, number, tried), cluster, None, status)
        return
    container, attempt = ad.get("CTSContainerNumber"), ad.get("CTSAttempt")
    if isinstance(container, int) and isinstance(attempt, int):
        yield _in_queue(ad, Proc(Run(job, container, attempt), cluster, proc, RunStatus(RunState.UNKNOWN)), config)


def _in_queue(ad: Ad, proc: Proc, config: HTCondorSiteConfig) -> Proc:
    status = ad.get("JobStatus")
    age = _age(ad)
    known = RunStatus(RunState.RUNNING, age=age, usage=usage(ad), handle=str(proc.cluster))
    if status == JobStatus.HELD:
        return _held(ad, replace(proc, status=known), config)
    if status == JobStatus.IDLE:
        waits = age is not None and age >= config.unmatched_after and bool(ad.get("LastRejMatchReason"))
        asks = tuple(ad.get(f"Request{what}") for what in ("Cpus", "Memory", "Disk", "GPUs"))
        return replace(proc, status=replace(known, state=RunState.QUEUED), waits_unmatched=waits, asks=asks)
    if status == JobStatus.REMOVED:
        reason = str(ad.get("RemoveReason"))
        known = replace(known, detail=f"it is being removed: {reason}")
        late = age is not None and age >= config.vacate_time + _CONFIRMATION
        known = replace(known, state=RunState.STUCK if late else RunState.RUNNING)
        return replace(proc, status=known, unconfirmed=late, ours=reason.startswith(OURS))
    if status in (JobStatus.SUSPENDED, JobStatus.TRANSFERRING_OUTPUT):
        known = replace(known, age=None)  # it is not since then that its executor runs
    if status == JobStatus.SUSPENDED:
        known = replace(known, detail="it is suspended by its worker")
    elif status == JobStatus.COMPLETED:
        known = ended(ad)
    return replace(proc, status=known)


def _held(ad: Ad, proc: Proc, config: HTCondorSiteConfig) -> Proc:
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    hold = HOLDS.get(code, UNKNOWN) if isinstance(code, int) else UNKNOWN
    said = " ".join(str(ad.get("HoldReason") or "no reason is given").split())
    detail = f"HTCondor holds it since {_time(ad)}, code {code}, subcode {subcode}: {said}"
    status = replace(proc.status, detail=detail)
    waiting = replace(status, state=RunState.QUEUED, told=hold.told)
    if hold.remedy is Remedy.NONE:
        return replace(proc, status=replace(status, state=RunState.QUEUED, detail=None))
    if hold.remedy is Remedy.WAIT:
        return replace(proc, status=waiting)
    if hold.remedy is Remedy.RELEASE:
        releases = int(ad.get("CTSReleases") or 0)
        if releases < config.max_releases:
            pause = min(_FIRST_RELEASE_AFTER * 2**releases, _LONGEST_RELEASE_AFTER)
            due = proc.status.age is None or proc.status.age >= pause
            return replace(proc, status=waiting, release=due, releases=releases)
        return replace(proc, status=replace(status, state=RunState.STUCK, error=f"{hold.told}: {said}"))
    if hold.remedy is Remedy.FAIL:
        return replace(proc, status=replace(status, state=RunState.STUCK, error=f"{hold.told}: {said}"))
    if code == 3 and subcode == RESTARTED_TOO_OFTEN and said.startswith(OURS):
        return replace(proc, status=replace(status, state=RunState.STUCK, detail=said.removeprefix(OURS)))
    return replace(proc, status=replace(status, state=RunState.STUCK, detail=f"{hold.told}: {detail}"))


def ended(ad: Ad) -> RunStatus:
    """What became of a job that has left the queue, or is about to."""
    status = RunStatus(RunState.ENDED, usage=usage(ad), handle=str(ad.get("ClusterId")))
    if ad.get("JobStatus") == JobStatus.REMOVED:
        reason = str(ad.get("RemoveReason") or "no reason is given")
        if reason.startswith(OURS):
            return replace(status, detail=reason.removeprefix(OURS))
        return replace(
            status,
            detail=f"it was removed from HTCondor's queue at {_time(ad)}: {reason}",
            error=f"somebody at the cluster, or a rule of it, has removed it from the queue: {reason}",
        )
    if ad.get("ExitBySignal"):
        return replace(status, detail=f"its executor was killed by signal {ad.get('ExitSignal')}")
    code = ad.get("ExitCode")
    words = _EXIT_CODES.get(code, "its executor ended") if isinstance(code, int) else "its executor ended"
    return replace(status, detail=f"{words} (exit code {code})", blameless=code in _WORKERS_FAULT)


def usage(ad: Ad) -> Usage:
    """What HTCondor has measured of the executor, and of its container where that is among its processes."""
    wall = _number(ad, "RemoteWallClockTime")
    if not wall:
        return Usage()
    cpu = (_number(ad, "RemoteUserCpu") or 0.0) + (_number(ad, "RemoteSysCpu") or 0.0)
    memory = _number(ad, "ResidentSetSize")
    return Usage(cpu, wall, None if memory is None else int(memory) * 1024)


def _number(ad: Ad, name: str) -> float | None:
    value = ad.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _age(ad: Ad) -> float | None:
    """Seconds for which it has had its status, both times by the schedd's clock."""
    now, since = _number(ad, "ServerTime"), _number(ad, "EnteredCurrentStatus")
    return None if now is None or since is None else max(0.0, now - since)


def _time(ad: Ad) -> str:
    since = _number(ad, "EnteredCurrentStatus")
    if since is None:
        return "a time that is not given"
    return datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat().replace("+00:00", "Z")
