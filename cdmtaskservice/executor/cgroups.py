"""What a container used, from the kernel's own counters.

As root, with an engine that takes a plain cgroup as a container's parent, the counters are exact: the executor makes
that parent, its counters hold everything below it, and they are still there when the container is gone. Otherwise the
container's own cgroup is read while it runs, and the last reading counts.

The engine cannot be asked whether memory ran out: Podman says no even when it did, and 137 is any kill. On cgroup v2
the parent counts such kills for its children. On v1 it does not; but a cgroup that runs into its own limit rings an
eventfd, so there the limit is set on the parent, and the container's own is one step higher.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

ROOT = "/sys/fs/cgroup"

V1_SLACK = 1 << 20
"""Bytes by which the container's own limit is above its parent's, on cgroup v1."""

_CLEAR_SECONDS = 5.0


@dataclass(frozen=True)
class Reading:
    """Counters of a container so far. memory: the most bytes at one time; cpu in seconds; kills for want of memory."""

    memory: int
    cpu: float
    out_of_memory: bool


class Meter(Protocol):
    """Measures one container."""

    parent: str | None
    """The cgroup to give to the engine as the container's parent."""
    exact: bool
    """Whether no kill for want of memory escapes it."""
    slack: int
    """Bytes that the container's own memory limit must be above the wanted one."""

    def watch(self, pid: int) -> None:
        """The container's first process is `pid`."""

    def read(self) -> Reading:
        """The counters now."""

    def close(self) -> None:
        """Remove what was made. Never raises."""


def meter_for(name: str, memory: int, parents: bool, root: str = ROOT) -> Meter:
    """The most exact meter that works here for the container `name`, limited to `memory` bytes.

    parents: whether the engine takes a plain cgroup as parent.
    """
    if parents:
        try:
            if os.path.exists(f"{root}/cgroup.controllers"):
                return ParentV2(name, root)
            return ParentV1(name, memory, root)
        except OSError:
            remove_cgroups(name, root)
    return Watcher(root)


def remove_cgroups(name: str, root: str = ROOT) -> None:
    """Remove the cgroup `name` from every hierarchy, with what is below it. Nothing there is fine."""
    deadline = time.monotonic() + _CLEAR_SECONDS
    while True:
        left = [p for p in _places(name, root) if not _removed(p)]
        if not left or time.monotonic() > deadline:
            return
        # The kernel lets go of processes that were just killed a moment later.
        time.sleep(0.05)


class ParentV1:
    """Exact, on cgroup v1: memory and CPU counters are in two hierarchies."""

    exact = True

    def __init__(self, name: str, memory: int, root: str) -> None:
        self.parent: str | None = f"/{name}"
        self.slack = V1_SLACK
        self._name, self._root = name, root
        self._memory, self._cpu = f"{root}/memory/{name}", f"{root}/cpuacct/{name}"
        self._bell = -1
        # One of the same name is left over from an executor that was killed; its counters would be counted too.
        remove_cgroups(name, root)
        os.mkdir(self._memory)
        os.mkdir(self._cpu)
        _write(f"{self._memory}/memory.limit_in_bytes", str(memory))
        with suppress(FileNotFoundError):
            _write(f"{self._memory}/memory.memsw.limit_in_bytes", str(memory))
        self._bell = _eventfd()
        try:
            control = os.open(f"{self._memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _write(f"{self._memory}/cgroup.event_control", f"{self._bell} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(self._bell)
            raise
        self._rung = False

    def watch(self, pid: int) -> None:
        """Not needed."""

    def read(self) -> Reading:
        with suppress(BlockingIOError):
            self._rung = bool(os.read(self._bell, 8)) or self._rung
        return Reading(
            _number(f"{self._memory}/memory.max_usage_in_bytes"),
            _number(f"{self._cpu}/cpuacct.usage") / 1e9,
            self._rung,
        )

    def close(self) -> None:
        os.close(self._bell)
        remove_cgroups(self._name, self._root)


class ParentV2:
    """Exact, on cgroup v2."""

    exact = True
    slack = 0

    def __init__(self, name: str, root: str) -> None:
        self.parent: str | None = f"/{name}"
        self._name, self._root = name, root
        self._directory = f"{root}/{name}"
        with suppress(OSError):
            _write(f"{root}/cgroup.subtree_control", "+cpu +memory +pids")
        remove_cgroups(name, root)
        os.mkdir(self._directory)
        # Raises where the memory controller cannot be had here.
        os.stat(f"{self._directory}/memory.events")
        self._most = 0

    def watch(self, pid: int) -> None:
        """Not needed."""

    def read(self) -> Reading:
        reading = _read_v2(self._directory)
        # Kernels before 5.19 have no peak: then the most that was ever seen counts.
        self._most = max(self._most, reading.memory)
        return Reading(self._most, reading.cpu, reading.out_of_memory)

    def close(self) -> None:
        remove_cgroups(self._name, self._root)


class Watcher:
    """The last reading of the container's own cgroup. A container shorter than a reading apart is not seen.

    A container of a rootless engine on cgroup v1 has none: it is in ours, among who knows what else. Then its first
    process is read, with the children that this has waited for.
    """

    parent: str | None = None
    exact = False
    slack = 0

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths: Mapping[str, str] = {}
        self._pid: int | None = None
        self._last = Reading(0, 0.0, False)

    def watch(self, pid: int) -> None:
        try:
            with open(f"/proc/{pid}/cgroup") as lines, open("/proc/self/cgroup") as own:
                paths, ours = parse_proc_cgroup(lines.read()), parse_proc_cgroup(own.read())
        except OSError:
            return
        shared = any(paths.get(c) == ours.get(c) for c in ("memory", "") if c in paths)
        self._pid, self._paths = (pid, {}) if shared else (None, paths)
        self.read()

    def read(self) -> Reading:
        now = self._now()
        self._last = Reading(
            max(self._last.memory, now.memory),
            max(self._last.cpu, now.cpu),
            self._last.out_of_memory or now.out_of_memory,
        )
        return self._last

    def _now(self) -> Reading:
        memory, cpu = self._paths.get("memory"), self._paths.get("cpuacct")
        if memory is not None and cpu is not None:
            directory = f"{self._root}/memory{memory}"
            return Reading(
                _number(f"{directory}/memory.max_usage_in_bytes"),
                _number(f"{self._root}/cpuacct{cpu}/cpuacct.usage") / 1e9,
                _keyed(f"{directory}/memory.oom_control").get("oom_kill", 0) > 0,
            )
        if self._pid is not None:
            return _read_process(self._pid)
        unified = self._paths.get("")
        return _read_v2(f"{self._root}{unified}") if unified else Reading(0, 0.0, False)

    def close(self) -> None:
        """Nothing was made."""


def parse_proc_cgroup(text: str) -> Mapping[str, str]:
    """The paths in the text of /proc/PID/cgroup by controller; that of cgroup v2 under the empty name."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _read_v2(directory: str) -> Reading:
    peak = _number(f"{directory}/memory.peak") or _number(f"{directory}/memory.current")
    cpu = _keyed(f"{directory}/cpu.stat").get("usage_usec", 0) / 1e6
    return Reading(peak, cpu, _keyed(f"{directory}/memory.events").get("oom_kill", 0) > 0)


def _read_process(pid: int) -> Reading:
    """Source: proc(5), the fields utime to cstime of /proc/PID/stat, and VmHWM in KiB."""
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status:
            ticks = sum(int(n) for n in stat.read().rpartition(")")[2].split()[11:15])
            peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except (OSError, ValueError, LookupError):
        return Reading(0, 0.0, False)
    return Reading(peak * 1024, ticks / os.sysconf("SC_CLK_TCK"), False)


def _eventfd() -> int:
    if hasattr(os, "eventfd"):
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    # Python 3.9.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd


def _places(name: str, root: str) -> Sequence[str]:
    """Where the cgroup `name` is: on v2 at the root, on v1 in each hierarchy."""
    candidates = [f"{root}/{name}"]
    with suppress(OSError):
        candidates += [f"{root}/{hierarchy}/{name}" for hierarchy in os.listdir(root)]
    # A hierarchy may have several names, of which all but one are links.
    return sorted({os.path.realpath(c) for c in candidates if os.path.isdir(c)})


def _removed(directory: str) -> bool:
    for below, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):
            os.rmdir(below)
    return not os.path.isdir(directory)


def _write(path: str, value: str) -> None:
    with open(path, "w") as setting:
        setting.write(value)


def _number(path: str) -> int:
    try:
        with open(path) as counter:
            return int(counter.read())
    except (OSError, ValueError):
        return 0


def _keyed(path: str) -> Mapping[str, int]:
    """The numbers in a file of lines `key value`."""
    try:
        with open(path) as counters:
            return {key: int(value) for key, value in (line.split() for line in counters) if value.isdigit()}
    except (OSError, ValueError):
        return {}
