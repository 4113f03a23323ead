"""What keeps the local site going: exactly one process of the service turns the engine, and others stand by.

The one is whoever holds `pump.lock`, for the life of its process. It turns when something happened: a run was
submitted or is to end (by any process: they write a byte to the FIFO `wake`), an executor's process ended, something
was cleaned up; and once a second in any case, so that a lost hint costs a second and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import structlog

from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.engine import Engine, News
from cdmtaskservice.sites.local.processes import executor_environment, run_command
from cdmtaskservice.sites.local.runs import WORK, RunFiles, run_of

_log = structlog.get_logger(__name__)

_STAND_BY = 0.25
_TURN_AT_LEAST = 1.0
_SWEEP_EVERY = 3600.0
_CLEANUPS_AT_ONCE = 4
_DRAIN_PAUSE = 0.02
_CLEANUP_RETRY = (0.5, 60.0)

P = ParamSpec("P")
T = TypeVar("T")


class InThread(Protocol):
    """Calls a function that blocks in one of the site's threads."""

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises."""
        ...


class Pump:
    """Turns the engine for as long as this process holds the lock."""

    def __init__(
        self,
        config: LocalSiteConfig,
        files: RunFiles,
        in_thread: InThread,
        hold: Callable[[], str | None],
        on_change: Callable[[str], None],
    ) -> None:
        """hold: why nothing may be started now, None if it may. on_change: told of jobs of which a run is over."""
        self._config = config
        self._files = files
        self._in_thread = in_thread
        self._hold = hold
        self._on_change = on_change
        self._environment = executor_environment(config)
        self._engine = Engine(config, files, self._environment)
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._watched: set[int] = set()
        self._cleanups: dict[str, asyncio.Task[None]] = {}
        self._cleanup_slots = asyncio.Semaphore(_CLEANUPS_AT_ONCE)
        self._holds_lock = False
        self._draining = False

    @property
    def holds_lock(self) -> bool:
        """Whether it is this process that starts executors."""
        return self._holds_lock

    @property
    def trouble(self) -> str | None:
        """Why the last executor could not be started."""
        return self._engine.trouble

    def wake(self) -> None:
        """Something has changed: turn now."""
        self._wake.set()

    async def run(self) -> None:
        """Stand by until the lock is free, and turn the engine until cancelled."""
        lock = await self._wait_for_lock()
        fifo: int | None = None
        try:
            self._holds_lock = True
            _log.info("local_site_pump_started", work_dir=str(self._files.root))
            fifo = _open_fifo(self._files.root)
            if fifo is not None:
                asyncio.get_running_loop().add_reader(fifo, self._woken, fifo)
            await self._turn_for_ever()
        finally:
            if fifo is not None:
                asyncio.get_running_loop().remove_reader(fifo)
                os.close(fifo)
            for task in self._cleanups.values():
                task.cancel()
            await asyncio.gather(*self._cleanups.values(), return_exceptions=True)
            self._engine.let_go()
            self._close(self._engine.take_news())
            self._holds_lock = False
            # Last: from here on another process starts executors.
            os.close(lock)

    async def drain(self, seconds: float) -> bool:
        """End all running executors and start no more; whether none is left after at most so many seconds."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # Twice: the turn that was on its way did not know yet, and may have started another one.
                for _ in range(2):
                    await self._next_turn()
                await self._in_thread(self._end_all)
                while self._engine.started:
                    await self._next_turn()
                    await asyncio.sleep(_DRAIN_PAUSE)
        return not self._engine.started

    def _end_all(self) -> None:
        started = [n for n in self._files.names() if (f := self._files.fate(n)) and f.started]
        self._files.end([run_of(n) for n in started], "the service stops")

    async def _next_turn(self) -> None:
        self._turned.clear()
        self.wake()
        await self._turned.wait()

    async def _wait_for_lock(self) -> int:
        lock: int | None = None
        while lock is None:
            attempt = asyncio.ensure_future(self._in_thread(_try_lock, self._files))
            try:
                lock = await asyncio.shield(attempt)
            except asyncio.CancelledError:
                # The thread goes on, and may have the lock in a moment.
                await asyncio.wait([attempt])
                if attempt.exception() is None and (late := attempt.result()) is not None:
                    os.close(late)
                raise
            except OSError as error:
                _log.error("local_site_pump_lock_failed", error=str(error))
            if lock is None:
                await asyncio.sleep(_STAND_BY * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
        return lock

    async def _turn_for_ever(self) -> None:
        swept = -_SWEEP_EVERY
        while True:
            self._wake.clear()
            due = await self._turn()
            now = time.monotonic()
            if now - swept > _SWEEP_EVERY:
                swept = now
                with suppress(OSError):
                    await self._in_thread(self._files.sweep, self._config.log_retention, self._config.log_space)
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(min(due, _TURN_AT_LEAST)):
                    await self._wake.wait()

    async def _turn(self) -> float:
        """Turn once and act on the news. Seconds until the next turn is needed."""
        hold = "the service stops" if self._draining else self._hold()
        turn = asyncio.ensure_future(self._in_thread(self._engine.turn, time.monotonic(), hold))
        try:
            await asyncio.shield(turn)
        except OSError as error:
            _log.error("local_site_turn_failed", error=str(error))
        except asyncio.CancelledError:
            # The thread goes on: the lock must not be let go of under it.
            await asyncio.wait([turn])
            turn.exception()
            raise
        news = self._engine.take_news()
        self._act_on(news)
        self._turned.set()
        return _TURN_AT_LEAST if news.due is None else news.due

    def _act_on(self, news: News) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in news.opened:
            if descriptor not in news.closed:
                self._watched.add(descriptor)
                loop.add_reader(descriptor, self._process_ended, descriptor)
        self._close(news)
        for name in news.cleanups:
            task = asyncio.create_task(self._clean_up(name), name=f"local-site-cleanup-{name}")
            self._cleanups[name] = task
            task.add_done_callback(partial(self._cleanup_done, name))
        for job_id in dict.fromkeys(news.changed):
            self._on_change(job_id)

    def _cleanup_done(self, name: str, _: asyncio.Task[None]) -> None:
        self._cleanups.pop(name, None)

    def _close(self, news: News) -> None:
        for descriptor in news.closed:
            self._unwatch(descriptor)
            os.close(descriptor)

    def _process_ended(self, descriptor: int) -> None:
        # It stays readable for ever, so it is looked at once.
        self._unwatch(descriptor)
        self.wake()

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            asyncio.get_running_loop().remove_reader(descriptor)

    def _woken(self, fifo: int) -> None:
        with suppress(BlockingIOError):
            os.read(fifo, 65536)
        self.wake()

    async def _clean_up(self, name: str) -> None:
        """Have the executor's cleanup remove the container that its killed process left, until that has worked."""
        work = self._files.path(name) / WORK
        arguments = [self._config.python, *self._config.executor, "cleanup", "--work-dir", str(work)]
        delay = _CLEANUP_RETRY[0]
        while True:
            async with self._cleanup_slots:
                why = await self._clean_up_once(name, arguments)
            if why is None:
                self._engine.cleaned(name)
                self.wake()
                return
            _log.error("executor_cleanup_failed", run=name, error=why)
            with suppress(OSError):
                await self._in_thread(self._files.note_cleanup, name, why)
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
            delay = min(delay * 2, _CLEANUP_RETRY[1])

    async def _clean_up_once(self, name: str, arguments: list[str]) -> str | None:
        """Why it did not work, None where it did."""
        timeout = self._config.cleanup_timeout
        try:
            outcome = await run_command(arguments, self._environment, timeout)
            if outcome.code is None:
                return f"the cleanup took longer than {timeout:g} s"
            if outcome.code != 0:
                return f"the cleanup exited with {outcome.code}: {outcome.output}"
            await self._in_thread(self._files.delete_work, name)
        except OSError as error:
            return str(error)
        return None


def poke(work_dir: Path) -> None:
    """Wake the pump of whatever process has it. Only a hint: where it cannot be given, the pump looks by itself."""
    with suppress(OSError):
        fifo = os.open(work_dir / "wake", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fifo, b"!")
        finally:
            os.close(fifo)


def _open_fifo(work_dir: Path) -> int | None:
    path = work_dir / "wake"
    try:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too, so that it does not end with each writer.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _log.warning("local_site_fifo_failed", error=str(error))
        return None


def _try_lock(files: RunFiles) -> int | None:
    files.prepare()
    lock = os.open(files.root / "pump.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return lock
