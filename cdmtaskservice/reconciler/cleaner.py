"""Removes what submissions left that never became jobs, because the service was killed in their middle, and logs that
nobody follows any more."""

from __future__ import annotations

import asyncio
import datetime

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.live_logs import LiveLogStore

_log = structlog.get_logger(__name__)

_FOLLOWED_BEFORE = datetime.timedelta(minutes=5)
"""How long nobody has followed a log that is dropped."""


class Cleaner:
    """Runs in every process; what it does may be done twice."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        live_logs: LiveLogStore,
        clock: Clock,
        *,
        age: float,
        interval: float = 600.0,
    ) -> None:
        """age: seconds after which a submission that is not a job by then never will be."""
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._live_logs = live_logs
        self._clock = clock
        self._age = datetime.timedelta(seconds=age)
        self._interval = interval

    async def run(self) -> None:
        """Clean now and then until cancelled."""
        while True:
            try:
                await self.clean()
                await self._live_logs.forget(self._clock() - _FOLLOWED_BEFORE)
            except DependencyUnavailableError as e:
                _log.warning("cleaning_waits", error=e.message)
            except Exception:
                _log.exception("cleaning_failed")
            await asyncio.sleep(self._interval)

    async def clean(self) -> int:
        """Clean once; returns how many submissions were removed."""
        stale = await self._jobs.announced_before(self._clock() - self._age, 1000)
        accepted = await self._jobs.existing(stale) if stale else set()
        for job_id in stale:
            if job_id not in accepted:
                await self._files.delete(job_id)
                await self._containers.delete(job_id)
            await self._jobs.settle(job_id)
        return len(stale) - len(accepted)
