"""What the local site is told: where, how much, and how an executor is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cdmtaskservice.sites.base import SiteInfo


@dataclass(frozen=True)
class LocalSiteConfig:
    """The local site's settings.

    info: what users are told. Its `gpus_per_node` also bounds the GPUs in use.
    work_dir: the engine's state, on a local disk (not shared between machines), absolute.
    cpus: at most so many CPUs' worth of containers run at once.
    service_url: where executors find the service.
    token_file: holds a token with the executor role, absolute.
    container_runtime: `auto`, `podman`, `docker` or `apptainer`; container_runtime_path: its executable.
    keep_trying: seconds for which an executor goes on asking a service that does not answer.
    python: the interpreter of the executors; it needs `awscrt`.
    refdata_dir: holds reference data, a directory for each ID. cache_dir: what an Apptainer keeps of images.
    grace: seconds between SIGTERM and SIGKILL; two thirds of it are the container's own.
    stop_with_service: whether running executors end when the service stops, rather than run on.
    extra_environment: given to the executors beside PATH, HOME and LANG.
    memory: bytes of memory that may be in use at once, None for no bound.
    min_free_disk: bytes; below it nothing is started.
    cleanup_timeout: seconds for one try to remove what a killed executor left.
    health_interval: seconds between two checks of the container runtime and the disk.
    log_retention: seconds for which the logs of failed executors are kept; log_space: bytes of all of them.
    executor: the executor as arguments of `python`: `-m MODULE`, or a script.
    """

    info: SiteInfo
    work_dir: Path
    cpus: int
    service_url: str
    token_file: Path
    container_runtime: str = "auto"
    container_runtime_path: Path | None = None
    refdata_dir: Path | None = None
    cache_dir: Path | None = None
    keep_trying: float = 86400.0
    python: str = sys.executable
    grace: float = 15.0
    stop_with_service: bool = False
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    min_free_disk: int = 1 << 30
    cleanup_timeout: float = 300.0
    health_interval: float = 60.0
    log_retention: float = 30 * 86400.0
    log_space: int = 64 << 20
    executor: tuple[str, ...] = ("-m", "cdmtaskservice.executor")
