"""What the service remembers of jobs, containers and images. Frozen and free of any store's or HTTP's forms.

All times are aware UTC with millisecond precision and come from the service's clock, unless said otherwise.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cdmtaskservice.domain.states import JobState


@dataclass(frozen=True, slots=True)
class Transition:
    """One state change of a job. `trans_id` names it for ever, so that consumers can drop repeated messages."""

    state: JobState
    time: datetime.datetime
    trans_id: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An approved image. (name, digest) is unique, and so is (name, tag) where there is a tag."""

    name: str
    digest: str
    entrypoint: Sequence[str]
    registered_by: str
    registered_on: datetime.datetime
    tag: str | None = None
    refdata_id: str | None = None
    default_refdata_mount_point: str | None = None
    urls: Sequence[str] | None = None
    usage_notes: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job without its files, whose number must not make a look at it any dearer.

    input: the request in its JSON form with defaults filled in, without `input_files`.
    runtime: the time limit of each container, in seconds.
    published: how many of the transitions the broker has acknowledged, in order.
    next_look: when the reconciler must look again; None once nothing is left to do.
    waiting: why the job does not move on, for administrators; None while it does. told: the same for its owner, where
    there is more to say than that it waits.
    disk: bytes that the inputs of the container with the largest ones take.
    handles: what engines call what they were given, by the kind of engine, in the order of submission.
    submitting_until: until when a submission that nobody has heard of since may still reach the engine.
    flow: how far a job has come between two states, where the service does not follow containers that report to it.
    """

    id: str
    user: str
    site: str
    input: Mapping[str, Any]
    image: ImageRecord
    input_file_count: int
    containers: int
    runtime: float
    state: JobState
    transitions: Sequence[Transition]
    published: int = 0
    next_look: datetime.datetime | None = None
    failures: int = 0
    waiting: str | None = None
    told: str | None = None
    disk: int = 0
    handles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    submitting_until: datetime.datetime | None = None
    flow: Mapping[str, Any] = field(default_factory=dict)
    admin_meta: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str | None = None
    admin_error: str | None = None
    traceback: str | None = None
    logpath: str | None = None
    cpu_hours: float | None = None
    cpu_factor: float | None = None
    max_memory: int | None = None
    output_file_count: int | None = None
    cleaned: bool = False

    @property
    def updated(self) -> datetime.datetime:
        """The time of the last state change."""
        return self.transitions[-1].time

    def overtakes(self, earlier: JobRecord) -> bool:
        """Whether it was canceled since: the look that this asked for must not wait."""
        return self.state is JobState.CANCELING and earlier.state is not JobState.CANCELING


@dataclass(frozen=True, slots=True)
class InputFiles:
    """A run of a job's input files as parallel columns: S3 paths, checksums, sizes (bytes), places below the input
    mount point, and data IDs where the job has them."""

    files: Sequence[str]
    crc64nvmes: Sequence[str]
    sizes: Sequence[int]
    places: Sequence[str]
    data_ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def part(self, start: int, stop: int) -> InputFiles:
        """The files from `start` up to but not including `stop`."""
        return InputFiles(
            self.files[start:stop],
            self.crc64nvmes[start:stop],
            self.sizes[start:stop],
            self.places[start:stop],
            self.data_ids[start:stop] if self.data_ids is not None else None,
        )


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """Output files as parallel columns: S3 paths and checksums."""

    files: Sequence[str] = ()
    crc64nvmes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container used. CPU and wall time in seconds, memory in bytes (its peak)."""

    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    max_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What an executor does, as it said last. In bytes of that phase, where it moves any."""

    phase: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Reached:
    """When a container came to a state: `time` by the worker's clock, for showing; `at` by the service's."""

    time: datetime.datetime
    at: datetime.datetime


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """An attempt that came to no result. blameless: it does not count, as it never began."""

    attempt: int
    at: datetime.datetime
    why: str
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """One container (sub job).

    attempt: from 1; each start of an executor for this container is a new attempt.
    run: the attempt with which the engine was asked for the run that the current attempt belongs to.
    lost: the attempts before the current one, in order.
    claim: the executor process that has this attempt, None until one has come.
    seen: the last sign of life of that executor.
    progress: what it said last of how far it is; None at sites whose executor is not ours, and before its first word.
    ending: why the executor ended before its container did, if its engine told it to.
    """

    job_id: str
    number: int
    state: JobState
    attempt: int
    reached: Mapping[JobState, Reached]
    run: int = 1
    lost: Sequence[LostAttempt] = ()
    claim: str | None = None
    seen: datetime.datetime | None = None
    progress: Progress | None = None
    ending: str | None = None
    exit_code: int | None = None
    error: str | None = None
    admin_error: str | None = None
    traceback: str | None = None
    usage: Usage = Usage()
    outputs: OutputFiles | None = None

    @property
    def counted_attempts(self) -> int:
        """How many attempts there were that count, the current one included."""
        return self.attempt - sum(lost.blameless for lost in self.lost)

    def with_outputs(self, outputs: OutputFiles) -> ContainerRecord:
        """The same container with its output files."""
        return replace(self, outputs=outputs)
