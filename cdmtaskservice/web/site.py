"""All pages together."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.web.rendering import Assets, Templates
from cdmtaskservice.web.routes import admin_job, images, job, jobs, live, refdata, service, session, sites, submit
from cdmtaskservice.web.visit import MAX_SMALL, Pages, Visit, page


def routes(services: Services, *, secure: bool) -> list[Route]:
    """The routes of the pages. secure: cookies are for https only."""
    assets = Assets()
    pages = Pages(services, Templates(assets), secure)
    found = session.routes(pages, assets)
    for module in (jobs, job, live, admin_job, submit, images, refdata, sites, service):
        found += module.routes(pages)
    # The last one takes what no other does, with any method, so that the answer is a page as well.
    found.append(page(pages, "/{rest:path}", _nowhere, _nowhere, largest=MAX_SMALL))
    return found


async def _nowhere(visit: Visit) -> Response:
    raise HTTPException(404, "There is no such page")
