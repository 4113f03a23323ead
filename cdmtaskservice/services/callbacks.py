"""What others tell of a job without saying who they are: no more than that a look at it may be worth while."""

from __future__ import annotations

import re
from collections.abc import Callable

from cdmtaskservice.domain.refdata import staging_id

_ID = re.compile(r"[0-9a-zA-Z-]{1,64}", re.ASCII)
_SITE = re.compile(r"[0-9a-zA-Z._-]{1,64}", re.ASCII)


class Callbacks:
    """Takes hints. Whether the job exists is not told, and what has happened is always read from its site."""

    def __init__(self, look: Callable[[str], None], look_at_staging: Callable[[str], None]) -> None:
        """look, look_at_staging: told the ID of a job, or of a staging of reference data, to look at soon."""
        self._look = look
        self._look_at_staging = look_at_staging

    def news_of_job(self, job_id: str) -> None:
        """Something may have happened to a job."""
        if _ID.fullmatch(job_id):
            self._look(job_id)

    def news_of_refdata(self, refdata_id: str, site: str) -> None:
        """Something may have happened to the staging of reference data."""
        if _ID.fullmatch(refdata_id) and _SITE.fullmatch(site):
            self._look_at_staging(staging_id(refdata_id, site))
