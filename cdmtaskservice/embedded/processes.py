"""Processes of this machine, told by an argument that no other process has; for what is not our own child."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_POLL = 0.01


def running(argument: str) -> list[int]:
    """The IDs of the processes with such an argument; one that has ended and waits to be noticed is none."""
    wanted = argument.encode()
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if wanted in (directory / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(directory.name))
    return sorted(found)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal; no effect on processes that have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def suspend(argument: str, within: float) -> None:
    """Stop all processes with such an argument; returns when every thread of them has stopped."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        pids = [pid for pid in running(argument) if not _is_stopped(pid)]
        if not pids:
            return
        send(pids, signal.SIGSTOP)
        time.sleep(_POLL)
    raise TimeoutError(f"{argument} could not be suspended within {within:.0f} s")


def _is_stopped(pid: int) -> bool:
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)
