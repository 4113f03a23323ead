"""Removes at NERSC, by age, what jobs have left: their directories, the results of their runs, and cached inputs."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_STAGING = 3 * 86400.0
"""Seconds that a job may have taken to stage its inputs."""
_AT_ONCE = 20
"""Jobs that are cleaned in one go."""


class JawsCleaner:
    """Runs in every process; what it does may be done twice."""

    def __init__(
        self,
        jobs: JobStore,
        sites: Mapping[str, JawsSite],
        clock: Clock,
        *,
        keep_jobs: float,
        interval: float,
    ) -> None:
        """keep_jobs: seconds for which the files of a job that is over stay. interval: seconds between two goes."""
        self._jobs = jobs
        self._sites = sites
        self._clock = clock
        self._keep_jobs = datetime.timedelta(seconds=keep_jobs)
        self._interval = interval

    async def run(self) -> None:
        """Clean now and then until cancelled."""
        while self._sites:
            try:
                while await self.clean_jobs() == _AT_ONCE:
                    pass
                await self.expire_inputs()
            except DependencyUnavailableError as e:
                _log.info("jaws_cleaning_waits", error=e.message)
            except Exception:
                _log.exception("jaws_cleaning_failed")
            await asyncio.sleep(self._interval)

    async def clean_jobs(self) -> int:
        """Clean once; returns how many jobs were cleaned."""
        over = await self._jobs.over_before(self._sites.keys(), self._clock() - self._keep_jobs, _AT_ONCE)
        for job in over:
            site = self._sites[job.site]
            await site.clean(job.id, job.handles.get(site.info.kind, ()))
            await self._jobs.set_fields(job.id, {"cleaned": 1})
        return len(over)

    async def expire_inputs(self) -> None:
        """Remove cached inputs that nobody needs; what was staged for a job that still waits stays."""
        since = await self._jobs.unfinished_since(self._sites.keys())
        needed = (self._clock() - since).total_seconds() + _STAGING if since is not None else 0.0
        for site in self._sites.values():
            await site.expire_inputs(needed)
