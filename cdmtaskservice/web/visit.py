"""One request of a browser: who it is, what it has sent, and how it is answered.

Every route of the pages is made by `page`, which sees to sessions, forged forms, errors and headers. A handler gets a
`Visit` and gives a response, or raises what a service raises.
"""

from __future__ import annotations

import re
import secrets
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from cdmtaskservice.api.context import context_of
from cdmtaskservice.api.errors import RETRY_AFTER
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import CTSError, InvalidTokenError, UnauthorizedError
from cdmtaskservice.services.sessions import LIFETIME, Session
from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.web.form_data import Sent
from cdmtaskservice.web.notices import notice
from cdmtaskservice.web.provenance import ForgedFormError, came_by_https, refuse_other_sites, wants_page
from cdmtaskservice.web.rendering import Templates

PREFIX = "/ui"
COOKIE = "cts_session"
VISITOR = "cts_visitor"
"""Kept by browsers that nobody has signed in with yet, so that the form for it cannot be forged either."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

MAX_SMALL = 16_384
"""Bytes of a form in which nobody writes much."""

_MAX_FIELDS = 1000
_MAX_LOST = 2**20
"""Bytes of a form that is kept on a page while somebody signs in."""
_MAX_NEXT = 2000
"""Characters of the address of a page to go to after signing in."""
_TOO_LARGE = (
    "This form is too large, and nothing was done with it. So large a job can be submitted by the API and the command "
    "line, which send less for the same job. Your browser's button goes back to the form."
)
_VISITOR_MARK = re.compile(r"[A-Za-z0-9_-]{20,60}")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pages:
    """What all pages share. secure: cookies are for https only, whatever a request says of itself."""

    services: Services
    templates: Templates
    secure: bool


@dataclass
class Visit:
    """A request to a page. kept: the cookie that marks of forms belong to."""

    request: Request
    pages: Pages
    kept: str = field(repr=False)
    session: Session | None = None
    sent: Sent = field(default_factory=Sent)
    fresh_visitor: bool = False

    @property
    def services(self) -> Services:
        """The use cases."""
        return self.pages.services

    @property
    def user(self) -> Principal:
        """Who is signed in."""
        assert self.session is not None
        return self.session.user

    @property
    def base(self) -> str:
        """The path of the pages, as the browser sees it."""
        return str(self.request.scope.get("root_path", "")) + PREFIX

    @property
    def query(self) -> Mapping[str, str]:
        """What stands behind the question mark, the last of each name."""
        return self.request.query_params

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    @property
    def here(self) -> str:
        """This page below the pages' path, with its query."""
        query = self.request.url.query
        return urllib.parse.quote(self.section) + (f"?{query}" if query else "")

    @property
    def section(self) -> str:
        """The path of this page below that of the pages."""
        # A proxy in front may have left its prefix on the path.
        root = str(self.request.scope.get("root_path", ""))
        return str(self.request.scope["path"]).removeprefix(root).removeprefix(PREFIX)

    def html(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        text = self.pages.templates.render(
            template,
            base=self.base,
            session=self.session,
            mark=self.services.sessions.form_mark(self.kept),
            info=self.services.info,
            now=self.services.info.now(),
            here=self.here,
            section=self.section,
            notice=notice(self.query.get("done", ""), self.section) if status < HTTPStatus.BAD_REQUEST else None,
            request_id=context_of(self.request.scope).request_id,
            **values,
        )
        response = HTMLResponse(text, int(status), headers={"Cache-Control": "no-store"})
        if self.fresh_visitor:
            self.keep(response, VISITOR, self.kept)
        return response

    def confirm(
        self,
        title: str,
        lines: Sequence[str],
        button: str,
        *,
        here: str,
        back: str,
        fields: Mapping[str, str] | None = None,
        switches: Mapping[str, str] | None = None,
    ) -> Response:
        """A page that asks whether something is meant.

        here, back: paths below that of the pages, of the form and for a change of mind. fields: to send with the form.
        switches: boxes to tick, by the names of their fields with their words.
        """
        return self.html(
            "confirm.html",
            title=title,
            lines=lines,
            button=button,
            action=self.base + urllib.parse.quote(here),
            back=self.base + urllib.parse.quote(back),
            fields=fields or {},
            switches=switches or {},
        )

    def go(self, below: str) -> Response:
        """To another page, by its path below that of the pages."""
        return RedirectResponse(self.base + below, int(HTTPStatus.SEE_OTHER), {"Cache-Control": "no-store"})

    def keep(self, response: Response, cookie: str, value: str) -> None:
        """Have the browser keep something for as long as a session lasts; nothing for an empty value."""
        response.set_cookie(
            cookie,
            value,
            max_age=int(LIFETIME.total_seconds()) if value else 0,
            path=self.base,
            secure=self.pages.secure or came_by_https(self.request),
            httponly=True,
            samesite="strict",
        )


Handler: TypeAlias = Callable[[Visit], Awaitable[Response]]


def page(
    pages: Pages,
    path: str,
    show: Handler | None = None,
    submit: Handler | None = None,
    *,
    stale: Handler | None = None,
    signed_in: bool = True,
    admin: bool = False,
    asks_auth: bool = True,
    largest: int | None = None,
) -> Route:
    """A route below `PREFIX`.

    show: answers GET. submit: answers POST, once the form is found to be ours. stale: answers POST from a page of an
    earlier session; it may show what was sent, and do nothing with it. Without it such a form is refused. signed_in:
    others are asked to sign in. admin: others than administrators are refused. asks_auth: without it the session is not
    looked up, so that the route works whoever is there and while the auth service is away. largest: bytes of a form,
    where that is less than the service takes.
    """
    rules = _Rules(show, submit, stale, signed_in, admin, asks_auth, largest)

    async def endpoint(request: Request) -> Response:
        visit = Visit(request, pages, "")
        try:
            response = await _answer(visit, rules)
        except Exception as error:
            response = _fault(visit, error)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return _PageRoute(PREFIX + path, endpoint, methods=["GET"] * (show is not None) + ["POST"] * (submit is not None))


@dataclass(frozen=True)
class _Rules:
    """Of a route, as of `page`."""

    show: Handler | None
    submit: Handler | None
    stale: Handler | None
    signed_in: bool
    admin: bool
    asks_auth: bool
    largest: int | None


class _PageRoute(Route):
    """A route that is named in the metrics, and that keeps the API's handlers of errors away."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self} if match is not Match.NONE else child


async def _answer(visit: Visit, rules: _Rules) -> Response:
    """The answer. A form is read only once it is known that its sender may send it."""
    request = visit.request
    if rules.asks_auth:
        await _resume(visit)
    else:
        visit.kept = request.cookies.get(COOKIE, "")
    sends = request.method == "POST"
    if sends:
        refuse_other_sites(request)
    if rules.signed_in and visit.session is None:
        return await _sign_in_first(visit, rules)
    if rules.admin and not (visit.session and visit.session.is_admin):
        raise UnauthorizedError("This is for administrators of this service only")
    handler = rules.show
    if sends:
        visit.sent = await _sent(request, rules.largest)
        ours = visit.services.sessions.is_form_mark(visit.sent.text("mark"), visit.kept)
        handler = rules.submit if ours else rules.stale
        if handler is None:
            raise ForgedFormError(
                "This form is not from a page that was made for you, or you have signed in anew since"
            )
    assert handler is not None
    return await handler(visit)


async def _sent(request: Request, largest: int | None) -> Sent:
    """The form that a request brings. Raises: HTTPException, with 413 where it has more bytes than `largest`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if largest is not None and len(body) > largest:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return Sent.read(bytes(body), _MAX_FIELDS)


async def _resume(visit: Visit) -> None:
    """Find the session, or see to it that the browser can be told from others."""
    kept = visit.request.cookies.get(COOKIE)
    if kept:
        try:
            visit.session = await visit.services.sessions.resume(kept)
            visit.kept = kept
            context_of(visit.request.scope).caller = visit.session.user  # for the log
            return
        except InvalidTokenError:
            pass
    visitor = visit.request.cookies.get(VISITOR, "")
    if not _VISITOR_MARK.fullmatch(visitor):
        visitor, visit.fresh_visitor = secrets.token_urlsafe(24), True
    visit.kept = visitor


async def _sign_in_first(visit: Visit, rules: _Rules) -> Response:
    request = visit.request
    if not wants_page(request):
        raise InvalidTokenError("You are signed out")
    if (
        request.method == "GET"
        and request.headers.get("sec-fetch-site") == "cross-site"
        and COOKIE not in request.cookies
    ):
        # A link of another site's: browsers keep our cookie back, but not from a page of ours that asks once more.
        return visit.html("again.html")
    why = "lost" if COOKIE in request.cookies else ""
    if request.method == "POST":
        if rules.stale is not None:
            return await _lost_form(visit)
        why = "unsent"
    after = visit.here if rules.show is not None and len(visit.here) <= _MAX_NEXT else ""
    asked = urllib.parse.urlencode({k: v for k, v in (("next", after), ("why", why)) if v})
    return _forgotten(visit, visit.go("/sign-in" + (f"?{asked}" if asked else "")))


async def _lost_form(visit: Visit) -> Response:
    """A page that keeps what was sent, to send it to the route's `stale` once its sender has signed in."""
    lost = None
    try:
        sent = await _sent(visit.request, _MAX_LOST)
        lost = [(name, text) for name, texts in sent.fields.items() if name not in {"mark", "do"} for text in texts]
    except HTTPException:
        pass  # too large, or no form
    page = visit.html("lost_form.html", 401, lost=lost, action=visit.base + urllib.parse.quote(visit.section))
    return _forgotten(visit, page)


def _forgotten(visit: Visit, response: Response) -> Response:
    """Have the browser forget a session that is over."""
    if COOKIE in visit.request.cookies:
        visit.keep(response, COOKIE, "")
    return response


def _fault(visit: Visit, error: Exception) -> Response:
    """The page for what went wrong. A 5xx never shows internals: they are logged under the request's ID."""
    match error:
        case ClientDisconnect():
            raise error
        case CTSError() if error.http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
            status, words = HTTPStatus(error.http_status), error.message
        case CTSError():
            _log.warning("dependency_unavailable", error=error.message, kind=type(error).__name__)
            status = HTTPStatus(error.http_status)
            words = "Something that the service needs does not answer now. Nothing is lost: try again in some seconds."
        case HTTPException(status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            status, words = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE
        case HTTPException():
            status, words = HTTPStatus(error.status_code), str(error.detail)
        case _:
            _log.error("request_failed", exc_info=error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            words = "Something went wrong in the service. The administrators can find out what, by the request's ID."
    if not wants_page(visit.request):
        return PlainTextResponse(words + "\n", int(status))
    try:
        response = visit.html("error.html", status, shown=status, words=words)
    except Exception as second:  # the page itself is what fails
        _log.error("error_page_failed", exc_info=second)
        response = Response(f"{status} {status.phrase}\n", int(status), media_type="text/plain")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response
