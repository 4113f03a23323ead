"""What an HTCondor site is told: which pool, how a job is submitted there, and what its workers have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdmtaskservice.sites.base import SiteInfo


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker of the pool has, and how it reaches the service. Paths are the workers'.

    service_url: where executors find the service. token_file: holds a token with the executor role.
    executable_url: where `executable.sh` is; archive_url: where the executor's code is, None for the service.
    shell: bash. python: the interpreter, None for the first of the PATH that will do. path: goes before the usual PATH.
    cache_dir: keeps the executor's code and images between jobs. refdata_dir: reference data, a directory for each ID.
    mount_prefix: (from, to), for executors in a container of their own beside the job's: the container engine sees the
    directory `from` as `to`.
    container_runtime: `auto`, `podman`, `docker` or `apptainer`; container_runtime_path: its executable.
    s3_url: where workers reach the object store.
    keep_trying: seconds for which an executor goes on asking a service that does not answer.
    stop_grace: seconds that a container has between SIGTERM and SIGKILL.
    """

    service_url: str
    token_file: str
    executable_url: str
    s3_url: str
    archive_url: str | None = None
    shell: str = "/bin/bash"
    python: str | None = None
    path: Sequence[str] = ()
    cache_dir: str | None = None
    refdata_dir: str | None = None
    mount_prefix: tuple[str, str] | None = None
    container_runtime: str = "auto"
    container_runtime_path: str | None = None
    keep_trying: float = 86400.0
    stop_grace: float = 10.0


@dataclass(frozen=True)
class HTCondorSiteConfig:
    """An HTCondor site's settings.

    info: what users are told.
    worker: what workers have.
    condor_config: configuration file for the bindings; None: as their environment says.
    collector: `host[:port]` of the pool's collector; None: COLLECTOR_HOST of the configuration.
    schedd: the name of the schedd; None: the configuration's, or the pool's only one.
    token_directory: holds an IDTOKEN; None: as the configuration says.
    initial_dir: a directory of the schedd's machine that the submitting account can write, which then keeps the
    executors' logs; None: they are not kept.
    client_group: a regular expression that a machine's CLIENTGROUP must match; None: any machine will do.
    accounting_group: what jobs are charged to; None: to the user alone.
    executor_memory, scratch: bytes of memory and disk that a job asks for beside its container's memory and inputs.
    transfer_time: seconds that a job may take beside its container's runtime, and beside the worker's `keep_trying`,
    before the pool ends it.
    vacate_time: seconds that an executor has to stop its container when it is told to end.
    max_starts: how often the pool starts one run's executor. max_releases: how often a held run is released.
    unmatched_after: seconds in the queue after which it is asked why a run has found no machine.
    idle_at_once: so many procs of a large cluster wait in the queue at once; the rest are made as these start.
    timeout: seconds for one call to the schedd or the collector. submit_timeout: for a submission.
    history_margin: seconds by which the schedd's clock and the service's may be apart.
    """

    info: SiteInfo
    worker: WorkerSetup
    condor_config: Path | None = None
    collector: str | None = None
    schedd: str | None = None
    token_directory: Path | None = None
    initial_dir: str | None = None
    client_group: str | None = None
    accounting_group: str | None = None
    executor_memory: int = 64_000_000
    scratch: int = 1_000_000_000
    transfer_time: float = 86400.0
    vacate_time: float = 60.0
    max_starts: int = 3
    max_releases: int = 20
    unmatched_after: float = 10.0
    idle_at_once: int = 200
    timeout: float = 20.0
    submit_timeout: float = 60.0
    history_margin: float = 3600.0
    extra_environment: Mapping[str, str] = field(default_factory=dict)
