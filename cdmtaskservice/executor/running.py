"""Notes of the containers that run on this worker, so that one whose executor was killed is not left to run on.

An engine that kills an executor may remove its work directory too, and with it the note in there. So there is another
one below the cache directory, DIRECTORY/running/CONTAINER.json. Its executor holds a lock on it for as long as it
lives, and every executor that starts looks for notes whose lock is free.

Whoever acts on a note holds its lock, and has looked again whether the file that it locked still is the note: others
may be at it, and remove it when they are done.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
import time
from contextlib import suppress

from .jsonlog import Log
from .leftovers import Leftovers
from .memory import boot_id

_LONGEST = 1 << 16
_TRIES = 25
_PAUSE = 0.02


class RunningNote:
    """The note of one container, locked for this process. Nothing raises: a container runs as well without."""

    def __init__(self, path: str, lock: int) -> None:
        self._path = path
        self._lock = lock

    @classmethod
    def hold(cls, cache: str, container: str, log: Log) -> RunningNote | None:
        """Begin a note, empty yet. None where that cannot be; the log says why."""
        path = os.path.join(cache, "running", f"{container}.json")
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            if not _ours(os.stat(os.path.dirname(path))):
                raise PermissionError("others can write in its directory")
            for _ in range(_TRIES):
                lock = _locked(path, os.O_CREAT)
                if lock is not None:
                    return cls(path, lock)
                # Another executor looks whether this note is one of a dead one.
                time.sleep(_PAUSE)
            raise BlockingIOError("another executor holds it")
        except OSError as error:
            log.event("running_note_failed", note=path, error=str(error))
            return None

    def write(self, leftovers: Leftovers) -> None:
        """Say what is to be ended if this process cannot do it. Nothing to be ended: remove the note."""
        if not leftovers.container:
            self.remove()
            return
        note = {**json.loads(leftovers.written()), "worker": _worker()}
        data = json.dumps(note).encode()
        with suppress(OSError):
            # In this order, so that there is a whole note at any time.
            os.pwrite(self._lock, data.ljust(os.fstat(self._lock).st_size), 0)

    def remove(self) -> None:
        """The container is gone."""
        if self._lock >= 0:
            with suppress(OSError):
                os.unlink(self._path)
            os.close(self._lock)
            self._lock = -1


def sweep_in_background(cache: str | None, log: Log) -> None:
    """End what killed executors have left on this worker, some time soon."""
    if cache:
        threading.Thread(target=sweep, args=(cache, log), name="sweep", daemon=True).start()


def sweep(cache: str, log: Log) -> None:
    """End what killed executors have left on this worker."""
    directory = os.path.join(cache, "running")
    try:
        # What a note says is run.
        notes = sorted(os.listdir(directory)) if _ours(os.stat(directory)) else []
    except OSError:
        return
    for name in notes:
        path = os.path.join(directory, name)
        with suppress(OSError):
            lock = _locked(path, 0) if name.endswith(".json") else None
            if lock is None:
                continue
            try:
                _end(path, lock, log)
            finally:
                os.close(lock)


def _end(path: str, lock: int, log: Log) -> None:
    text = os.pread(lock, _LONGEST, 0).decode("utf-8", "replace")
    with suppress(ValueError, AttributeError, LookupError):
        host, boot = json.loads(text)["worker"]
        if host != os.uname().nodename and boot != boot_id():
            # Several workers share this directory, and only that one can end what it runs.
            return
    left = Leftovers.read(text)
    log.event("ending_leftovers", note=path, container_name=left.container)
    if left.end(log):
        os.unlink(path)


def _locked(path: str, create: int) -> int | None:
    """The note, open and locked; None where somebody else has it, or has just removed it. Raises OSError."""
    note = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | create, 0o600)
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state, now = os.fstat(note), os.stat(path, follow_symlinks=False)
        if (state.st_dev, state.st_ino) == (now.st_dev, now.st_ino) and _ours(state):
            return note
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(note)
        raise
    os.close(note)
    return None


def _ours(state: os.stat_result) -> bool:
    """Whether nobody else can have written it."""
    return state.st_uid == os.geteuid() and not stat.S_IMODE(state.st_mode) & 0o022


def _worker() -> tuple[str, str]:
    """Which worker this is. One that was started anew has the same name; a container on it has another one."""
    return os.uname().nodename, boot_id()
