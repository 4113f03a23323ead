"""What a request says of where it comes from, and how. A proxy in front may name several, the browser's first."""

from __future__ import annotations

import urllib.parse

from starlette.requests import Request

from cdmtaskservice.domain.errors import UnauthorizedError


class ForgedFormError(UnauthorizedError):
    """A form that no page of ours has made for this browser. The client gets 403."""


def wants_page(request: Request) -> bool:
    """Whether it is a person who asks, and not a script of a page."""
    accepted = request.headers.get("accept", "*/*")
    by_script = request.headers.get("sec-fetch-mode", "navigate") != "navigate"
    return not by_script and ("text/html" in accepted or "*/*" in accepted)


def came_by_https(request: Request) -> bool:
    """Whether the browser uses https."""
    # Only whoever sends it is affected by it, so a proxy's word is taken on trust.
    return "https" in (request.url.scheme, (_first(request, "x-forwarded-proto") or "").lower())


def refuse_other_sites(request: Request) -> None:
    """Refuse a form that another site has sent. Raises: ForgedFormError.

    Browsers say where a request comes from, but for `Origin: null`, which pages that send no referrer give over plain
    HTTP; then the mark in the form alone decides.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        foreign = site not in {"same-origin", "none"}
    else:
        origin = request.headers.get("origin", "null")
        foreign = origin != "null" and _host(origin) not in {
            request.headers.get("host"),
            _first(request, "x-forwarded-host"),
        }
    if foreign:
        raise ForgedFormError("This form was sent by another site")


def _first(request: Request, header: str) -> str | None:
    value = request.headers.get(header)
    return value.partition(",")[0].strip() if value else None


def _host(origin: str) -> str:
    """The host of an origin, with its port; a text that is no host for what is no origin."""
    try:
        return urllib.parse.urlsplit(origin).netloc or "?"
    except ValueError:
        return "?"
