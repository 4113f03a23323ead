"""A directory that holds reference data, and which of several processes is who there. Everything here may block."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

_MOST_PROCESSES = 64


class StoreUnusableError(Exception):
    """The directory cannot be written to."""


class Store:
    """The reference data of one site, below one directory.

    Who works there is known by a name that lies in the directory and is locked: a process that was killed is the same
    one again when it comes back, and goes on with what it had taken; two at once are two.
    """

    def __init__(self, site: str, directory: Path) -> None:
        """directory: absolute. It must be there: where it is not, its file system is not mounted."""
        self.site = site
        self.root = directory
        self.claim = ""
        self._directory = directory
        self._lock: int | None = None

    def open(self) -> None:
        """Take a name; without effect where that was done. Raises: StoreUnusableError."""
        if self._lock is not None:
            return
        try:
            self.root = self._directory.resolve(strict=True)
            own = self.root / ".cts"
            own.mkdir(exist_ok=True)
            own.chmod(0o755)  # whatever the umask is: manifests are for everybody
            services = own / "services"
            _make_private(services)
            for number in range(_MOST_PROCESSES):
                fd = os.open(services / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    continue
                self.claim = os.pread(fd, 100, 0).decode() or self._named(fd)
                self._lock = fd
                return
        except (OSError, UnicodeError) as e:
            raise StoreUnusableError(
                f"{self._directory} cannot be used for the reference data of {self.site}: {e}"
            ) from e
        raise StoreUnusableError(f"more than {_MOST_PROCESSES} processes work in {self.root}")

    def close(self) -> None:
        """Let go of the name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def new_task_dir(self) -> Path:
        """A new directory for a task. A process that was begun before this one was killed may still write in its own.

        Raises OSError.
        """
        for directory in (self._tasks.parent, self._tasks):
            _make_private(directory)
        directory = self._tasks / secrets.token_hex(8)
        _make_private(directory)
        return directory

    def forget_tasks(self, wanted: Collection[Path]) -> None:
        """Remove the directories of this process's tasks that are none of these."""
        for directory in self._tasks.iterdir() if self._tasks.is_dir() else ():
            if directory not in wanted:
                shutil.rmtree(directory, ignore_errors=True)

    @property
    def _tasks(self) -> Path:
        return self.root / ".cts/tasks" / self.claim

    @staticmethod
    def _named(fd: int) -> str:
        name = secrets.token_hex(16)
        os.pwrite(fd, name.encode(), 0)
        return name


def _make_private(directory: Path) -> None:
    """Make a directory, if it is missing, that only its owner can use, whatever the umask is."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o700)
