"""A task's directory: what the service asks in `plan.json`, and what came of it in `result.json`.

The result appears whole, and once: of two processes that do the same task, as after a command that was begun twice, the
first to end is believed. While a task runs, its file `alive` is touched. A file with the plan's name and `.stop` ends a
task, or keeps it from beginning.

`result.json` is `{"ok": true, …}`, or `{"ok": false, "error", "admin_error", "again"}`: `error` is for the job's owner,
and `again` says when another try is worth it: "later" where something did not answer, "renewed" where a URL was
refused, "absent" where what is looked for may be about to come, "held" where another task is in its way, and null where
the answer would be the same.

Every plan may have a `callback` (URL) and a `time_limit` (seconds).
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import stat
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable

from ..failures import ABSENT, LATER, ContainerFailure, Ended
from ..jsonlog import Log
from ..stopping import Stop, stopped_by_signals

_STOP_INTERVAL = 1.0
_ALIVE_INTERVAL = 30.0
_CALLBACK_TIMEOUT = 10.0


class AlreadyBegun(Exception):
    """A task that must not be repeated has been begun before."""


class Stopped(Ended):
    """The service wants the task no more, or it takes too long."""


class Task:
    """A task that runs."""

    def __init__(self, directory: str, plan: Mapping[str, Any], stop: Stop, log: Log) -> None:
        self.directory = directory
        self.plan = plan
        self.stop = stop
        self.log = log

    def begin_once(self) -> None:
        """From here on the task may not be run again. Raises AlreadyBegun where it was begun before."""
        marker = os.path.join(self.directory, "begun")
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise AlreadyBegun(f"{marker} is there already") from None


def run(
    plan_file: str, directory: str, work: Callable[[Task], Mapping[str, object]], watched: int | None = None
) -> None:
    """Run `work` on the plan, and write what it returns, or why it failed. Raises AlreadyBegun.

    watched: a pipe, whose end stops the task.
    """
    os.makedirs(directory, exist_ok=True)
    result = os.path.join(directory, "result.json")
    if os.path.exists(result):
        return
    plan = _take(plan_file, os.path.join(directory, "plan.json"))
    stop, log = Stop(), Log(task=directory)
    over = threading.Event()
    watch = _Watch(f"{plan_file}.stop", os.path.join(directory, "alive"), plan.get("time_limit"), stop)
    watch.look()
    threading.Thread(target=watch.until, args=(over,), daemon=True).start()
    if watched is not None:
        threading.Thread(target=_stop_at_end, args=(watched, stop), daemon=True).start()
    with stopped_by_signals(stop):
        try:
            told = {"ok": True, **work(Task(directory, plan, stop, log))}
        except AlreadyBegun:
            raise
        except ContainerFailure as failure:
            told = _failed(failure.error, failure.admin_error, failure.again)
        except Ended as end:
            told = _failed(f"It was stopped: {end}", None, LATER)
        except (OSError, MemoryError) as error:
            told = _failed("The site's file system failed.", traceback.format_exc(), LATER)
            log.event("failed", error=f"{type(error).__name__}: {error}")
        except Exception as error:
            # A fault of this code, or of what it was given to read: it will not be tried for ever.
            told = _failed("What was to be done near the storage failed.", traceback.format_exc(), ABSENT)
            log.event("failed", error=f"{type(error).__name__}: {error}")
        finally:
            over.set()
    _publish(result, json.dumps(told))
    _call_back(plan.get("callback"))


def require_mounted(roots: Sequence[str]) -> None:
    """Raise OSError where one of the directories, which are never empty, is empty or not there: what is missed below is
    then not gone, but away."""
    for root in roots:
        if not os.listdir(root):
            raise OSError(errno.ENOTCONN, f"{root} is empty: is its file system mounted?")


def make_open(directory: str) -> None:
    """Make a directory, and what is missing above it, so that the group may read: the engine is another user.

    Which group that is, the directory above decides (its setgid bit).
    """
    if os.path.isdir(directory):
        return
    make_open(os.path.dirname(directory))
    with suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) & 0o7000 | 0o750)  # noqa: S103


def write_aside(path: str, text: str) -> None:
    """Write a file that is whole as soon as it is there."""
    os.replace(_aside(path, text), path)


def _publish(path: str, text: str) -> None:
    """Write a file that is whole as soon as it is there, unless another is there already."""
    aside = _aside(path, text)
    with suppress(FileExistsError):
        os.link(aside, path)
    os.unlink(aside)


def _aside(path: str, text: str) -> str:
    """A new file beside `path`. Other machines may be writing there, too."""
    fd, aside = tempfile.mkstemp(prefix=".aside-", dir=os.path.dirname(path))
    with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return aside


def _take(plan_file: str, kept: str) -> Mapping[str, Any]:
    """The plan. It holds presigned URLs, so it lies where nobody else can read it."""
    with suppress(FileNotFoundError):
        os.replace(plan_file, kept)
    with open(kept, encoding="utf-8") as file:
        plan: Mapping[str, Any] = json.load(file)
    return plan


def _failed(error: str, admin_error: str | None, again: str | None) -> dict[str, object]:
    return {"ok": False, "error": error, "admin_error": admin_error, "again": again}


class _Watch:
    """Ends a task that is not wanted any more, or takes too long, and shows that it is alive."""

    def __init__(self, stop_file: str, alive_file: str, time_limit: float | None, stop: Stop) -> None:
        self._stop_file = stop_file
        self._alive_file = alive_file
        self._end = time.monotonic() + time_limit if time_limit else None
        self._stop = stop
        self._shown = -_ALIVE_INTERVAL

    def until(self, over: threading.Event) -> None:
        while not over.wait(_STOP_INTERVAL):
            self.look()

    def look(self) -> None:
        now = time.monotonic()
        with suppress(OSError):
            if os.path.exists(self._stop_file):
                self._stop.set(Stopped("nobody wants it any more"))
            if now - self._shown >= _ALIVE_INTERVAL:
                write_aside(self._alive_file, str(int(time.time())))
                self._shown = now
        if self._end is not None and now > self._end:
            self._stop.set(Stopped("it took longer than its time limit"))


def _stop_at_end(pipe: int, stop: Stop) -> None:
    """Nobody writes to the pipe; it ends when nobody holds its other end any more."""
    with suppress(OSError):
        while os.read(pipe, 4096):
            pass
    stop.set(Stopped("whoever began it is gone, or wants it no more"))


def _call_back(url: str | None) -> None:
    """Tell the service that there is a result to read. It would find it without."""
    if url:
        with suppress(OSError, ValueError, http.client.HTTPException):
            urllib.request.urlopen(url, timeout=_CALLBACK_TIMEOUT).close()  # noqa: S310 - of the plan
