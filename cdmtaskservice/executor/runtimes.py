"""What a container runtime must be able to do, and which one this worker has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .failures import ContainerFailure
from .memory import Memory
from .stopping import Stop

CHOICES = ("auto", "podman", "docker", "apptainer")

CHECK_TIMEOUT = 30.0
"""Seconds for a command that only asks the engine something."""


@dataclass(frozen=True)
class Mount:
    """A directory of the worker, and where the container sees it."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class ContainerSpec:
    """One container to run. memory: bytes. belt: seconds after which the engine itself ends it, if it can."""

    name: str
    image: str
    args: Sequence[str]
    environment: Mapping[str, str]
    mounts: Sequence[Mount]
    cpus: float
    memory: int
    pids: int
    gpus: int
    network: bool
    belt: int
    cgroup_parent: str | None
    pid_file: str | None


@dataclass(frozen=True)
class Launch:
    """How to run a container in the foreground: the command, and what it adds to the worker's environment."""

    argv: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Inspection:
    """What the engine says of a container. Times in seconds since the epoch; pid on the worker, 0 when it is over."""

    running: bool
    exit_code: int | None
    started: float | None
    finished: float | None
    out_of_memory: bool
    pid: int


class Runtime(Protocol):
    """One engine. Commands that fail raise ContainerFailure unless they say otherwise."""

    name: str
    path: str
    cgroup_parents: bool
    """Whether a plain cgroup path can be given as a container's parent, and is on this machine."""
    pid_files: bool
    """Whether the engine writes the ID of a container's first process to `ContainerSpec.pid_file` when there is one."""
    named: bool
    """Whether the engine knows the container by name; else the container is the launched process and its children."""

    @property
    def tells_out_of_memory(self) -> bool:
        """Whether an inspection may know of a kill for want of memory that no counter of ours has seen."""

    def has_image(self, image: str, stop: Stop) -> bool:
        """Whether `image`, by digest, is here."""

    def pull(self, image: str, stop: Stop) -> str:
        """Try once to get `image`. Empty when it is here now, else what the engine said."""

    def launch(self, spec: ContainerSpec) -> Launch:
        """How to run `spec`."""

    def inspect(self, name: str) -> Inspection | None:
        """What is known of the container; None where there is none of that name."""

    def stop(self, name: str, grace: float) -> None:
        """TERM, and KILL after `grace` seconds. Never raises."""

    def remove(self, name: str) -> str:
        """Kill and remove, if it is there. Empty when there is none any more, else what the engine said."""

    def as_owner(self) -> Sequence[str]:
        """A command that runs another as root of the containers' user namespace; empty where there is none."""

    def own_outputs(self, directory: str) -> None:
        """Make what a container left in `directory` readable by this process, as far as that needs the engine."""


def find_runtime(choice: str, path: str | None, cache: str | None, memory: Memory, stop: Stop) -> Runtime:
    """The runtime named by `choice`, or the first that works. `path` is the command to use instead of its name.

    A command that exists proves nothing: a docker client without an engine is common. So each is asked.
    Raises ContainerFailure with what each of them said.
    """
    from .apptainer import find_apptainer
    from .engines import find_docker, find_podman

    if path and choice == "auto":
        base = os.path.basename(path)
        choice = next((c for c in CHOICES[1:] if c in base), "auto")
        if choice == "auto":
            raise ContainerFailure(
                "This worker is not set up right. It is not the job's fault.",
                f"--runtime-path {path} does not say which runtime it is; name it with --runtime",
            )
    said = []
    for name in CHOICES[1:] if choice == "auto" else (choice,):
        command = path or name
        found: Runtime | str
        if name == "podman":
            found = find_podman(command, memory, stop)
        elif name == "docker":
            found = find_docker(command, stop)
        else:
            found = find_apptainer(command, cache, stop)
        if not isinstance(found, str):
            return found
        said.append(f"{command}: {found.strip()}")
    raise ContainerFailure(
        "This worker has no container runtime that works. It is not the job's fault.",
        "no container runtime works: " + "; ".join(said),
    )


def known_runtime(name: str, path: str) -> Runtime:
    """The runtime that an earlier executor used, to clean up after it. It is not asked whether it works."""
    from .apptainer import Apptainer
    from .engines import Docker, Podman

    if name == "apptainer":
        return Apptainer(path, "")
    return Docker(path, False) if name == "docker" else Podman(path, False)
