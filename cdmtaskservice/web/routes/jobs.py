"""Lists of jobs: one's own, and for administrators everybody's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.api.paging import cursor_after, read_cursor
from cdmtaskservice.api.parameters import MAX_SEARCH
from cdmtaskservice.domain.errors import CTSError
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.parameters import check_text
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.web.rendering import linked
from cdmtaskservice.web.visit import Pages, Visit, page

PAGE = 50
"""Jobs on a page."""
MAX_HELD = 50
"""Jobs that are held up, shown before all others."""

_LONGEST = {"q": MAX_SEARCH, "tag": 50, "cluster": 256, "user": 256}
_TIMES = ("after", "before")
_FILTERS = ("q", "state", "cluster", "tag", "user", *_TIMES)


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [page(pages, "/jobs", _own), page(pages, "/admin/jobs", _all, admin=True)]


async def _own(visit: Visit) -> Response:
    wanted, faults = _wanted(visit)
    listed = await visit.services.jobs.list(visit.user, wanted)
    return await _page(visit, "My jobs", "/jobs", wanted, listed, None, faults)


async def _all(visit: Visit) -> Response:
    assert visit.session is not None
    wanted, faults = _wanted(visit)
    wanted = replace(wanted, user=visit.query.get("user", "").strip() or None)
    try:
        listed = await visit.services.admin_jobs.list(wanted, visit.session.token)
    except CTSError as error:
        if error.http_status >= 500:
            raise
        faults, listed = {**faults, "User": error.message}, []
    held = None
    if wanted.cursor is None and not faults:
        waiting = replace(wanted, waiting=True, limit=MAX_HELD)
        held = await visit.services.admin_jobs.list(waiting, visit.session.token)
    return await _page(visit, "All jobs", "/admin/jobs", wanted, listed, held, faults)


def _wanted(visit: Visit) -> tuple[JobFilter, dict[str, str]]:
    """What the query asks for, and what of it cannot be understood, in words by name."""
    faults: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, longest in _LONGEST.items():
        text = visit.query.get(name, "").strip()
        try:
            if len(text) > longest:
                raise ValueError(f"at most {longest} characters are possible")
            values[name] = check_text(text) or None
        except ValueError as error:
            faults[name.capitalize()] = str(error)
    for name in _TIMES:
        try:
            values[name] = _time(visit.query.get(name, ""))
        except (ValueError, OverflowError):
            faults[name.capitalize()] = "give a date and a time, such as 2030-01-31T12:00"
    state = visit.query.get("state", "")
    if state:
        try:
            values["state"] = JobState(state)
        except ValueError:
            faults["State"] = "there is no such state"
    cursor = visit.query.get("cursor")
    wanted = JobFilter(
        site=values.get("cluster"),
        state=values.get("state"),
        tag=values.get("tag"),
        after=values.get("after"),
        before=values.get("before"),
        text=values.get("q"),
        cursor=read_cursor(cursor) if cursor else None,
        limit=PAGE,
    )
    return wanted, faults


def _time(text: str) -> datetime.datetime | None:
    """A time in UTC, as browsers send it; None for nothing. Raises: ValueError, OverflowError."""
    if not text:
        return None
    time = datetime.datetime.fromisoformat(text)
    return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)


async def _page(
    visit: Visit,
    heading: str,
    root: str,
    wanted: JobFilter,
    listed: Sequence[JobRecord],
    held: Sequence[JobRecord] | None,
    faults: Mapping[str, str],
) -> Response:
    admin = root != "/jobs"
    asked = {name: visit.query.get(name, "") for name in _FILTERS if admin or name != "user"}
    more = []
    if len(listed) >= wanted.limit:
        more = [("Older jobs", linked(visit.base + root, {**asked, "cursor": cursor_after(listed[-1])}))]
    if wanted.cursor is not None:
        more.insert(0, ("Newest jobs", linked(visit.base + root, asked)))
    return visit.html(
        "jobs.html",
        400 if faults else 200,
        heading=heading,
        root=root,
        admin=admin,
        # A search reads all jobs, everybody's above all: too much to do it over and over.
        polls=not faults and not (admin and asked["q"]),
        wanted=asked,
        filtered=any(asked.values()),
        states=list(JobState),
        sites=[site.info.name for site in await visit.services.sites.list()],
        listed=listed,
        held=held,
        faults=faults,
        more=more,
        first="",
    )
