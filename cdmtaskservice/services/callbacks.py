"""What others tell of a job without saying who they are: no more than that a look at it may be worth while."""

from __future__ import annotations

import re
from collections.abc import Callable

_ID = re.compile(r"[0-9a-zA-Z-]{1,64}", re.ASCII)


class Callbacks:
    """Takes hints. Whether the job exists is not told, and what has happened is always read from its site."""

    def __init__(self, look: Callable[[str], None]) -> None:
        """look: told the ID of a job that should be looked at soon."""
        self._look = look

    def news_of_job(self, job_id: str) -> None:
        """Something may have happened to a job."""
        if _ID.fullmatch(job_id):
            self._look(job_id)
