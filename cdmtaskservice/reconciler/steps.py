"""Which step looks at a job: one for sites whose containers report to the service, and one for JAWS."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.reconciler.loop import Next, Step
from cdmtaskservice.sites.base import SiteUnreachableError


class StepsBySite:
    """A step that hands each look to the one for the job's site."""

    def __init__(self, steps: Mapping[str, Step[JobRecord]]) -> None:
        """steps: by the name of the site."""
        self._steps = steps

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next[JobRecord]:
        """Look once. Raises: SiteUnreachableError for a site that is not there any more."""
        try:
            step = self._steps[job.site]
        except KeyError:
            raise SiteUnreachableError(f"The site {job.site} is not in the settings any more") from None
        return await step.look(job, full=full, reachable_since=reachable_since)
