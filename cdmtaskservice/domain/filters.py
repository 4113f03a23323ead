"""Which jobs to list."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cdmtaskservice.domain.states import JobState


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list. `after` is inclusive, `before` exclusive, both on the last state change.

    text: what a job's name, one of its tags, its image or its ID has somewhere in it, in whatever case.
    waiting: only jobs that are not over and that something holds up.
    cursor: the (last state change, job ID) of the last job of the page before, if any.
    """

    user: str | None = None
    site: str | None = None
    state: JobState | None = None
    tag: str | None = None
    after: datetime.datetime | None = None
    before: datetime.datetime | None = None
    text: str | None = None
    waiting: bool = False
    cursor: tuple[datetime.datetime, str] | None = None
    limit: int = 1000
