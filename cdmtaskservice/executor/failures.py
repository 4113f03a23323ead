"""Why a container fails, and why an executor ends before its container is over.

Two families. A `ContainerFailure` is the container's own end: it is reported to the service, to the job's owner in
words and to administrators in full. An `Ended` is the executor's: the container is not ours to finish, so it is
stopped and everything is cleaned up; its `exit_code` is the executor's.
"""

from __future__ import annotations

import errno
import signal

EXIT_DONE = 0
"""The service knows how the container ended, or no longer wants to know."""
EXIT_BAD_TOKEN = 2
EXIT_USAGE = 64
EXIT_INTERNAL = 70
"""A fault of the executor that could not be reported."""
EXIT_GAVE_UP = 75
"""The service did not answer for as long as the executor was told to keep trying, or the work directory is in use."""


HELD = "held"
LATER = "later"
RENEWED = "renewed"
ABSENT = "absent"


class ContainerFailure(Exception):
    """The container cannot go on. `error` is for the job's owner, `admin_error` for administrators.

    again: where a task failed and may be tried once more: `LATER`, as something did not answer; `RENEWED`, with other
    URLs, as these were refused; `ABSENT`, as what is looked for may be about to come; `HELD`, as another process works
    on the same.
    """

    def __init__(self, error: str, admin_error: str | None = None, again: str | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.admin_error = admin_error
        self.again = again


class NotStarted(ContainerFailure):
    """The engine did not start the container at all. image_missing: for want of its image."""

    def __init__(self, error: str, admin_error: str, image_missing: bool = False) -> None:
        super().__init__(error, admin_error)
        self.image_missing = image_missing


class Ended(Exception):
    """The executor must end now, whatever it is doing."""

    exit_code = EXIT_DONE


class StoppedByService(Ended):
    """The answer to a heartbeat said stop."""


class NotOurs(Ended):
    """The service says that this container is cancelled, superseded or over."""


class BadToken(Ended):
    """The service refused the token."""

    exit_code = EXIT_BAD_TOKEN


class GaveUp(Ended):
    """The service did not answer for too long."""

    exit_code = EXIT_GAVE_UP


class EndedByEngine(Ended):
    """A signal told the executor to end: its exit code is 128 and the signal's number, as a shell would say it."""

    def __init__(self, signum: int) -> None:
        self.signal_name = signal.Signals(signum).name
        super().__init__(f"the executor was told to end by {self.signal_name}")
        self.exit_code = 128 + signum


def failure_of(error: BaseException) -> ContainerFailure:
    """The failure to report for any exception, with words for the owner where the cause is known."""
    if isinstance(error, ContainerFailure):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ContainerFailure(
            "The worker's disk was full. Ask for less data per container, or try again later.",
            f"no space left on the worker: {error}",
        )
    return ContainerFailure(
        "The worker failed to run this container. It is not the job's fault; the administrators see the cause.",
        f"{type(error).__name__}: {error}",
    )
