"""Cleaning up after an executor that was killed: its container, cgroup and work directory."""

from __future__ import annotations

from .failures import EXIT_DONE, EXIT_GAVE_UP, EXIT_USAGE
from .jsonlog import Log
from .runtimes import known_runtime
from .workdir import WorkDir, WorkDirBusy, WorkDirError


def clean_up(path: str, log: Log) -> int:
    """Remove whatever an executor with the work directory `path` has left; nothing there is fine. The exit code.

    75 where something could not be removed, or the executor is alive: calling again may help, and is safe.
    """
    try:
        work = WorkDir.hold(path, create=False)
    except WorkDirBusy as error:
        log.event("not_cleaned_up", error=str(error))
        return EXIT_GAVE_UP
    except WorkDirError as error:
        log.event("not_cleaned_up", error=str(error))
        return EXIT_USAGE
    if work is None:
        return EXIT_DONE
    if not clean_leftovers(work, log):
        work.release()
        return EXIT_GAVE_UP
    log.event("cleaned_up", work_dir=work.path)
    return EXIT_DONE


def clean_leftovers(work: WorkDir, log: Log) -> bool:
    """End what is noted in `work`, then remove `work` itself; whether all is gone. Until it is, the note stays."""
    left = work.leftovers()
    unshare: tuple[str, ...] = ()
    if left.runtime and left.runtime_path:
        unshare = tuple(known_runtime(left.runtime, left.runtime_path).as_owner())
    return left.end(log) and work.remove(unshare)
