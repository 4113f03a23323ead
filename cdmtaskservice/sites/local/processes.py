"""Processes of the local site: executors, which outlive the service, and short commands, which do not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cdmtaskservice
from cdmtaskservice.sites.base import Run
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.launcher import start_ticks
from cdmtaskservice.sites.local.runs import LOG, WORK, Process

_LAUNCHER = "cdmtaskservice.sites.local.launcher"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT = 4096
_KILL_WAIT = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended. code: None where it took too long and was killed; output: the last 4 KiB of what it said."""

    code: int | None
    output: str


def executor_environment(config: LocalSiteConfig) -> dict[str, str]:
    """What executors and their container runtime are given: nothing of the service's own settings."""
    package_parent = str(Path(cdmtaskservice.__file__).parents[1])
    environment = {
        "PATH": os.environ.get("PATH") or _DEFAULT_PATH,
        "HOME": os.environ.get("HOME") or str(Path.home()),
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        # Where rootless container engines keep their state.
        **({"XDG_RUNTIME_DIR": d} if (d := os.environ.get("XDG_RUNTIME_DIR")) else {}),
        **config.extra_environment,
        # The working directory is not looked into for modules.
        "PYTHONSAFEPATH": "1",
        # Else the executor would start itself anew for it, and the lock does not outlive that.
        "PYTHONUTF8": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (package_parent, environment.get("PYTHONPATH")) if p)
    return environment


def start_executor(
    config: LocalSiteConfig, environment: Mapping[str, str], run: Run, directory: Path, lock: int
) -> int:
    """Start the executor of a run in a session of its own, and give it the lock. Its process ID.

    Raises OSError, and then it is certain that there is no such process.
    """
    arguments = [
        config.python, "-m", _LAUNCHER, str(lock), str(directory), *config.executor,
        "--url", config.service_url,
        "--token-file", str(config.token_file),
        "--job", run.job_id,
        "--container", str(run.container),
        "--attempt", str(run.attempt),
        "--work-dir", str(directory / WORK),
        "--runtime", config.container_runtime,
        "--keep-trying", f"{config.keep_trying:.0f}",
        "--stop-grace", f"{config.grace * 2 / 3:.1f}",
    ]  # fmt: skip
    for option, path in (
        ("--runtime-path", config.container_runtime_path),
        ("--refdata-dir", config.refdata_dir),
        ("--cache-dir", config.cache_dir),
    ):
        if path is not None:
            arguments += [option, str(path)]
    with (directory / LOG).open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,
        )
    # It may outlive us on purpose: without this, Popen would warn of a child that is still running.
    process.returncode = 0
    return process.pid


def open_process(pid: int, ticks: int | None = None) -> int | None:
    """A descriptor that means this very process, readable when it has ended.

    ticks: when the process started, so that another one with the same ID is not taken for it. None where there is no
    such process, or where the kernel is older than 5.3.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    # Looked at after the descriptor was opened: from there on it cannot come to mean another process.
    if ticks is not None and start_ticks(pid) != ticks:
        os.close(descriptor)
        return None
    return descriptor


def send(descriptor: int | None, process: Process | None, signum: signal.Signals) -> bool:
    """Send a signal to the executor whose lock is held; false where it cannot be named yet."""
    with suppress(ProcessLookupError):
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signum)
            return True
        if process is not None and start_ticks(process.pid) == process.ticks:
            os.kill(process.pid, signum)
            return True
    return False


async def run_command(arguments: Sequence[str], environment: Mapping[str, str], limit: float) -> Outcome:
    """Run a command to its end, for at most `limit` seconds. Raises OSError where it cannot be started."""
    # A file rather than a pipe: whoever the command leaves behind cannot keep us waiting for its end.
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limit):
                code: int | None = await process.wait()
        except TimeoutError:
            code = None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KILL_WAIT):
                        await process.wait()
        return Outcome(code, _end_of(output))


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OUTPUT))
    return file.read(_OUTPUT).decode(errors="replace").strip()
