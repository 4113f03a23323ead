"""`remove`: directories and files that the service has made, and nothing else.

Plan: `trees` (each `root`, `name`: a directory right below a root; with `lock` true only while nobody holds the lock in
it, which makes way for whoever comes then), `manifests` (may be missing; each `root`, `name`, `required`: what
reference data is known by, see below), `expired` (each `root`, `age` in seconds: files below a root that were not used
for so long).
Result: `removed`, the number of trees and files.

Of a manifest, `ROOT/NAME.jsonl`, the empty file `ROOT/NAME.removed` is left. So data that is required to be known
there, and is neither there nor removed, is away with its file system, and not gone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress

from ..directory_lock import Held, HeldDirectory
from ..failures import HELD, ContainerFailure
from .task import Task


def work(task: Task) -> Mapping[str, object]:
    """Remove what the plan names."""
    task.stop.check()
    for manifest in task.plan.get("manifests", ()):
        _retire(manifest["root"], manifest["name"], manifest["required"])
    removed = sum(_remove_tree(t["root"], t["name"], t.get("lock", False)) for t in task.plan["trees"])
    removed += sum(_remove_expired(e["root"], e["age"], task) for e in task.plan["expired"])
    return {"removed": removed}


def _remove_tree(root: str, name: str, lock: bool) -> int:
    """Remove the directory `root`/`name`. The number removed."""
    path = _right_below(root, name, "directory")
    if path is None:
        return 0
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise ContainerFailure("The files cannot be removed.", f"{path} is no directory")
    try:
        held = HeldDirectory.hold(path, create=False) if lock else None
    except Held as error:
        raise ContainerFailure("The files are in use, and are not removed yet.", str(error), HELD) from error
    if held is None:
        shutil.rmtree(path)
    else:
        held.remove()
    return 1


def _retire(root: str, name: str, required: bool) -> None:
    """Make of a manifest the word that its data is removed. Raises OSError where it is required and not there."""
    mark = os.path.join(root, f"{name}.removed")
    manifest = _right_below(root, f"{name}.jsonl", "file")
    if manifest is not None:
        fd = os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.fchmod(fd, 0o644)  # whatever the umask is
        os.close(fd)
        os.unlink(manifest)
    elif required and not os.path.lexists(mark):
        raise OSError(errno.ENOTCONN, f"{root} knows nothing of {name}: is its file system mounted?")


def _right_below(root: str, name: str, what: str) -> str | None:
    """`root`/`name`, which must be one plain step below a root that is no link; None where there is nothing."""
    if not root.startswith("/") or not name or "/" in name or name in (".", ".."):
        raise ContainerFailure("The files cannot be removed.", f"{name!r} is no {what} right below {root!r}")
    path = os.path.join(root, name)
    if not os.path.lexists(path):
        return None
    if os.path.islink(root.rstrip("/")):
        raise ContainerFailure("The files cannot be removed.", f"{root} is a symbolic link")
    return path


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
