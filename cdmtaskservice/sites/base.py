"""What the service asks of a site: one engine that runs containers through executors.

A site knows its engine and nothing of HTTP or MongoDB. Every call is safe to repeat: after a crash, a timeout or an
exception the caller asks again, and the site makes sure that a run exists at most once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from cdmtaskservice.domain.errors import DependencyUnavailableError


class SiteUnreachableError(DependencyUnavailableError):
    """The engine does not answer now. It delays jobs and never fails them."""


@dataclass(frozen=True, order=True)
class Run:
    """One attempt at one container of a job: the unit that an engine runs at most once."""

    job_id: str
    container: int
    attempt: int


@dataclass(frozen=True)
class RunRequest:
    """A run with what the engine must set aside for it.

    memory: bytes. runtime: seconds, the container's own limit; the engine adds what the executor needs around it.
    user: who submitted the job, for accounting.
    """

    run: Run
    user: str
    cpus: int
    memory: int
    runtime: float
    gpus: int = 0


class RunState(Enum):
    """What the engine says of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    """The executor is gone, whatever became of its container."""
    UNKNOWN = "unknown"
    """The engine has never heard of it, or has forgotten it."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run and, for administrators, what else the engine says of it (why it ended, say)."""

    state: RunState
    detail: str | None = None

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


class Site(Protocol):
    """One engine. See the module's text for what every method promises."""

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

    async def submit(self, requests: Sequence[RunRequest]) -> None:
        """Make sure that the engine knows each of these runs.

        Raises: SiteUnreachableError where it cannot be known whether all of them were taken.
        """
        ...

    async def poll(self, runs: Collection[Run]) -> Mapping[Run, RunStatus]:
        """What the engine says of each of these runs.

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

    async def clean(self, job_id: str) -> None:
        """Remove every file of the job at the site. Raises: SiteUnreachableError."""
        ...

    async def runner_status(self, run: Run) -> Mapping[str, object]:
        """The engine's own words on a run, without environment and tokens; empty where it has none."""
        ...
