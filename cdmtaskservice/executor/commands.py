"""Commands of the container engine: argument lists, a time limit, and an end when the executor must stop."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .stopping import Stop

SETTINGS_PREFIX = "CTS_EXECUTOR_"
"""Environment variables of this name are the executor's settings, and nobody else's."""

_POLL = 0.05


@dataclass(frozen=True)
class Completed:
    """How a command ended. code: its exit code, negative for a signal; out, err: what it wrote."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0


def run_command(
    argv: Sequence[str],
    timeout: float,
    stop: Stop | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run `argv` to its end, at most `timeout` seconds; then it is killed and has code -9.

    With `stop`, ends early and raises its reason. A command that does not exist has code 127. `environment` is added
    to the worker's.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**clean_environment(), **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        return Completed(127, "", f"{argv[0]}: {error.strerror}")
    with process:
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    # The first wait is the whole one where nothing can interrupt it.
                    out, err = process.communicate(timeout=_POLL if stop else timeout)
                    break
                except subprocess.TimeoutExpired:
                    if stop:
                        stop.check()
                    if time.monotonic() >= deadline:
                        process.kill()
                        out, err = process.communicate()
                        err += f"\nkilled after {timeout:.0f} s without an end".encode()
                        break
        except BaseException:
            process.kill()
            raise
    return Completed(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def clean_environment() -> dict[str, str]:
    """The worker's environment without the executor's own settings. For engines; a container never sees any of it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS_PREFIX)}
