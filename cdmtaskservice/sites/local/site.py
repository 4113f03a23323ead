"""The local site: every container runs on this machine, through an executor that is a process of its own."""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from cdmtaskservice.sites.base import Run, RunRequest, RunStatus, SiteHealth, SiteInfo, SiteUnreachableError
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.health import HealthCheck
from cdmtaskservice.sites.local.pump import Pump, poke
from cdmtaskservice.sites.local.runs import LOG, RunFiles, run_name, tail

_log = structlog.get_logger(__name__)

_THREADS = 4
_DRAIN_MARGIN = 15.0
_SHOWN_LOG = 16 << 10
_SHOWN_LINES = 50
_SECRETS = re.compile(r"(?i)(bearer\s+|x-amz-[a-z-]+=|signature=|token\W{0,2}[=:]\W{0,2})[^\s\"'&]+")

P = ParamSpec("P")
T = TypeVar("T")


class LocalSite:
    """A `Site` whose engine is this machine. Several processes may have one on the same working directory."""

    submit_window = 0.0
    restarts_executors = False

    def __init__(self, config: LocalSiteConfig, on_change: Callable[[str], None] | None = None) -> None:
        """on_change: called in the event loop with a job's ID as soon as one of its runs is over.

        Only the process that starts the executors calls it.
        """
        # Executors run elsewhere: a relative path would mean something else there.
        self._config = replace(config, work_dir=config.work_dir.absolute(), token_file=config.token_file.absolute())
        self._files = RunFiles(self._config.work_dir)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"site-{config.info.name}")
        self._health = HealthCheck(self._config, self._woken)
        self._pump = Pump(
            self._config,
            self._files,
            self._in_thread,
            lambda: self._health.hold,
            on_change or (lambda job_id: None),
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def info(self) -> SiteInfo:
        """Name, kind and limits, from the settings."""
        return self._config.info

    async def start(self) -> None:
        """Begin to start executors, or stand by where another process does. Finds those that run."""
        with suppress(OSError):
            # `health` tells of a directory that cannot be made.
            await self._in_thread(self._files.prepare)
        self._tasks = [
            asyncio.create_task(self._health.run(), name="local-site-health"),
            asyncio.create_task(self._pump.run(), name="local-site-pump"),
        ]

    async def stop(self) -> None:
        """End this process's part. Executors run on, unless the settings say that they stop with the service."""
        if self._config.stop_with_service and self._pump.holds_lock:
            try:
                if not await self._pump.drain(self._config.grace + _DRAIN_MARGIN):
                    _log.error("local_site_executors_left", work_dir=str(self._config.work_dir))
            except OSError as error:
                _log.error("local_site_drain_failed", error=str(error))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._threads.shutdown(wait=False)

    async def health(self) -> SiteHealth:
        """Whether a container runtime, the disk and the token are in order, as of the last check."""
        health = await self._health.health()
        if health.available and self._pump.trouble is not None:
            return SiteHealth(False, self._pump.trouble)
        return health

    async def submit(self, requests: Sequence[RunRequest]) -> Sequence[str]:
        """Queue these runs, those that are known already aside, in this order behind all others."""
        await self._on_disk(self._files.submit, requests)
        await self._wake_pump()
        return ()

    async def poll(self, runs: Collection[Run], since: datetime.datetime | None = None) -> Mapping[Run, RunStatus]:
        """The state of each of these runs."""
        waiting = self._health.hold if self._tasks else None
        return await self._on_disk(self._files.poll, runs, waiting)

    async def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        """Cancel what is queued, stop what runs; those that are not over yet."""
        left = await self._on_disk(self._files.end, runs, reason)
        if left:
            await self._wake_pump()
        return left

    async def release(self, job_id: str) -> None:
        """Remove the job's runs; of executors that failed the log is kept for a time."""
        await self._on_disk(self._files.release, job_id, True)
        await self._wake_pump()

    async def clean(self, job_id: str, handles: Sequence[str] = ()) -> None:
        """Remove everything of the job, the logs of its executors included."""
        await self._on_disk(self._files.release, job_id, False)
        await self._wake_pump()

    async def runner_status(
        self, run: Run, since: datetime.datetime | None = None, handles: Sequence[str] = ()
    ) -> Mapping[str, object]:
        """State, process, times, exit code and the last lines of the executor's log."""
        status = (await self.poll([run]))[run]
        return await self._on_disk(self._describe, run, status)

    def _describe(self, run: Run, status: RunStatus) -> Mapping[str, object]:
        name = run_name(run)
        stored, over = self._files.stored(name), self._files.over(name)
        fate, process = self._files.fate(name), self._files.process(name)
        log = self._log_lines(self._files.path(name) / LOG)
        if stored is None:
            # Released: of a failed executor there is still the log.
            kept = self._log_lines(self._files.kept_log(name))
            return {"state": "released", "log": kept} if kept else {}
        request = stored.request
        told = {
            "state": status.state.value,
            "detail": status.detail,
            "user": request.user,
            "cpus": request.cpus,
            "memory": request.memory,
            "gpus": request.gpus,
            "submitted_at": _time(stored.submitted),
            "started_at": _time(fate.time) if fate and fate.started else None,
            "ended_at": _time(over.time) if over else None,
            "pid": process.pid if process else None,
            "exit_code": over.exit_code if over else None,
            "log": log,
        }
        return {key: value for key, value in told.items() if value is not None and value != []}

    def _log_lines(self, path: Path) -> list[str]:
        text = tail(path, _SHOWN_LOG).decode(errors="replace")
        with suppress(OSError, UnicodeDecodeError):
            if token := self._config.token_file.read_text(encoding="utf-8").strip():
                text = text.replace(token, "…")
        return [_SECRETS.sub(r"\1…", line) for line in text.splitlines()[-_SHOWN_LINES:]]

    def _woken(self) -> None:
        self._pump.wake()

    async def _wake_pump(self) -> None:
        if self._pump.holds_lock:
            self._pump.wake()
        else:
            await self._in_thread(poke, self._config.work_dir)

    async def _on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises SiteUnreachableError where the disk does not do as it should: that says nothing of any run."""
        try:
            return await self._in_thread(function, *args, **kwargs)
        except OSError as error:
            raise SiteUnreachableError(
                f"site {self._config.info.name}: its working directory cannot be used: {error}"
            ) from error

    async def _in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
