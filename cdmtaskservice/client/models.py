"""What the service tells users."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from cdmtaskservice.client.job_input import AcceptedInput
from cdmtaskservice.client.reading import Model

TERMINAL_STATES = frozenset({"complete", "error", "canceled"})
"""The states that nothing follows."""


@dataclass(frozen=True, kw_only=True)
class AllowedPath(Model):
    """A place in S3 that the user's jobs may read and write."""

    path: str
    perm: str = "write"


@dataclass(frozen=True, kw_only=True)
class WhoAmI(Model):
    """The user of a token."""

    user: str
    roles: tuple[str, ...] = ()
    allowed_paths: tuple[AllowedPath, ...] = ()

    @property
    def is_admin(self) -> bool:
        """Whether the user may call what is below `admin`."""
        return "full_admin" in self.roles


@dataclass(frozen=True, kw_only=True)
class Site(Model):
    """A place where jobs run, with its limits for one container.

    memory_per_node_gb: in units of 10⁹ bytes. max_runtime_min: minutes.
    """

    cluster: str
    nodes: int
    cpus_per_node: int
    memory_per_node_gb: float
    max_runtime_min: int
    gpus_per_node: int = 0
    notes: tuple[str, ...] = ()
    active: bool
    available: bool
    unavailable_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobImage(Model):
    """The image that a job runs."""

    name: str
    digest: str
    tag: str | None = None
    entrypoint: tuple[str, ...] = ()
    refdata_id: str | None = None
    default_refdata_mount_point: str | None = None
    registered_by: str
    registered_on: datetime.datetime


@dataclass(frozen=True, kw_only=True)
class Image(JobImage):
    """An approved image."""

    urls: tuple[str, ...] = ()
    usage_notes: str | None = None


@dataclass(frozen=True, kw_only=True)
class Transition(Model):
    """When a state was entered."""

    state: str
    time: datetime.datetime


@dataclass(frozen=True, kw_only=True)
class JobStatus(Model):
    """How far a job is."""

    id: str
    user: str
    state: str
    transition_times: tuple[Transition, ...]
    admin_meta: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the job has come to its end, whatever it is."""
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, kw_only=True)
class JobPreview(JobStatus):
    """A job without its files.

    cpu_factor: CPU time ÷ (requested CPUs × wall time). max_memory: bytes that the largest container used.
    """

    job_input: AcceptedInput
    image: JobImage
    input_file_count: int
    output_file_count: int | None = None
    cpu_hours: float | None = None
    cpu_factor: float | None = None
    max_memory: int | None = None
    error: str | None = None
    logpath: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputFile(Model):
    """A file of a job in S3. crc64nvme: base64.

    size: bytes, where it is known. url: where its bytes can be had for some minutes, without any token; None where it
    comes with a `Job`. Whoever has the URL can read the file, so it is not shown.
    """

    file: str
    crc64nvme: str
    size: int | None = None
    url: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Job(JobPreview):
    """A job with its files. waiting: why it does not go on, where something holds it up."""

    outputs: tuple[OutputFile, ...] = ()
    waiting: str | None = None


@dataclass(frozen=True, kw_only=True)
class Container(Model):
    """A container of a job. Fields that the site does not know are None.

    time: of the last change of its state. phase: `downloading`, `pulling`, `running` or `uploading`; bytes_done and
    bytes_total are that phase's. cpu_seconds, wall_seconds: seconds. max_memory: bytes.
    """

    container_number: int
    state: str
    attempt: int | None = None
    time: datetime.datetime | None = None
    exit_code: int | None = None
    error: str | None = None
    phase: str | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    max_memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Model):
    """A text file that lists a container's input files."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Example(Model):
    """What one container would get. input_files: their paths below the input mount point, at most 100."""

    container_number: int
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    input_files: tuple[str, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True, kw_only=True)
class DryRun(Model):
    """What a job would be. cpu_hours: the most that it could use. warnings: what is allowed and may not be meant."""

    job_input: AcceptedInput
    image: JobImage
    input_file_count: int
    input_bytes: int | None = None
    cpu_hours: float | None = None
    containers: int | None = None
    example: Example | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RefdataStatus(Model):
    """Reference data at one site. state: `created`, `download_submitted`, `complete` or `error`."""

    cluster: str
    state: str
    transition_times: tuple[Transition, ...] = ()
    error: str | None = None
    removed_on: datetime.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceData(Model):
    """Reference data, and how far it is at each site. From `retired_on` on it can be used no more."""

    id: str
    file: str
    crc64nvme: str
    unpack: bool
    registered_by: str
    registered_on: datetime.datetime
    retired_by: str | None = None
    retired_on: datetime.datetime | None = None
    statuses: tuple[RefdataStatus, ...] = ()
