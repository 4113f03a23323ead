"""What the service asks of a site: one engine that runs containers through executors.

A site knows its engine and nothing of HTTP or MongoDB. Every call is safe to repeat: after a crash, a timeout or an
exception the caller asks again, and the site makes sure that a run exists at most once.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.domain.records import Usage


class SiteUnreachableError(DependencyUnavailableError):
    """The engine does not answer now. It delays jobs and never fails them. told: the same for a job's owner, if there
    is something to say."""

    def __init__(self, message: str, told: str | None = None) -> None:
        super().__init__(message)
        self.told = told


class SubmissionRefusedError(SiteUnreachableError):
    """Nothing of a submission has taken effect: the engine has said no to all of it, or was not even asked.

    It is a matter for administrators and no fault of the job, which waits.
    """


@dataclass(frozen=True, order=True)
class Run:
    """What an engine is asked for once, for one container of a job, and runs at most once at a time.

    attempt: the attempt at the container with which it was submitted. Where the engine restarts an executor by itself,
    the attempts after that belong to the same run.
    """

    job_id: str
    container: int
    attempt: int


@dataclass(frozen=True)
class RunRequest:
    """A run with what the engine must set aside for it.

    memory: bytes. runtime: seconds, the container's own limit; the engine adds what the executor needs around it.
    user: who submitted the job, for accounting. disk: bytes that the container's inputs take.
    """

    run: Run
    user: str
    cpus: int
    memory: int
    runtime: float
    gpus: int = 0
    disk: int = 0


class RunState(Enum):
    """What the engine says of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    STUCK = "stuck"
    """It is still there, but will never go on by itself: it must be ended."""
    ENDED = "ended"
    """The executor is gone, whatever became of its container."""
    UNKNOWN = "unknown"
    """The engine has never heard of it, or has forgotten it."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, and what else the engine says of it.

    detail: for administrators: why it ended, say, or does not go on.
    told: what keeps it from going on, in words for the job's owner.
    error: it failed, and another attempt would fail too; in words for the job's owner.
    blameless: it ended before it began, through no fault of its worker, so it is no attempt that counts.
    age: seconds for which it has been in this state, by the engine's own clock.
    usage: as the engine measured it, for want of better.
    handle: what the engine calls the submission that brought it.
    """

    state: RunState
    detail: str | None = None
    told: str | None = None
    error: str | None = None
    blameless: bool = False
    age: float | None = None
    usage: Usage = field(default_factory=Usage)
    handle: str | None = None

    @property
    def holds_up(self) -> bool:
        """Whether `detail` says why a run that is not over does not go on."""
        return self.detail is not None and self.state in {RunState.QUEUED, RunState.RUNNING}


@dataclass(frozen=True)
class SiteHealth:
    """Whether the site can take and run work now, and if not, why."""

    available: bool
    reason: str | None = None


@dataclass(frozen=True)
class SiteInfo:
    """What users are told of a site, and the limits of one container there.

    memory_per_node: bytes. max_runtime: seconds.
    """

    name: str
    kind: str
    nodes: int
    cpus_per_node: int
    memory_per_node: int
    max_runtime: float
    gpus_per_node: int = 0
    notes: Sequence[str] = field(default_factory=tuple)
    network: bool = False
    """Whether containers at this site may use the network."""
    internal_s3: bool = False
    """Whether its workers reach S3 as the service does, rather than at the address for the outside."""


@dataclass(frozen=True)
class Finding:
    """What one step of the check of a site has found. ok: None where it could not be tried. mend: what to do about
    what is wrong."""

    step: str
    ok: bool | None
    found: str
    mend: str | None = None


class Site(Protocol):
    """A place where jobs run. See the module's text for what every method promises."""

    @property
    def info(self) -> SiteInfo:
        """Name, kind and limits, from the settings."""
        ...

    async def start(self) -> None:
        """Begin to work. Must not wait for an engine that is away: `health` tells."""
        ...

    async def stop(self) -> None:
        """End the site's own tasks. Runs go on and are found again after a restart."""
        ...

    async def health(self) -> SiteHealth:
        """Whether work can be given to the site now. Never raises."""
        ...

    async def clean(self, job_id: str, handles: Sequence[str] = ()) -> None:
        """Remove every file of the job at the site. handles: what the engine calls what it was given of the job.

        Raises: SiteUnreachableError.
        """
        ...

    async def runner_status(
        self, run: Run, since: datetime.datetime | None = None, handles: Sequence[str] = ()
    ) -> Mapping[str, object]:
        """The engine's own words on a run, without environment and tokens; empty where it has none.

        since: before which it was not submitted. handles: what the engine calls what it was given of the job.
        """
        ...


class ContainerSite(Site, Protocol):
    """A site whose engine runs our executor for each container, which reports to the service."""

    submit_window: float
    """Seconds after which a submission that was not answered can no longer take effect; 0 where none ever comes late,
    as `submit` itself recognises every run."""
    restarts_executors: bool
    """Whether the engine starts a run's executor again by itself when its worker is lost."""

    async def submit(self, requests: Sequence[RunRequest]) -> Sequence[str]:
        """Make sure that the engine knows each of these runs, which are all of one job.

        Returns what the engine calls what it was given, for administrators. Raises: SubmissionRefusedError, and
        SiteUnreachableError where it cannot be known whether all of them were taken.
        """
        ...

    async def poll(self, runs: Collection[Run], since: datetime.datetime | None = None) -> Mapping[Run, RunStatus]:
        """What the engine says of each of these runs, none of which was submitted before `since`.

        Raises: SiteUnreachableError.
        """
        ...

    async def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        """Stop these runs, their containers included, and forget those that are still queued.

        Returns those that are not over yet; ask again until there is none. Runs that the engine does not know are
        over. Raises: SiteUnreachableError.
        """
        ...

    async def release(self, job_id: str) -> None:
        """The job is over: remove what the engine keeps of it, except what an administrator may want to see.

        Raises: SiteUnreachableError.
        """
        ...
