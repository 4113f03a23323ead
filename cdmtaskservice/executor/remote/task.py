"""A task's directory: what the service asks in `plan.json`, and what came of it in `result.json`.

The result is written aside and renamed, so whoever finds it finds it whole, and it is written once: running a task
again whose result is there changes nothing. A file `stop` in the directory ends a task that runs.

`result.json` is `{"ok": true, …}`, or `{"ok": false, "error", "admin_error", "again"}`: `error` is for the job's owner,
and `again` says when another try is worth it: "later" where something did not answer, "renewed" where a URL was
refused, and null where the answer would be the same.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import traceback
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Callable

from ..failures import LATER, ContainerFailure, Ended
from ..jsonlog import Log
from ..stopping import Stop, stopped_by_signals

_STOP_INTERVAL = 1.0
_CALLBACK_TIMEOUT = 10.0


class AlreadyBegun(Exception):
    """A task that must not be repeated has been begun before."""


class Stopped(Ended):
    """The service wants the task no more."""


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


def run(plan_file: str, directory: str, work: Callable[[Task], Mapping[str, object]]) -> None:
    """Run `work` on the plan, and write what it returns, or why it failed. Raises AlreadyBegun."""
    os.makedirs(directory, exist_ok=True)
    result = os.path.join(directory, "result.json")
    if os.path.exists(result):
        return
    plan = _take(plan_file, os.path.join(directory, "plan.json"))
    stop, log = Stop(), Log(task=directory)
    over = threading.Event()
    threading.Thread(target=_watch, args=(os.path.join(directory, "stop"), stop, over), daemon=True).start()
    with stopped_by_signals(stop):
        try:
            told = {"ok": True, **work(Task(directory, plan, stop, log))}
        except AlreadyBegun:
            raise
        except ContainerFailure as failure:
            told = _failed(failure.error, failure.admin_error, failure.again)
        except Ended as end:
            told = _failed(f"It was stopped: {end}", None, LATER)
        except Exception as error:
            told = _failed("The site's file system failed.", traceback.format_exc(), LATER)
            log.event("failed", error=f"{type(error).__name__}: {error}")
        finally:
            over.set()
    write_aside(result, json.dumps(told))
    _call_back(plan.get("callback"))


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
    aside = f"{path}.{os.getpid()}.aside"
    with open(aside, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _take(plan_file: str, kept: str) -> Mapping[str, Any]:
    """The plan. It holds presigned URLs, so it lies where nobody else can read it."""
    with suppress(FileNotFoundError):
        os.replace(plan_file, kept)
    with open(kept, encoding="utf-8") as file:
        plan: Mapping[str, Any] = json.load(file)
    return plan


def _failed(error: str, admin_error: str | None, again: str | None) -> dict[str, object]:
    return {"ok": False, "error": error, "admin_error": admin_error, "again": again}


def _watch(path: str, stop: Stop, over: threading.Event) -> None:
    while not over.wait(_STOP_INTERVAL):
        if os.path.exists(path):
            stop.set(Stopped("the job is over"))
            return


def _call_back(url: str | None) -> None:
    """Tell the service that there is a result to read. It would find it without."""
    if url:
        with suppress(OSError, ValueError):
            urllib.request.urlopen(url, timeout=_CALLBACK_TIMEOUT).close()  # noqa: S310 - of the plan
