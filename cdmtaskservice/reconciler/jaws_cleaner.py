"""Removes at NERSC, by age, what jobs have left: their directories, the results of their runs, and cached inputs."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_CLOCKS_APART = 3600.0
"""Seconds by which NERSC's clock and this one may be apart."""
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
            for clean in (self.clean_jobs, self.expire_inputs):
                try:
                    await clean()
                except DependencyUnavailableError as e:
                    _log.info("jaws_cleaning_waits", error=e.message)
                except Exception:
                    _log.exception("jaws_cleaning_failed")
            await asyncio.sleep(self._interval)

    async def clean_jobs(self) -> None:
        """Clean all jobs that are old enough. One that cannot be cleaned now is tried again next time."""
        since = None
        while True:
            before = self._clock() - self._keep_jobs
            over = await self._jobs.over_before(self._sites.keys(), before, _AT_ONCE, since)
            for job in over:
                site = self._sites[job.site]
                try:
                    await site.clean(job.id, job.handles.get(site.info.kind, ()))
                except SiteUnreachableError as e:
                    _log.warning("job_not_cleaned", job=job.id, error=e.message)
                    await site.require_up()  # else it would be so with all the others
                else:
                    await self._jobs.set_fields(job.id, {"cleaned": 1})
            if len(over) < _AT_ONCE or over[-1].updated == since:
                return
            since = over[-1].updated

    async def expire_inputs(self) -> None:
        """Remove cached inputs that nobody needs; what was staged for a job that still waits stays."""
        since = await self._jobs.unfinished_since(self._sites.keys())
        needed = (self._clock() - since).total_seconds() + _CLOCKS_APART if since is not None else 0.0
        for site in self._sites.values():
            await site.expire_inputs(needed)
