"""The decisions of the local site: which executor starts next, which has ended, which is to be stopped.

One process at a time turns the engine, the one that holds the pump lock; it blocks and is turned in a thread. What it
keeps in memory is only what it has read below `RunFiles`, so that the next process to hold the lock begins where the
last one stopped, wherever that was:

| what a kill -9 left | what the next turn makes of it |
|---|---|
| no fate | queued: it starts in its turn |
| `started`, lock held | running: watched by its process ID, counted against the CPUs |
| `started`, lock free, something in `work/` | its container may live: clean up, then over |
| `started`, lock free, nothing in `work/` | over; also where the process was never made: that attempt is lost |
| `over` and released | the directory is removed |
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

from cdmtaskservice.sites.base import RunRequest
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.processes import open_process, send, start_executor
from cdmtaskservice.sites.local.runs import LOG, Over, RunFiles, StoredRun, run_of, tail

_log = structlog.get_logger(__name__)

_LAST_WORDS = 300
_LAST_LINES = 8192
_UNNAMED_RETRY = 0.05
_START_RETRY = (1.0, 60.0)


class _Phase(Enum):
    QUEUED = auto()
    RUNNING = auto()
    CLEANING = auto()
    CLEANED = auto()


@dataclass
class _Tracked:
    """A run that is not over. descriptor: of its process. child: its process ID where it is ours to reap."""

    stored: StoredRun
    phase: _Phase
    descriptor: int | None = None
    child: int | None = None
    wait_status: int | None = None
    stop_sent: float | None = None
    killed: bool = False

    @property
    def words(self) -> Mapping[str, str | int]:
        """What it is, for logs."""
        run = self.stored.request.run
        return {"run": self.name, "job": run.job_id, "container": run.container, "attempt": run.attempt}

    @property
    def name(self) -> str:
        return self.stored.name


@dataclass
class News:
    """What came of turns since it was last taken: the async side acts on it.

    changed: jobs of which a run is over. opened: descriptors to watch; closed: those to watch no longer and to close.
    cleanups: runs whose executors left something behind. due: seconds until the next turn is needed at the latest,
    None for no haste.
    """

    changed: list[str] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    cleanups: list[str] = field(default_factory=list)
    due: float | None = None

    def within(self, seconds: float) -> None:
        """Ask for a turn in so many seconds."""
        self.due = max(0.0, seconds if self.due is None else min(self.due, seconds))


class Engine:
    """The queue and the running executors of one working directory."""

    def __init__(self, config: LocalSiteConfig, files: RunFiles, environment: Mapping[str, str]) -> None:
        self._config = config
        self._files = files
        self._environment = environment
        self._queue: deque[_Tracked] = deque()
        self._started: dict[str, _Tracked] = {}
        self._done: set[str] = set()
        self._news = News()
        self._retry_at = 0.0
        self._retry_delay = _START_RETRY[0]
        self.trouble: str | None = None
        """Why the last executor could not be started, None where it could."""

    @property
    def started(self) -> int:
        """How many runs are neither queued nor over."""
        return len(self._started)

    def take_news(self) -> News:
        """What there is to act upon since the last call."""
        news, self._news = self._news, News()
        return news

    def cleaned(self, name: str) -> None:
        """What the run's executor left is gone."""
        if name in self._started:
            self._started[name].phase = _Phase.CLEANED

    def turn(self, now: float, hold: str | None) -> None:
        """Look at everything and do what is due. now: a monotonic clock. hold: why nothing may start, None if it may.

        Raises OSError where the disk refuses; the next turn goes on from there.
        """
        self._notice()
        for tracked in list(self._started.values()):
            self._look_after(tracked, now)
        self._start_what_fits(now, hold)

    def let_go(self) -> None:
        """Let go of the executors: they run on. The news has their descriptors."""
        for tracked in list(self._started.values()):
            self._drop(tracked)

    def _notice(self) -> None:
        """Runs that were submitted or removed since the last turn."""
        there = set(self._files.names())
        self._done &= there
        known = {t.name for t in self._queue} | self._started.keys() | self._done
        new = []
        for name in there - known:
            tracked = self._load(name)
            if tracked is None:
                self._done.add(name)
            elif tracked.phase is _Phase.QUEUED:
                new.append(tracked)
            else:
                self._started[name] = tracked
        if new or any(t.name not in there for t in self._queue):
            queue = [t for t in self._queue if t.name in there] + new
            self._queue = deque(sorted(queue, key=lambda t: t.stored.sequence))

    def _load(self, name: str) -> _Tracked | None:
        """A run that is not over, from its directory."""
        if self._files.over(name) is not None:
            self._files.remove_released(name)
            return None
        run = run_of(name)
        if not run.job_id:
            return None
        fate = self._files.fate(name)
        if fate is not None and not fate.started:
            return None
        stored = self._files.stored(name)
        if stored is None:
            if fate is None:
                self._files.cancel(name, "its request cannot be read")
                self._news.changed.append(run.job_id)
                return None
            stored = StoredRun(name, RunRequest(run, "", 1, 0, 0.0), 0, 0.0)
        return _Tracked(stored, _Phase.QUEUED if fate is None else _Phase.RUNNING)

    def _look_after(self, tracked: _Tracked, now: float) -> None:
        if tracked.phase is _Phase.RUNNING:
            self._watch(tracked)
            if not self._has_ended(tracked):
                self._stop_if_asked(tracked, now)
                return
            if self._files.work_left(tracked.name):
                tracked.phase = _Phase.CLEANING
                self._news.cleanups.append(tracked.name)
                return
            tracked.phase = _Phase.CLEANED
        if tracked.phase is _Phase.CLEANED:
            over = Over(self._exit_code(tracked), self._last_words(tracked), time.time())
            self._files.declare_over(tracked.name, over)
            self._drop(tracked)
            self._news.changed.append(tracked.stored.request.run.job_id)
            _log.info("executor_over", **tracked.words, exit_code=over.exit_code, detail=over.detail)

    def _watch(self, tracked: _Tracked) -> None:
        """Find the process of an executor that another process of the service started."""
        if tracked.descriptor is not None:
            return
        if (process := self._files.process(tracked.name)) is not None:
            self._watched(tracked, open_process(process.pid, process.ticks))
        elif self._files.alive(tracked.name):
            # It was started a moment ago by a process that is gone, and has not written who it is.
            self._news.within(_UNNAMED_RETRY)

    def _watched(self, tracked: _Tracked, descriptor: int | None) -> None:
        tracked.descriptor = descriptor
        if descriptor is not None:
            self._news.opened.append(descriptor)

    def _has_ended(self, tracked: _Tracked) -> bool:
        if tracked.child is not None and tracked.wait_status is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(tracked.child, os.WNOHANG)
                tracked.wait_status = status if pid else None
        if tracked.descriptor is not None and not _readable(tracked.descriptor):
            return False
        # The lock has the last word: it is free only when nobody is left who could still act for this run.
        return not self._files.alive(tracked.name)

    def _stop_if_asked(self, tracked: _Tracked, now: float) -> None:
        request = self._files.end_request(tracked.name)
        if request is None:
            return
        process = self._files.process(tracked.name)
        if tracked.stop_sent is None:
            if send(tracked.descriptor, process, signal.SIGTERM):
                tracked.stop_sent = now
                _log.info("executor_told_to_end", **tracked.words, reason=request.reason)
                self._news.within(self._config.grace)
        elif not tracked.killed:
            left = tracked.stop_sent + self._config.grace - now
            if left > 0:
                self._news.within(left)
            else:
                tracked.killed = send(tracked.descriptor, process, signal.SIGKILL)
                _log.warning("executor_killed", **tracked.words, grace=self._config.grace)

    def _start_what_fits(self, now: float, hold: str | None) -> None:
        while self._queue:
            head = self._queue[0]
            request = head.stored.request
            # The head may have been cancelled while it waited; then it must not keep others from starting.
            gone = self._files.fate(head.name) is not None or not self._files.path(head.name).is_dir()
            too_large = self._too_large(request)
            ended = self._files.end_request(head.name)
            if gone or too_large or ended:
                if not gone:
                    self._files.cancel(head.name, too_large or (ended.reason if ended else ""))
                    self._news.changed.append(request.run.job_id)
                self._queue.popleft()
                self._done.add(head.name)
                continue
            if hold is not None or not self._fits(request):
                return
            if now < self._retry_at:
                self._news.within(self._retry_at - now)
                return
            if not self._start(head, now):
                return

    def _start(self, head: _Tracked, now: float) -> bool:
        """Start the run at the head of the queue. False where no process can be made now."""
        lock = self._files.claim(head.name)
        self._queue.popleft()
        if lock is None:
            self._done.add(head.name)
            return True
        try:
            run = head.stored.request.run
            directory = self._files.path(head.name)
            head.child = start_executor(self._config, self._environment, run, directory, lock)
        except OSError as error:
            self._files.unclaim(head.name)
            self._queue.appendleft(head)
            self.trouble = f"no executor can be started: {error}"
            self._retry_at = now + self._retry_delay
            self._news.within(self._retry_delay)
            self._retry_delay = min(self._retry_delay * 2, _START_RETRY[1])
            _log.error("executor_start_failed", **head.words, error=str(error))
            return False
        finally:
            os.close(lock)
        head.phase = _Phase.RUNNING
        self._started[head.name] = head
        self._watched(head, open_process(head.child))
        self.trouble, self._retry_delay = None, _START_RETRY[0]
        _log.info("executor_started", **head.words, pid=head.child)
        return True

    def _fits(self, request: RunRequest) -> bool:
        running = [t.stored.request for t in self._started.values()]
        return (
            sum(r.cpus for r in running) + request.cpus <= self._config.cpus
            and sum(r.gpus for r in running) + request.gpus <= self._config.info.gpus_per_node
            and (self._config.memory is None or sum(r.memory for r in running) + request.memory <= self._config.memory)
        )

    def _too_large(self, request: RunRequest) -> str | None:
        """Why the request can never start here: the settings have changed since it was placed."""
        bounds = (
            ("CPUs", request.cpus, self._config.cpus),
            ("GPUs", request.gpus, self._config.info.gpus_per_node),
            ("bytes of memory", request.memory, self._config.memory),
        )
        for unit, wanted, available in bounds:
            if available is not None and wanted > available:
                return f"the container needs {wanted} {unit}, and site {self._config.info.name} has {available}"
        return None

    def _drop(self, tracked: _Tracked) -> None:
        del self._started[tracked.name]
        self._done.add(tracked.name)
        if tracked.descriptor is not None:
            self._news.closed.append(tracked.descriptor)
            tracked.descriptor = None

    def _exit_code(self, tracked: _Tracked) -> int | None:
        code = self._files.exit_code(tracked.name)
        if code is None and tracked.wait_status is not None and os.WIFEXITED(tracked.wait_status):
            return os.WEXITSTATUS(tracked.wait_status)
        return code

    def _last_words(self, tracked: _Tracked) -> str:
        """How the executor ended, for administrators."""
        code = self._exit_code(tracked)
        if code is not None:
            words = f"the executor exited with {code}"
        elif tracked.wait_status is not None and os.WIFSIGNALED(tracked.wait_status):
            words = f"the executor was killed by signal {os.WTERMSIG(tracked.wait_status)}"
        elif self._files.process(tracked.name) is None:
            words = "the executor was never started, since the service was killed on the way"
        else:
            words = "the executor was killed"
        if (request := self._files.end_request(tracked.name)) is not None:
            words += f" after it was told to end: {request.reason}"
        elif code != 0 and (said := self._last_line(tracked.name)):
            words += f"; it said last: {said}"
        return words

    def _last_line(self, name: str) -> str:
        """What the executor said last, its farewell aside; of a line of its log only the reason."""
        text = tail(self._files.path(name) / LOG, _LAST_LINES).decode(errors="replace")
        for line in reversed(text.strip().splitlines()):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                return line[-_LAST_WORDS:]
            if event.get("event") != "over":
                return str(event.get("why") or event.get("error") or event.get("event"))[:_LAST_WORDS]
        return ""


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
