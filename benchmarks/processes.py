"""What processes use of CPUs and memory, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with its threads, without its children. 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The second column is a name, which may have anything in it, in parentheses.
    columns = text.rpartition(")")[2].split()
    return (int(columns[11]) + int(columns[12])) / _TICKS


def machine_cpu_seconds() -> float:
    """CPU time of everything on this machine since it booted, all CPUs together."""
    columns = [int(c) for c in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = columns
    return (user + nice + system + irq + softirq) / _TICKS


def memory_mib(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process, in MiB; PSS counts shared pages in proportion."""
    found = {"Rss": 0.0, "Pss": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024 / _MIB
    return found["Rss"], found["Pss"]


class CpuWatch:
    """Tells which processes used how many CPUs since it was made."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        """pids: by what a reader calls them; a None is left out."""
        self._pids = {name: pid for name, pid in pids.items() if pid is not None}
        self._begun = time.monotonic()
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        self._machine = machine_cpu_seconds()

    def cpus(self) -> dict[str, float]:
        """CPUs in use on average: of each process, and of `others`, whatever else runs on this machine."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        used = {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}
        others = machine_cpu_seconds() - self._machine - sum(used.values())
        return {name: s / seconds for name, s in used.items()} | {"others": max(0.0, others / seconds)}


def load_average() -> float:
    """Over the last minute."""
    with suppress(OSError):
        return os.getloadavg()[0]
    return 0.0
