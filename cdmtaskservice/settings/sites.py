"""The sites that jobs can be sent to, a model a kind.

A new kind is a subclass of `SiteBase` with a `kind` of its own, named in the union `SiteSettings`.
"""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationInfo, field_validator

from cdmtaskservice.settings.section import Section
from cdmtaskservice.settings.values import (
    AbsolutePath,
    Duration,
    OptionalInt,
    OptionalMountPrefix,
    OptionalPath,
    OptionalStr,
    OptionalUrl,
    OptionalWorkerPath,
    WorkerPath,
    comma_separated,
    one_or_many,
)


class SiteBase(Section):
    """What is known of a site whatever its kind: what users see, and what a container there may ask for."""

    kind: str
    """Which kind of engine runs the site's jobs; it decides which other settings the site has."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The site's name, as in a job's "cluster": letters, digits and . _ -, at most 64, unique among the sites."""
    nodes: int = Field(ge=1)
    """How many nodes the site has. Shown to users."""
    cpus_per_node: int = Field(ge=1)
    """CPUs of a node: the most that a container may ask for."""
    memory_per_node: ByteSize = Field(ge=1_000_000)
    """Memory of a node, in bytes or with a unit such as "8GB": the most that a container may ask for."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of a node: the most that a container may ask for."""
    max_runtime: Duration = Field(ge=timedelta(seconds=1))
    """The longest that a container may run, in seconds or as an ISO 8601 duration."""
    notes: Annotated[tuple[str, ...], one_or_many] = ()
    """Notes for users, shown with the site: a string or a list of strings."""

    @property
    def executor_time(self) -> timedelta:
        """The longest that an executor may go on beside its container's runtime."""
        return timedelta()


def _is_regular_expression(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return value


def _blank_to_this_python(value: object) -> object:
    return sys.executable if value == "" else value


class LocalSite(SiteBase):
    """The machine that the service itself runs on."""

    kind: Literal["local"]
    """Which kind of engine runs the site's jobs, and so which other settings the site has: local, the machine that the
    service itself runs on."""
    nodes: int = Field(default=1, ge=1, le=1)
    """How many nodes the site has: 1, the service's own machine."""
    work_dir: AbsolutePath
    """Absolute path of the directory below which containers get their scratch space."""
    cpus: OptionalInt = Field(default=None, ge=1, validate_default=True)
    """How many CPUs' worth of containers run at once; the rest wait. Blank: cpus_per_node."""
    token_file: AbsolutePath
    """Absolute path of a file with a token that has the executor role; readable by the service alone."""
    container_runtime: Literal["auto", "docker", "podman", "apptainer"] = "auto"
    """What runs containers: auto (the first that is found), docker, podman or apptainer."""
    container_runtime_path: OptionalPath = None
    """Absolute path of the container runtime's program. Blank: found on PATH."""
    network: bool = False
    """Whether containers may use the network."""
    keep_trying: Duration = Field(default=timedelta(days=1), ge=timedelta(seconds=1))
    """How long an executor goes on trying while the service does not answer, in seconds or as an ISO 8601 duration."""
    executor_url: OptionalUrl = None
    """The URL at which this site's executors reach the service. Blank: service.external_url."""
    stop_with_service: bool = False
    """Whether running containers end with the service, rather than run on and be found again by the next one."""
    refdata_dir: OptionalPath = None
    """Absolute path of the directory that holds reference data. Blank: there is none at this site."""
    refdata_by: Literal["service", "refdata_service"] = "service"
    """Who brings reference data there: service (this one) or refdata_service (a reference data service)."""
    python: Annotated[AbsolutePath, BeforeValidator(_blank_to_this_python)] = Field(
        default_factory=lambda: Path(sys.executable)
    )
    """Absolute path of the Python interpreter that runs executors. Blank: the one that runs the service."""

    @field_validator("cpus")
    @classmethod
    def _largest_container_fits(cls, cpus: int | None, info: ValidationInfo) -> int | None:
        per_node = info.data.get("cpus_per_node")
        if cpus is not None and per_node is not None and cpus < per_node:
            raise ValueError(
                f"must be at least cpus_per_node, {per_node}, or a container of that size would wait for ever"
            )
        return cpus

    @property
    def executor_time(self) -> timedelta:
        """The longest that an executor may go on beside its container's runtime."""
        return self.keep_trying

    @property
    def cpus_at_once(self) -> int:
        """How many CPUs' worth of containers run at once."""
        return self.cpus or self.cpus_per_node


class HTCondorSite(SiteBase):
    """An HTCondor pool."""

    kind: Literal["htcondor"]
    """Which kind of engine runs the site's jobs, and so which other settings the site has: htcondor, an HTCondor
    pool."""
    condor_config: OptionalPath = None
    """Absolute path of the HTCondor configuration by which the pool is found. Blank: that of the service's environment
    (CONDOR_CONFIG, the usual places, and variables _CONDOR_*)."""
    collector: OptionalStr = None
    """The pool's collector, as host or host:port. Blank: COLLECTOR_HOST of the HTCondor configuration."""
    schedd: OptionalStr = None
    """The name of the schedd that takes the jobs. Blank: SCHEDD_HOST of the HTCondor configuration, or the pool's only
    one."""
    token_directory: OptionalPath = None
    """Absolute path of the directory with the IDTOKEN for this pool. Blank: as the HTCondor configuration says."""
    initial_dir: OptionalWorkerPath = None
    """A directory of the schedd's machine that the account of the token can write to: executors' logs are kept there.
    Blank: they are not kept."""
    client_group: Annotated[OptionalStr, AfterValidator(_is_regular_expression)] = None
    """A regular expression that a machine's attribute CLIENTGROUP must match to be given jobs. Blank: any machine."""
    accounting_group: OptionalStr = Field(default=None, pattern=r"^[A-Za-z0-9_.]+$")
    """The accounting group that jobs are charged to, beside their user. Blank: none."""
    token_file: WorkerPath
    """Path, on every worker, of a file with a token that has the executor role; readable by the jobs' account alone."""
    extra_path: Annotated[tuple[WorkerPath, ...], comma_separated] = ()
    """Directories of the workers that go before the usual ones on the executors' PATH: a list, or one string with
    commas."""
    cache_dir: OptionalWorkerPath = None
    """A directory of the workers that belongs to the jobs' account: the executor's code, and images of Apptainer, are
    kept there between jobs. Blank: the code is kept in the account's home, if it has one."""
    refdata_dir: OptionalWorkerPath = None
    """The directory of the workers that holds reference data. Blank: there is none at this site."""
    refdata_by: Literal["service", "refdata_service"] = "refdata_service"
    """Who brings reference data there: refdata_service (a reference data service) or service (this one, which must see
    the directory under the same path)."""
    mount_prefix: OptionalMountPrefix = None
    """For executors that run in a container beside those of the jobs: from:to, where the container engine sees the
    executor's directory "from" as "to". Blank: both see the same."""
    s3_address: Literal["external", "internal"] = "external"
    """At which address workers reach the object store: external (s3.external_endpoint) or internal (s3.endpoint)."""
    executor_url: OptionalUrl = None
    """The URL at which this site's executors reach the service. Blank: service.external_url."""
    executable_url: OptionalUrl = None
    """Where workers get executable.sh, if not from the service. It must be the service's own, byte for byte."""
    archive_url: OptionalUrl = None
    """Where workers get the executor's code, if not from the service. It must be the service's own, byte for byte."""
    shell: WorkerPath = "/bin/bash"
    """Path of bash on the workers."""
    python: OptionalWorkerPath = None
    """Path of the Python interpreter on the workers, 3.9 or later. Blank: found on PATH."""
    container_runtime: Literal["auto", "docker", "podman", "apptainer"] = "auto"
    """What runs containers: auto (the first that is found), docker, podman or apptainer."""
    container_runtime_path: OptionalWorkerPath = None
    """Path of the container runtime's program on the workers. Blank: found on PATH."""
    network: bool = False
    """Whether containers may use the network."""
    keep_trying: Duration = Field(default=timedelta(days=1), ge=timedelta(seconds=1))
    """How long an executor goes on trying while the service does not answer, in seconds or as an ISO 8601 duration."""
    executor_memory: ByteSize = Field(default=ByteSize(64_000_000), ge=0)
    """Memory that a job asks for beside its container's, for the executor, in bytes or with a unit such as "64MB"."""
    scratch: ByteSize = Field(default=ByteSize(1_000_000_000), ge=0)
    """Disk that a job asks for beside its inputs', for outputs and logs, in bytes or with a unit such as "1GB"."""
    transfer_time: Duration = Field(default=timedelta(days=1), ge=timedelta(minutes=1))
    """How long a job may take beside its container's runtime, for its inputs, its image and its outputs, before the
    pool ends it; keep_trying comes on top. In seconds or as an ISO 8601 duration."""
    vacate_time: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=15))
    """How long an executor has to stop its container when it is told to end, in seconds or as an ISO 8601 duration. The
    pool's own MachineMaxVacateTime may be shorter."""
    max_releases: int = Field(default=20, ge=0, le=100)
    """How often a job is released that is held for a reason which can pass, such as a failed transfer. The pauses grow
    from 5 seconds to 10 minutes, so that 20 times last two hours and a half."""
    idle_at_once: int = Field(default=200, ge=1)
    """How many containers of one job wait in the queue at once; the schedd makes the rest as these start."""
    timeout: Duration = Field(default=timedelta(seconds=20), ge=timedelta(seconds=1))
    """How long the pool may take to answer a question, in seconds or as an ISO 8601 duration."""
    submit_timeout: Duration = Field(default=timedelta(seconds=60), ge=timedelta(seconds=1))
    """How long the schedd may take to take in a job, in seconds or as an ISO 8601 duration."""

    @property
    def executor_time(self) -> timedelta:
        """The longest that an executor may go on beside its container's runtime."""
        return self.keep_trying + self.transfer_time


class JawsSite(SiteBase):
    """A site of JAWS."""

    kind: Literal["jaws"]
    """Which kind of engine runs the site's jobs, and so which other settings the site has: jaws, a site of JAWS."""
    gpus_per_node: int = Field(default=0, ge=0, le=0)
    """GPUs of a node: the most that a container may ask for. At JAWS sites there are none for our jobs."""
    jaws_site: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """What JAWS calls the site."""
    copy_refdata: bool = False
    """Whether JAWS must copy reference data from NERSC to the site, as it is elsewhere."""


SiteSettings = Annotated[LocalSite | HTCondorSite | JawsSite, Field(discriminator="kind")]
