"""What a killed executor leaves on its worker: what it notes beforehand, and how that is ended."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass

from .cgroups import remove_cgroups
from .jsonlog import Log
from .runtimes import known_runtime


@dataclass(frozen=True)
class Leftovers:
    """What a killed executor leaves outside of its work directory.

    container: its name at the engine, and of its cgroup. process: the engine's client, with the time of its start as
    /proc/PID/stat gives it, so that another process with the same number is never taken for it.
    """

    container: str | None = None
    runtime: str | None = None
    runtime_path: str | None = None
    process: tuple[int, str] | None = None

    def written(self) -> str:
        """The note of it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, note: str) -> Leftovers:
        """What stands in the note. One that was cut short says nothing."""
        try:
            noted = json.loads(note)
            process = noted.get("process")
            return cls(
                noted.get("container"),
                noted.get("runtime"),
                noted.get("runtime_path"),
                (int(process[0]), str(process[1])) if process else None,
            )
        except (ValueError, AttributeError, LookupError, TypeError):
            return cls()

    def end(self, log: Log) -> bool:
        """Remove the container, with its process and its cgroup; whether it is gone. Safe to repeat."""
        if self.container and self.runtime and self.runtime_path:
            said = known_runtime(self.runtime, self.runtime_path).remove(self.container)
            if self.process:
                end_process(*self.process)
            if said:
                log.event("container_not_removed", container_name=self.container, said=said)
                return False
            remove_cgroups(self.container)
        return True


def end_process(pid: int, start: str) -> None:
    """Kill the process group of `pid`, if that is still the process that started at `start`."""
    if start and process_start(pid) == start:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def process_start(pid: int) -> str:
    """When process `pid` started, in the kernel's terms; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            # The name before the last parenthesis may hold anything.
            return stat.read().rpartition(")")[2].split()[19]
    except (OSError, LookupError):
        return ""
