"""Parameters that several routes have."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Path, Query
from pydantic import AfterValidator

from cdmtaskservice.api.paging import read_cursor
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.parameters import check_text
from cdmtaskservice.domain.quantities import UtcTime
from cdmtaskservice.domain.states import JobState

MAX_PAGE = 1000
MAX_SEARCH = 200  # characters

MAX_NUMBER = 2**31 - 1  # a container that there is not is 404 as long as its number is one
MAX_OFFSET = 2**53 - 1  # the largest integer that every JSON reader holds

_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?", re.ASCII)


def seconds(text: object) -> object:
    """Seconds as a number, where they came as the text that everything in a query is."""
    return float(text) if isinstance(text, str) and _NUMBER.fullmatch(text) else text


JobId = Annotated[str, Path(description="The job's ID")]
ContainerNumber = Annotated[int, Path(ge=0, le=MAX_NUMBER, description="The container's number, from 0")]


async def _job_filter(
    cluster: Annotated[str | None, Query(max_length=256, description="Only jobs at this site")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state")] = None,
    tag: Annotated[str | None, Query(max_length=50, description="Only jobs with this tag")] = None,
    after: Annotated[
        UtcTime | None, Query(description="Only jobs whose state last changed at this time or later, with a timezone")
    ] = None,
    before: Annotated[
        UtcTime | None, Query(description="Only jobs whose state last changed before this time, with a timezone")
    ] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_SEARCH,
            description="Only jobs with this text in their name, a tag, their image or their ID, in whatever case",
        ),
        AfterValidator(lambda text: text if text is None else check_text(text)),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most")] = MAX_PAGE,
    cursor: Annotated[
        str | None, Query(description="The `next_cursor` of the page before, with the same filters")
    ] = None,
) -> JobFilter:
    return JobFilter(
        site=cluster,
        state=state,
        tag=tag,
        after=after,
        before=before,
        text=q,
        limit=limit,
        cursor=None if cursor is None else read_cursor(cursor),
    )


WantedJobs = Annotated[JobFilter, Depends(_job_filter)]
"""Which jobs to list. Raises: IllegalParameterError for a cursor that is none."""
