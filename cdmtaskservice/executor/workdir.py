"""The work directory: what is where, who holds it, and how it goes away again.

DIRECTORY/executor.json   what must be cleaned up if the executor is killed; also marks the directory as ours
DIRECTORY/executor.lock   held by the living executor
DIRECTORY/executor.pid    the ID of the container's first process, where the engine writes it
DIRECTORY/input, output   the container's mounts
DIRECTORY/log             stdout, stderr
DIRECTORY/aside           downloads before they are verified
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress

from .commands import run_command
from .leftovers import Leftovers

_REMOVE_TIMEOUT = 3600.0
_LEAST_ROOM = 1 << 16


class WorkDirError(Exception):
    """The directory cannot be used. The message says why."""


class WorkDirBusy(WorkDirError):
    """A living executor holds the directory."""


class WorkDir:
    """A work directory, locked for this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.input = os.path.join(path, "input")
        self.output = os.path.join(path, "output")
        self.log = os.path.join(path, "log")
        self.aside = os.path.join(path, "aside")
        self.pid_file = os.path.join(path, "executor.pid")
        self._state = os.path.join(path, "executor.json")
        self._lock = -1

    @classmethod
    def hold(cls, path: str, create: bool) -> WorkDir | None:
        """Lock the directory, made first with `create`; None where there is nothing and nothing is to be made.

        Raises WorkDirError for a directory that is not an executor's, or that a living executor holds.
        """
        work = cls(os.path.abspath(path))
        if any(c in work.path for c in ',"\n'):
            raise WorkDirError(f"the work directory {work.path!r} has a character that no mount can have")
        if create:
            os.makedirs(work.path, mode=0o700, exist_ok=True)
        elif not os.path.isdir(work.path):
            return None
        entries = os.listdir(work.path)
        if entries and not {"executor.json", "executor.lock"}.intersection(entries):
            raise WorkDirError(f"{work.path} is not empty and not an executor's work directory: name another one")
        lock = os.open(os.path.join(work.path, "executor.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise WorkDirBusy(f"an executor is running in {work.path}: end it first") from None
        work._lock = lock
        return work

    def used(self) -> bool:
        """Whether an earlier executor has been at work here."""
        return set(os.listdir(self.path)) != {"executor.lock"}

    def leftovers(self) -> Leftovers:
        """What an earlier executor noted here, if there was one."""
        try:
            with open(self._state) as state:
                return Leftovers.read(state.read())
        except (OSError, ValueError):
            return Leftovers()

    def note(self, leftovers: Leftovers) -> None:
        """Write down what must be cleaned up, before there is anything to clean up."""
        aside = self._state + ".new"
        with open(aside, "w") as state:
            state.write(leftovers.written())
        os.replace(aside, self._state)

    def lay_out(self) -> None:
        """Make the empty directories. The image's user may be anyone, so anyone may write outputs; but no other user
        of the worker comes through the directory above."""
        os.chmod(self.path, 0o700)
        for directory, mode in ((self.input, 0o755), (self.log, 0o700), (self.aside, 0o700), (self.output, 0o777)):
            os.mkdir(directory)
            # The umask does not count here.
            os.chmod(directory, mode)

    def remove(self, unshare: Sequence[str] = ()) -> bool:
        """Remove the directory with all that is in it, whoever owns it; whether nothing is left.

        The note goes last: as long as anything is there, it says what. unshare: a command that runs another one as
        root of the user namespace whose users own files here.
        """
        contents = [self.input, self.output, self.log, self.aside]
        remove, open_up = ["rm", "-rf"], ["chmod", "-R", "u+rwX"]
        for command in (remove, [*unshare, *open_up], [*unshare, *remove]):
            # rm, since it goes down directories nested deeper than Python can. Without root, a directory that cannot
            # be read must be opened up by its owner first.
            run_command([*command, "--", *contents], _REMOVE_TIMEOUT)
            if not any(os.path.lexists(c) for c in contents):
                break
        with suppress(OSError):
            for name in os.listdir(self.path):
                if name.startswith("executor.") and not any(os.path.lexists(c) for c in contents):
                    os.unlink(os.path.join(self.path, name))
            os.rmdir(self.path)
        self.release()
        return not os.path.lexists(self.path)

    def release(self) -> None:
        """Let another executor have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def disk_full(path: str) -> bool:
    """Whether the file system of `path` has no room left for anybody but root."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize < _LEAST_ROOM or (space.f_files > 0 and space.f_favail == 0)
