"""Whether a container that has ended did well, and why not."""

from __future__ import annotations

import signal
from contextlib import suppress

from .container import Ran
from .failures import ContainerFailure, failure_of
from .logs import cut_mark
from .order import Limits

_NEARLY_ALL = 0.98

LOGS_SAY_WHY = "Its logs say why."

_LONGEST_LINE = 200
"""Characters of a container's own words in what its owner is told."""


def judged(ran: Ran, limits: Limits, stderr_tail: str, disk_is_full: bool) -> ContainerFailure | None:
    """Why the container failed, or None. What it did first counts: out of memory before out of time.

    A process that was killed for want of memory fails the container even where that exits 0: a shell goes on after a
    dead child, with half of its data.
    """
    admin = (
        f"exit code {ran.exit_code}, {ran.usage.wall_seconds} s, {ran.usage.cpu_seconds} s of CPU, at most "
        f"{ran.usage.max_memory} bytes; the end of stderr:\n{stderr_tail}"
    )
    if ran.out_of_memory or (
        # Where no counter tells of the kill, a kill with all memory in use was for memory.
        not ran.memory_known
        and ran.exit_code == 128 + signal.SIGKILL
        and not ran.past_runtime
        and ran.usage.max_memory >= _NEARLY_ALL * limits.memory
    ):
        return ContainerFailure(
            f"The container used more than its memory limit of {limits.memory / 1e6:.15g} MB and was stopped. "
            "Ask for more memory, or give each container less data.",
            admin,
        )
    if ran.past_runtime:
        return ContainerFailure(
            f"The container ran past its runtime of {duration(limits.runtime)} and was stopped. "
            "Ask for a longer runtime, or give each container less data.",
            admin,
        )
    if ran.exit_code:
        full = ["The worker's disk is full, which may be the reason."] if disk_is_full else []
        return ContainerFailure(exited(ran.exit_code, stderr_tail, LOGS_SAY_WHY, *full), admin)
    if ran.log_error is not None:
        return failure_of(ran.log_error)
    return None


def exited(exit_code: int, stderr_tail: str, *more: str) -> str:
    """What the owner of a container is told whose program failed. more: sentences to say before the program's own."""
    words = [f"The container exited with exit code {exit_code}{_signal(exit_code)}.", *more]
    last = _last_line(stderr_tail)
    return " ".join([*words, f'The last line of stderr: "{last}"'] if last else words)


def duration(seconds: float) -> str:
    """`seconds` as people say it: 1 h 30 min, 90.5 s."""
    if seconds < 120 or seconds != int(seconds):
        return f"{seconds:g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n)


def _last_line(text: str) -> str:
    """The last line by which a program says something, fit for an error: no control characters, and not too long."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in reversed(text.splitlines()))
    # Apptainer tells on the same stream what it does itself.
    last = next((line for line in lines if line and not line.startswith("INFO:    ")), "")
    if last.startswith(cut_mark("stderr")):
        return ""  # how it went on is not known
    # The end says more, and of a line that is very long only that is at hand.
    return last if len(last) <= _LONGEST_LINE else f"…{last[-_LONGEST_LINE:]}"


def _signal(exit_code: int) -> str:
    with suppress(ValueError):
        if exit_code > 128:
            return f" ({signal.Signals(exit_code - 128).name})"
    return ""
