"""Child processes that end with this one, and containers that do not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_CLEAN_WITHIN = 30.0


def dying_with_us(argv: Sequence[str]) -> list[str]:
    """A command that the kernel kills when the thread ends that started it: start it in the main thread."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *argv]


def kill_group(process: asyncio.subprocess.Process | None) -> None:
    """Kill a process that leads its session, with all of its group."""
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def find_containers(podman: Path, label: str) -> list[str]:
    """The IDs of the containers with a label. Raises: subprocess.TimeoutExpired, OSError."""
    argv = [str(podman), "ps", "--all", "--quiet", "--filter", f"label={label}"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_CLEAN_WITHIN)
    return listed.stdout.split()


def remove_containers(podman: Path, label: str) -> None:
    """Kill and remove the containers with a label. Raises: subprocess.TimeoutExpired, OSError."""
    if ids := find_containers(podman, label):
        argv = [str(podman), "rm", "--force", "--time", "0", *ids]
        subprocess.run(argv, capture_output=True, check=False, timeout=_CLEAN_WITHIN)
