"""Podman and Docker, by their command lines, which are nearly the same."""

from __future__ import annotations

import abc
import datetime
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from . import cgroups
from .commands import Completed, run_command
from .memory import Memory
from .outputs import readable_by_us
from .runtimes import CHECK_TIMEOUT, ContainerSpec, Inspection, Launch, Mount
from .stopping import Stop

LEAST_MEMORY = 8 * 1024 * 1024
"""Bytes. With less, no engine can start anything: Docker refuses under 6 MiB, runc needs 3 MiB itself."""

_PULL_TIMEOUT = 3600.0
_OWN_TIMEOUT = 600.0
_NO_SUCH = re.compile("no such (container|object)", re.IGNORECASE)


class Engine(abc.ABC):
    """What Podman and Docker have alike."""

    name = ""
    named = True
    pid_files = False

    def __init__(self, path: str, cgroup_parents: bool, assigned_gpus: str | None = None) -> None:
        self.path = path
        self.cgroup_parents = cgroup_parents
        self._assigned_gpus = [g for g in (assigned_gpus or "").split(",") if g]

    @property
    def tells_out_of_memory(self) -> bool:
        return True

    def has_image(self, image: str, stop: Stop) -> bool:
        return self._run(["image", "inspect", "--format", "{{.Id}}", image], CHECK_TIMEOUT, stop).ok

    def pull(self, image: str, stop: Stop) -> str:
        pulled = self._run(["pull", "--quiet", image], _PULL_TIMEOUT, stop)
        return "" if pulled.ok else pulled.err.strip() or f"exit code {pulled.code}"

    def launch(self, spec: ContainerSpec) -> Launch:
        argv = [
            self.path,
            "run",
            f"--name={spec.name}",
            "--pull=never",
            # The executor keeps the logs itself, up to a limit; the engine would keep them without one.
            "--log-driver=none",
            "--sig-proxy=false",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            *(["--security-opt=label=disable"] if _selinux_enforces() else []),
            f"--cpus={spec.cpus:g}",
            f"--memory={max(spec.memory, LEAST_MEMORY)}",
            f"--memory-swap={max(spec.memory, LEAST_MEMORY)}",
            f"--pids-limit={spec.pids}",
            *([] if spec.network else ["--network=none"]),
            *([f"--cgroup-parent={spec.cgroup_parent}"] if spec.cgroup_parent else []),
            *self._own_options(spec),
            *(self._gpus(spec.gpus) if spec.gpus else []),
            *(f"--mount={_mount(m)}" for m in spec.mounts),
            *(f"--env={name}={value}" for name, value in spec.environment.items()),
            # Ends the options: an image name never looks like one, but nothing has to be proved.
            "--",
            spec.image,
            *spec.args,
        ]
        return Launch(argv, {})

    def inspect(self, name: str) -> Inspection | None:
        asked = self._run(["container", "inspect", name], CHECK_TIMEOUT)
        if not asked.ok:
            return None
        try:
            state: dict[str, Any] = json.loads(asked.out)[0]["State"]
        except (ValueError, LookupError, TypeError):
            return None
        return Inspection(
            running=bool(state.get("Running")),
            exit_code=state.get("ExitCode"),
            started=_epoch(state.get("StartedAt")),
            finished=_epoch(state.get("FinishedAt")),
            out_of_memory=bool(state.get("OOMKilled")),
            pid=int(state.get("Pid") or 0),
        )

    def stop(self, name: str, grace: float) -> None:
        seconds = max(0, round(grace))
        if not self._run(["stop", f"--time={seconds}", name], seconds + CHECK_TIMEOUT).ok:
            self._run(["kill", name], CHECK_TIMEOUT)

    def remove(self, name: str) -> str:
        removed = self._run(["rm", "--force", *self._rm_options(), name], 2 * CHECK_TIMEOUT)
        return "" if removed.ok or _NO_SUCH.search(removed.err) else removed.err.strip() or f"exit code {removed.code}"

    def as_owner(self) -> Sequence[str]:
        return ()

    def own_outputs(self, directory: str) -> None:  # noqa: B027 - most engines leave nothing to do
        """Nothing to do: an engine that runs as root is used by an executor that is root."""

    def _run(self, args: Sequence[str], timeout: float, stop: Stop | None = None) -> Completed:
        return run_command([self.path, *args], timeout, stop)

    def _own_options(self, spec: ContainerSpec) -> Sequence[str]:
        return ()

    def _rm_options(self) -> Sequence[str]:
        return ()

    @abc.abstractmethod
    def _gpus(self, count: int) -> Sequence[str]:
        """The options that give a container so many GPUs."""


class Podman(Engine):
    """Podman 4.3 or later, as root or rootless."""

    name = "podman"
    pid_files = True

    @property
    def tells_out_of_memory(self) -> bool:
        """Without cgroups v2 a rootless container has no memory limit that it could be killed for."""
        return os.geteuid() == 0 or os.path.exists(f"{cgroups.ROOT}/cgroup.controllers")

    def has_image(self, image: str, stop: Stop) -> bool:
        return self._run(["image", "exists", image], CHECK_TIMEOUT, stop).ok

    def as_owner(self) -> Sequence[str]:
        return () if os.geteuid() == 0 else (self.path, "unshare")

    def own_outputs(self, directory: str) -> None:
        # Rootless, another user of the image is another sub-ID here; root of the user namespace is this process.
        foreign = self.as_owner() and not readable_by_us(directory)
        for change in (["chown", "-R", "-h", "0:0"], ["chmod", "-R", "u+rwX"]) if foreign else ():
            run_command([*self.as_owner(), *change, "--", directory], _OWN_TIMEOUT)

    def _own_options(self, spec: ContainerSpec) -> Sequence[str]:
        return (
            # The worker's proxy settings are its environment, and none of that is the container's.
            "--http-proxy=false",
            "--env-host=false",
            # conmon, outside of the cgroup whose memory is measured.
            *(["--cgroups=no-conmon"] if spec.cgroup_parent else []),
            # Where this executor is killed, the engine still ends the container.
            f"--timeout={spec.belt}",
            *([f"--pidfile={spec.pid_file}"] if spec.pid_file else []),
        )

    def _rm_options(self) -> Sequence[str]:
        return ("--time=0", "--ignore")

    def _gpus(self, count: int) -> Sequence[str]:
        # Devices by the Container Device Interface; those that the worker's own scheduler assigned, if it did.
        chosen = self._assigned_gpus[:count] if len(self._assigned_gpus) >= count else range(count)
        return [f"--device=nvidia.com/gpu={gpu}" for gpu in chosen]


class Docker(Engine):
    """Docker 20.10 or later."""

    name = "docker"

    def _gpus(self, count: int) -> Sequence[str]:
        if len(self._assigned_gpus) >= count:
            # The value is a CSV field of its own: the quotes keep its commas together.
            return ['--gpus="device={}"'.format(",".join(self._assigned_gpus[:count]))]
        return [f"--gpus={count}"]


def find_podman(path: str, memory: Memory, stop: Stop) -> Podman | str:
    """Podman at `path`, or what is wrong with it."""
    words = (memory.engine(path) or "").split()
    if len(words) != 2:
        asked = run_command(
            [path, "info", "--format", "{{.Host.CgroupManager}} {{.Host.Security.Rootless}}"], CHECK_TIMEOUT, stop
        )
        words = asked.out.split()
        if not asked.ok or len(words) != 2:
            return asked.err or f"exit code {asked.code}: {asked.out}"
        memory.learn_engine(path, asked.out)
    return Podman(path, words == ["cgroupfs", "false"] and os.geteuid() == 0, _assigned_gpus())


def find_docker(path: str, stop: Stop) -> Docker | str:
    """Docker at `path`, or what is wrong with it."""
    # `docker info` exits 0 without an engine; the server's version exists only where there is a server.
    asked = run_command([path, "info", "--format", "{{.ServerVersion}} {{.CgroupDriver}}"], CHECK_TIMEOUT, stop)
    words = asked.out.split()
    if not asked.ok or len(words) != 2:
        return asked.err or f"no engine answers: {asked.out}"
    return Docker(path, words[1] == "cgroupfs" and os.geteuid() == 0, _assigned_gpus())


def _assigned_gpus() -> str | None:
    """The GPUs that the worker's scheduler has assigned to this executor, as HTCondor and others say it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _mount(mount: Mount) -> str:
    fields = ["type=bind", f"src={mount.source}", f"dst={mount.target}"]
    return ",".join([*fields, "readonly"] if mount.read_only else fields)


def _selinux_enforces() -> bool:
    # Relabelling would rewrite the labels of reference data that every container shares.
    try:
        with open("/sys/fs/selinux/enforce") as setting:
            return setting.read().strip() == "1"
    except OSError:
        return False


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


def _epoch(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time with nanoseconds; None for the year 1, which means never."""
    match = _TIME.fullmatch(str(text))
    if not match or match[1] < "1970-01-02":
        return None
    zone = "+00:00" if match[4] == "Z" else match[4]
    whole = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").timestamp()
    return whole + float(f"0.{match[3] or 0}")
