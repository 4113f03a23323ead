"""How the service is, for administrators: what it needs, numbers of jobs, messages that are owed."""

from __future__ import annotations

import datetime
from collections import defaultdict

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.api.parameters import seconds
from cdmtaskservice.domain.errors import CTSError, UnsupportedOperationError
from cdmtaskservice.domain.quantities import Duration
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.web.form_data import whole_number
from cdmtaskservice.web.visit import Pages, Visit, page

_DURATION: TypeAdapter[datetime.timedelta] = TypeAdapter(Duration)


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [page(pages, "/admin/service", _show, _publish, admin=True)]


async def _show(visit: Visit) -> Response:
    jobs, messages = (whole_number(visit.query.get(name, "")) for name in ("jobs", "messages"))
    return await _page(visit, "PT10M", sent=None if jobs is None or messages is None else (jobs, messages))


async def _publish(visit: Visit) -> Response:
    text = visit.sent.text("age").strip()
    try:
        age = _DURATION.validate_python(seconds(text))
    except ValidationError as error:
        return await _page(visit, text, fault=error.errors()[0]["msg"].removeprefix("Value error, "))
    try:
        jobs, messages = await visit.services.admin_jobs.unsent(age)
    except CTSError as error:
        if error.http_status >= 500:
            raise
        return await _page(visit, text, fault=error.message)
    return visit.go(f"/admin/service?jobs={jobs}&messages={messages}")


async def _page(visit: Visit, age: str, *, fault: str = "", sent: tuple[int, int] | None = None) -> Response:
    counts: dict[str, dict[JobState, int]] = defaultdict(dict)
    owed = None
    try:
        gauges = await visit.services.health.gauges()
        owed = gauges.owed
        for (site, state), number in gauges.jobs.items():
            counts[site][JobState(state)] = number
    except CTSError:
        counts.clear()
    nersc, nersc_fault = None, ""
    try:
        nersc = await visit.services.nersc_client.lifetime()
    except UnsupportedOperationError:
        pass
    except CTSError as error:
        nersc_fault = error.message
    return visit.html(
        "service.html",
        400 if fault else 200,
        dependencies=await visit.services.health.ready(),
        counts={site: counts[site] for site in sorted(counts)},
        states=[state for state in JobState if any(state in by_state for by_state in counts.values())],
        owed=owed,
        age=age,
        fault=fault,
        sent=sent,
        nersc=nersc,
        nersc_fault=nersc_fault,
    )
