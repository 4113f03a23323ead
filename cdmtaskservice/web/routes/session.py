"""Signing in and out, and the files of the pages."""

from __future__ import annotations

import urllib.parse

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError, InvalidTokenError
from cdmtaskservice.web.rendering import Assets
from cdmtaskservice.web.visit import COOKIE, Pages, Visit, page


def routes(pages: Pages, assets: Assets) -> list[Route]:
    """These pages."""

    async def asset(visit: Visit) -> Response:
        found = assets.get(visit.path("name"))
        if found is None:
            raise HTTPException(404, "There is no such file")
        etag = f'"{assets.version}"'
        current = visit.path("version") == assets.version
        headers = {
            "ETag": etag,
            "Cache-Control": "public, max-age=31536000, immutable" if current else "no-cache",
        }
        if visit.request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    return [
        page(pages, "", _home),
        page(pages, "/sign-in", _show, _sign_in, signed_in=False),
        page(pages, "/sign-out", None, _sign_out, signed_in=False),
        page(pages, "/static/{version}/{name}", asset, signed_in=False),
    ]


async def _home(visit: Visit) -> Response:
    return visit.go("/jobs")


async def _show(visit: Visit) -> Response:
    if visit.session is not None:
        return visit.go(_next(visit.query.get("next", "")))
    return _form(visit)


async def _sign_in(visit: Visit) -> Response:
    token = visit.sent.text("token").strip()
    if not token:
        return _form(visit, "Give your token")
    try:
        kept = await visit.services.sessions.begin(token)
    except DependencyUnavailableError:
        raise
    except InvalidTokenError as error:
        return _form(visit, f"This token is not valid: {error.message}")
    except CTSError as error:
        return _form(visit, error.message)
    response = visit.go(_next(visit.sent.text("next")))
    visit.keep(response, COOKIE, kept)
    return response


async def _sign_out(visit: Visit) -> Response:
    response = visit.go("/sign-in?done=signed-out")
    visit.keep(response, COOKIE, "")
    return response


def _form(visit: Visit, fault: str | None = None) -> Response:
    lost = visit.query.get("why") == "lost"
    after = visit.query.get("next", "") or visit.sent.text("next")
    return visit.html("sign_in.html", 401 if fault else 200, fault=fault, lost=lost, after=after)


def _next(below: str) -> str:
    """Where to go after signing in: a page of ours, or the first one."""
    parts = urllib.parse.urlsplit(below)
    own = below.startswith("/") and not below.startswith("//") and not parts.netloc and not parts.scheme
    return below if own and "\\" not in below and below.isprintable() and below.isascii() else "/jobs"
