"""Signing in and out, and the files of the pages."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError, InvalidTokenError
from cdmtaskservice.web.next_page import next_page
from cdmtaskservice.web.provenance import ForgedFormError
from cdmtaskservice.web.rendering import Assets
from cdmtaskservice.web.visit import COOKIE, MAX_SMALL, Pages, Visit, page


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
        page(pages, "/sign-in", _show, _sign_in, signed_in=False, largest=MAX_SMALL),
        page(
            pages,
            "/sign-out",
            None,
            _sign_out,
            stale=_sign_out_anew,
            signed_in=False,
            asks_auth=False,
            largest=MAX_SMALL,
        ),
        page(pages, "/static/{version}/{name}", asset, signed_in=False, asks_auth=False),
    ]


async def _home(visit: Visit) -> Response:
    return visit.go("/jobs")


async def _show(visit: Visit) -> Response:
    if visit.session is not None:
        return visit.go(next_page(visit.query.get("next", "")))
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
    response = visit.go(next_page(visit.sent.text("next")))
    visit.keep(response, COOKIE, kept)
    return response


async def _sign_out(visit: Visit) -> Response:
    response = visit.go("/sign-in?done=signed-out")
    visit.keep(response, COOKIE, "")
    return response


async def _sign_out_anew(visit: Visit) -> Response:
    """A browser that keeps no session any more is signed out whatever its form says; that of another session stays."""
    if visit.kept:
        raise ForgedFormError("This page is from before you have signed in anew; reload it, and sign out there")
    return await _sign_out(visit)


def _form(visit: Visit, fault: str | None = None) -> Response:
    why = "" if fault else visit.query.get("why", "")
    after = visit.query.get("next", "") or visit.sent.text("next")
    return visit.html("sign_in.html", 401 if fault else 200, fault=fault, why=why, after=after)
