"""Sites and their state; administrators open and close them."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.web.visit import Pages, Visit, page


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [
        page(pages, "/sites", _show),
        page(pages, "/admin/sites/{name}/close", _ask_close, _close, admin=True),
        page(pages, "/admin/sites/{name}/open", None, _open, admin=True),
    ]


async def _show(visit: Visit) -> Response:
    return visit.html("sites.html", sites=await visit.services.sites.list())


async def _ask_close(visit: Visit) -> Response:
    name = visit.services.sites.info(visit.path("name")).name
    return visit.confirm(
        f"Close the site {name}?",
        ["New jobs for it will be refused until it is opened again. Jobs that it has go on."],
        "Close the site",
        here=f"/admin/sites/{name}/close",
        back="/sites",
    )


async def _close(visit: Visit) -> Response:
    await visit.services.sites.set_active(visit.path("name"), False)
    return visit.go("/sites?done=closed")


async def _open(visit: Visit) -> Response:
    await visit.services.sites.set_active(visit.path("name"), True)
    return visit.go("/sites?done=opened")
