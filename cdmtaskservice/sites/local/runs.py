"""The runs of the local site as files: what stands here is the truth, and a kill -9 at any point leaves it true.

    runs/JOB.CONTAINER.ATTEMPT/     made aside and renamed, so it is there whole or not at all
        request.json                what was asked for, and the place in the queue
        alive                       locked by the executor's process for as long as it lives
        fate.json                   made once, before anything is started: `started` or `canceled`
        pid.json, exit.json         the executor's own words, see `launcher`
        log                         its standard error
        work/                       its working directory
        end.json                    somebody wants it ended, since when and why
        cleanup.json                why its container could not be removed yet
        over.json                   it is over and its container is gone: nothing changes any more
        released.json               the directory may go when the run is over
    logs/                           of failed executors whose runs were released
    tmp/                            what is being made or removed

Everything here blocks and is called in threads. Every method may be called by any process at any time, except that
only the process which holds the pump lock starts runs and declares them over.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdmtaskservice.sites.base import Run, RunRequest, RunState, RunStatus
from cdmtaskservice.sites.local.launcher import EXIT_FILE, PID_FILE

REQUEST = "request.json"
FATE = "fate.json"
ALIVE = "alive"
END = "end.json"
OVER = "over.json"
CLEANUP = "cleanup.json"
RELEASED = "released.json"
LOG = "log"
WORK = "work"

CLEANING_UP = "the executor has ended and its container is being removed"

_KEPT_LOG = 1 << 20
_STALE = 3600.0
_LOCK_WAIT = 10.0


@dataclass(frozen=True)
class StoredRun:
    """A run as it was submitted. sequence: its place in the queue. submitted: seconds since the epoch."""

    name: str
    request: RunRequest
    sequence: int
    submitted: float


@dataclass(frozen=True)
class Fate:
    """What was decided on a queued run, once and for all. time: seconds since the epoch."""

    started: bool
    reason: str | None
    time: float


@dataclass(frozen=True)
class Over:
    """How a run that was started ended. exit_code: of the executor, None where a signal or a crash ended it."""

    exit_code: int | None
    detail: str
    time: float


@dataclass(frozen=True)
class EndRequest:
    """Somebody wants a started run ended. time: when first asked, seconds since the epoch."""

    reason: str
    time: float


@dataclass(frozen=True)
class Process:
    """An executor's process, named for good by its start in clock ticks since boot."""

    pid: int
    ticks: int | None
    started: float


class RunFiles:
    """The directory of the local site."""

    def __init__(self, work_dir: Path) -> None:
        self.root = work_dir
        self._runs = work_dir / "runs"
        self._logs = work_dir / "logs"
        self._tmp = work_dir / "tmp"

    def prepare(self) -> None:
        """Make the directories, readable by nobody else."""
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self._runs, self._logs, self._tmp):
            directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, name: str) -> Path:
        """The directory of a run."""
        return self._runs / name

    # What any process may do

    def submit(self, requests: Sequence[RunRequest]) -> None:
        """Queue those of the requests that are not known yet, in this order."""
        new = [r for r in requests if not self.path(run_name(r.run)).is_dir()]
        if not new:
            return
        first = self._reserve(len(new))
        for sequence, request in enumerate(new, first):
            aside = self._aside()
            aside.mkdir(mode=0o700)
            stored = {"sequence": sequence, "submitted": time.time(), "request": asdict(request)}
            (aside / REQUEST).write_text(json.dumps(stored), encoding="utf-8")
            try:
                aside.rename(self.path(run_name(request.run)))
            except OSError:
                shutil.rmtree(aside, ignore_errors=True)
                if not self.path(run_name(request.run)).is_dir():
                    raise
                # Another process has submitted the same run since.

    def poll(self, runs: Collection[Run], waiting: str | None) -> Mapping[Run, RunStatus]:
        """The state of each run. waiting: what to say of queued ones.

        Raises FileNotFoundError where the site's directory itself is gone: then nothing is known of any run.
        """
        statuses = {run: self._status(run_name(run), waiting) for run in runs}
        os.stat(self._runs)
        return statuses

    def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        """Cancel what is queued, ask for the end of what was started; returns what is not over yet."""
        left = [run for run in runs if not self._end(run_name(run), reason)]
        os.stat(self._runs)
        return left

    def release(self, job_id: str, keep_logs: bool) -> None:
        """Remove the job's runs, those that are not over as soon as they are. keep_logs: of failed executors."""
        for name in self.names():
            if run_of(name).job_id != job_id:
                continue
            if not self._end(name, "the job is over"):
                self._replace(name, RELEASED, {"keep_logs": keep_logs})
                # Asked again: it may have become over before the one who saw that could see what was just written.
                if self.over(name) is None:
                    continue
            self._remove(name, keep_logs)
        if not keep_logs:
            for log in list(self._logs.iterdir()):
                if run_of(log.stem).job_id == job_id:
                    log.unlink(missing_ok=True)

    def names(self) -> Sequence[str]:
        """The directories of all runs that were not removed."""
        return os.listdir(self._runs)

    def fate(self, name: str) -> Fate | None:
        """What was decided on the run, None while it is queued."""
        path = self.path(name) / FATE
        value = _read(path)
        if value is not None:
            return Fate(**value)
        # A damaged one may have said `started`, and nothing is ever started twice.
        return Fate(True, "its record is damaged", 0.0) if path.exists() else None

    def over(self, name: str) -> Over | None:
        """How the run ended, None while its container may still be there."""
        value = _read(self.path(name) / OVER)
        return None if value is None else Over(**value)

    def end_request(self, name: str) -> EndRequest | None:
        """Who wants the run ended, None for nobody."""
        value = _read(self.path(name) / END)
        return None if value is None else EndRequest(**value)

    def process(self, name: str) -> Process | None:
        """The executor's process as it named itself, None where it has not come so far."""
        value = _read(self.path(name) / PID_FILE)
        return None if value is None else Process(value["pid"], value["ticks"], value["time"])

    def exit_code(self, name: str) -> int | None:
        """What the executor ended with of its own accord, None where it has not or was killed."""
        value = _read(self.path(name) / EXIT_FILE)
        return None if value is None else int(value["exit_code"])

    def alive(self, name: str) -> bool:
        """Whether the executor's process lives. It alone holds the lock, so no other can be taken for it."""
        try:
            lock = os.open(self.path(name) / ALIVE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared: two processes that look at the same time do not see each other.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def stored(self, name: str) -> StoredRun | None:
        """The run as it was submitted. None where it cannot be read, after a power cut say, or is gone."""
        value = _read(self.path(name) / REQUEST)
        try:
            if value is None:
                return None
            request = RunRequest(**{**value["request"], "run": Run(**value["request"]["run"])})
            return StoredRun(name, request, int(value["sequence"]), float(value["submitted"]))
        except (KeyError, TypeError, ValueError):
            return None

    def kept_log(self, name: str) -> Path:
        """Where the log of a failed executor goes when its run is released."""
        return self._logs / f"{name}.log"

    # What the pump does

    def claim(self, name: str) -> int | None:
        """Take the run's lock and then mark it started: the open lock, to be given to its process.

        None where it was cancelled or is gone. Raises BlockingIOError where its lock is held.
        """
        try:
            lock = os.open(self.path(name) / ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._decide(name, Fate(True, None, time.time())):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def unclaim(self, name: str) -> None:
        """Put a claimed run back into the queue. Only for when it is certain that nothing was started."""
        (self.path(name) / FATE).unlink(missing_ok=True)

    def cancel(self, name: str, reason: str) -> bool:
        """Decide that a queued run never starts; false where it was started before."""
        if self.fate(name) is None:
            self._decide(name, Fate(False, reason, time.time()))
        fate = self.fate(name)
        return fate is None or not fate.started

    def work_left(self, name: str) -> bool:
        """Whether there is anything in the executor's working directory: then it has not cleaned up."""
        try:
            return bool(os.listdir(self.path(name) / WORK))
        except FileNotFoundError:
            return False

    def delete_work(self, name: str) -> None:
        """Remove what is left in the executor's working directory once its container is gone."""
        _delete(self.path(name) / WORK)

    def note_cleanup(self, name: str, why: str) -> None:
        """Write down, for whoever polls, why a killed executor's container could not be removed yet."""
        self._replace(name, CLEANUP, {"error": why})

    def declare_over(self, name: str, over: Over) -> None:
        """State that the run is over and its container gone, and remove it where it was released."""
        self._replace(name, OVER, asdict(over))
        self.remove_released(name)

    def remove_released(self, name: str) -> bool:
        """Remove a run that is over, if it was released."""
        released = _read(self.path(name) / RELEASED)
        if released is None:
            return False
        self._remove(name, bool(released["keep_logs"]))
        return True

    def sweep(self, log_retention: float, log_space: int) -> None:
        """Remove what killed processes left half made, and kept logs over `log_retention` s and `log_space` bytes."""
        now = time.time()
        for path in self._tmp.iterdir():
            with suppress(FileNotFoundError):
                if now - path.lstat().st_ctime > _STALE:
                    _delete(path)
        logs = sorted(((p.stat(), p) for p in self._logs.iterdir()), key=lambda log: -log[0].st_mtime)
        used = 0
        for stat, path in logs:
            used += stat.st_size
            if used > log_space or now - stat.st_mtime > log_retention:
                path.unlink(missing_ok=True)

    def _status(self, name: str, waiting: str | None) -> RunStatus:
        try:
            there = os.listdir(self.path(name))
        except FileNotFoundError:
            return RunStatus(RunState.UNKNOWN)
        if OVER in there and (over := self.over(name)) is not None:
            return RunStatus(RunState.ENDED, over.detail)
        fate = self.fate(name) if FATE in there else None
        if fate is None:
            return RunStatus(RunState.QUEUED, waiting)
        if not fate.started:
            return RunStatus(RunState.ENDED, fate.reason)
        if self.alive(name):
            return RunStatus(RunState.RUNNING)
        trouble = _read(self.path(name) / CLEANUP) if CLEANUP in there else None
        return RunStatus(RunState.RUNNING, f"{CLEANING_UP}: {trouble['error']}" if trouble else CLEANING_UP)

    def _end(self, name: str, reason: str) -> bool:
        """Whether the run is over."""
        if not self.path(name).is_dir() or self.cancel(name, reason) or self.over(name) is not None:
            return True
        if self.end_request(name) is None:
            self._replace(name, END, asdict(EndRequest(reason, time.time())))
        return False

    def _remove(self, name: str, keep_logs: bool) -> None:
        over = self.over(name)
        if keep_logs and over is not None and over.exit_code != 0:
            self._keep_log(name, over)
        away = self._aside()
        try:
            self.path(name).rename(away)
        except FileNotFoundError:
            return
        _delete(away)

    def _keep_log(self, name: str, over: Over) -> None:
        aside = self._aside()
        text = f"{over.detail}\n".encode() + tail(self.path(name) / LOG, _KEPT_LOG)
        aside.write_bytes(text)
        aside.replace(self.kept_log(name))

    def _decide(self, name: str, fate: Fate) -> bool:
        """Decide the run's fate unless that has been done: the file appears whole, once, and one writer wins."""
        aside = self._aside()
        aside.write_text(json.dumps(asdict(fate)), encoding="utf-8")
        try:
            os.link(aside, self.path(name) / FATE)
        except (FileExistsError, FileNotFoundError):
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _replace(self, name: str, marker: str, value: Mapping[str, object]) -> None:
        aside = self._aside()
        aside.write_text(json.dumps(value), encoding="utf-8")
        try:
            aside.replace(self.path(name) / marker)
        except FileNotFoundError:
            # The run was removed meanwhile, so there is nothing left to mark.
            aside.unlink(missing_ok=True)

    def _reserve(self, count: int) -> int:
        """The first of `count` places at the end of the queue."""
        counter = self.root / "sequence"
        with self._only_one("submit.lock"):
            try:
                last = int(counter.read_text(encoding="ascii"))
            except (FileNotFoundError, ValueError):
                last = max((s.sequence for n in self.names() if (s := self.stored(n))), default=0)
            aside = self._aside()
            aside.write_text(str(last + count), encoding="ascii")
            aside.replace(counter)
        return last + 1

    @contextmanager
    def _only_one(self, name: str) -> Iterator[None]:
        lock = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + _LOCK_WAIT
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise TimeoutError(f"another process has held {name} for {_LOCK_WAIT:.0f} s") from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(lock)

    def _aside(self) -> Path:
        return self._tmp / uuid.uuid4().hex


def run_name(run: Run) -> str:
    """The name of a run's directory."""
    return f"{run.job_id}.{run.container}.{run.attempt}"


def run_of(name: str) -> Run:
    """The run of a directory's name; one that no run can have where the name is not ours."""
    try:
        job_id, container, attempt = name.rsplit(".", 2)
        return Run(job_id, int(container), int(attempt))
    except ValueError:
        return Run("", -1, -1)


def tail(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of a file, none where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            return file.read(limit)
    except FileNotFoundError:
        return b""


def _read(path: Path) -> dict[str, Any] | None:
    """A marker's content. None where it is not there; a damaged one, after a power cut say, counts as not there."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
