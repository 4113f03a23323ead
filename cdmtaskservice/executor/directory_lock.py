"""A directory that one process at a time works in: it holds the lock on the file `lock` there."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress

LOCK = "lock"


class Held(Exception):
    """Another process holds the directory."""


class HeldDirectory:
    """A directory that this process holds, until it is released or removed."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def hold(cls, path: str, create: bool) -> HeldDirectory | None:
        """Hold the directory, made first with `create`; else None where there is no lock in it. Raises Held."""
        file = os.path.join(path, LOCK)
        while True:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(path, 0o700)
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            try:
                lock = os.open(file, flags, 0o600)
            except FileNotFoundError:
                if create:
                    continue  # who held it has just removed the directory
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The lock may be on a file that its last holder removed, while the next one has made another.
                if os.path.samestat(os.fstat(lock), os.lstat(file)):
                    return cls(path, lock)
            except BlockingIOError:
                os.close(lock)
                raise Held(f"{file} is locked by another process") from None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove all that is in it but the lock and the names in `keep`."""
        for name in os.listdir(self.path):
            if name != LOCK and name not in keep:
                path = os.path.join(self.path, name)
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)

    def remove(self) -> None:
        """Remove it with all that is in it. The lock goes last: whoever comes then finds nothing of ours."""
        self.clear()
        os.unlink(os.path.join(self.path, LOCK))
        with suppress(OSError):  # the next one is there already
            os.rmdir(self.path)
        self.release()

    def release(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
