"""`remove`: directories and files that the service has made, and nothing else.

Plan: `trees` (each `root`, `name`: a directory right below a root), `expired` (each `root`, `age` in seconds: files
below a root that were not used for so long).
Result: `removed`, the number of trees and files.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress

from ..failures import ContainerFailure
from .task import Task


def work(task: Task) -> Mapping[str, object]:
    """Remove what the plan names."""
    task.stop.check()
    removed = sum(_remove_tree(t["root"], t["name"]) for t in task.plan["trees"])
    removed += sum(_remove_expired(e["root"], e["age"], task) for e in task.plan["expired"])
    return {"removed": removed}


def _remove_tree(root: str, name: str) -> int:
    """Remove `root`/`name`, which must be one plain step below a root that is no link."""
    if not root.startswith("/") or not name or "/" in name or name in (".", ".."):
        raise ContainerFailure("The job's files cannot be removed.", f"{name!r} is no directory right below {root!r}")
    path = os.path.join(root, name)
    if not os.path.lexists(path):
        return 0
    if os.path.islink(root.rstrip("/")):
        raise ContainerFailure("The job's files cannot be removed.", f"{root} is a symbolic link")
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise ContainerFailure("The job's files cannot be removed.", f"{path} is no directory")
    shutil.rmtree(path)
    return 1


def _remove_expired(root: str, age: float, task: Task) -> int:
    oldest = time.time() - age
    removed = 0
    for directory, _, files in os.walk(root, topdown=False):
        task.stop.check()
        for name in files:
            path = os.path.join(directory, name)
            with suppress(FileNotFoundError):
                if os.lstat(path).st_mtime < oldest:
                    os.unlink(path)
                    removed += 1
        with suppress(OSError):  # it is not empty, or gone
            if directory != root and os.lstat(directory).st_mtime < oldest:
                os.rmdir(directory)
    return removed
