"""The sites that jobs can be sent to, a model a kind.

A new kind is a subclass of `SiteBase` with a `kind` of its own, named in the union `SiteSettings`.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationInfo, field_validator

from cdmtaskservice.settings.section import Section
from cdmtaskservice.settings.values import (
    AbsolutePath,
    Duration,
    OptionalInt,
    OptionalPath,
    OptionalUrl,
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
    def cpus_at_once(self) -> int:
        """How many CPUs' worth of containers run at once."""
        return self.cpus or self.cpus_per_node


# One kind so far: a further one is joined as `LocalSite | OtherSite`, and nothing else needs to change.
SiteSettings = Annotated[LocalSite, Field(discriminator="kind")]
