"""What surrounds every request: its ID, its path made regular, its numbers, its log line, and a bound on its body.

Written for ASGI itself, since a stack of framework middlewares costs more than most of our routes.
"""

from __future__ import annotations

import re
import secrets
import time

import structlog
from fastapi.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdmtaskservice.api.context import RequestContext, context_of, put_context
from cdmtaskservice.api.cors import Cors
from cdmtaskservice.api.errors import ErrorReplies
from cdmtaskservice.services.numbers import Metrics

_CLIENT_GONE = 499
"""The status that counts for requests whose client left before the answer began, as nginx has it."""

_SLASHES = re.compile("/{2,}")
_RAW_SLASHES = re.compile(b"/{2,}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_JOB = re.compile(
    r"(?:/admin|/external_exec|/ui|/ui/admin)?(?:/jobs|/callback/(?:download|job|upload|errlogs))/(?P<job>[\w-]{1,64})"
    r"(?:/(?:container|containers|log)/(?P<container>\d{1,10})(?=/|$))?"
)
"""What a path says of the job that a request is about."""

_STAYING = "cts.staying"
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})

_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Gives every request an ID, answers whatever went wrong inside, and records what came of it.

    cors: what pages of other origins are told; their browsers' questions are answered here, as they bring no token.
    root_path: what a proxy in front takes off the path, whether it does so or leaves it to us. Empty: the server's own.
    """

    def __init__(self, app: ASGIApp, replies: ErrorReplies, metrics: Metrics, cors: Cors, root_path: str = "") -> None:
        self._app = app
        self._replies = replies
        self._metrics = metrics
        self._cors = cors
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(secrets.token_hex(8))
        put_context(scope, context)
        if self._root_path:
            scope["root_path"] = self._root_path
        make_path_regular(scope)
        added = [(b"x-request-id", context.request_id.encode()), *self._cors.headers(scope)]
        status = 0

        async def send_tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        begun = time.perf_counter()
        about = _about(scope["path"].removeprefix(self._root_path))
        with structlog.contextvars.bound_contextvars(request_id=context.request_id, **about):
            try:
                await (self._cors.preflight(scope) or self._app)(scope, receive, send_tagged)
            except ClientDisconnect:
                pass
            except Exception as error:
                if status:
                    # Too late for another answer: only a connection that breaks tells the client. The server does that.
                    _log.error("answer_broken_off", exc_info=error, **context.words)
                    raise
                with structlog.contextvars.bound_contextvars(**context.words):
                    await self._replies.reply(context.request_id, error)(scope, receive, send_tagged)
            finally:
                self._record(scope, status or _CLIENT_GONE, time.perf_counter() - begun)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], route_template(scope)
        # How long a reader stays says nothing of how quickly the service answers.
        took = None if scope.get(_STAYING) else seconds
        self._metrics.answered(method if method in _METHODS else "other", route, status, took)
        write = _log.debug if scope["path"] in _QUIET else _log.info
        write(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
            **context_of(scope).words,
        )


def mark_as_staying(scope: Scope) -> None:
    """The answer to this request goes on for as long as its reader stays."""
    scope[_STAYING] = True


def route_template(scope: Scope) -> str:
    """The path of the route that served a request, with its parameters' names; `none` where there was no route."""
    return getattr(scope.get("route"), "path", None) or "none"


def _about(path: str) -> dict[str, str | int]:
    found = _JOB.match(path)
    if found is None:
        return {}
    container = found["container"]
    return {"job": found["job"]} if container is None else {"job": found["job"], "container": int(container)}


def make_path_regular(scope: Scope) -> None:
    """Make one slash of several, and drop those at the end: neither makes another URL."""
    path: str = scope["path"]
    if "//" in path or path.endswith("/"):
        path = _SLASHES.sub("/", path).rstrip("/") or "/"
        raw = scope.get("raw_path")
        if raw is not None:
            scope["raw_path"] = _RAW_SLASHES.sub(b"/", raw).rstrip(b"/") or b"/"
    # The application itself, behind a proxy that leaves its prefix on the path.
    scope["path"] = f"{path}/" if path == scope.get("root_path") else path


class BodyLimitMiddleware:
    """Refuses bodies of more than `limit` bytes with 413, by what the client announces or else by counting.

    pages: the path of the service's own pages, which say it in their way when they come to read the body.
    """

    def __init__(self, app: ASGIApp, limit: int, replies: ErrorReplies, pages: str) -> None:
        self._app = app
        self._limit = limit
        self._replies = replies
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _announced(scope)
        if announced > self._limit and not self._is_form(scope):
            await self._replies.reply(context_of(scope).request_id, self._refusal())(scope, receive, send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            if announced > self._limit:
                raise self._refusal()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise self._refusal()
            return message

        await self._app(scope, receive_counted, send)

    def _is_form(self, scope: Scope) -> bool:
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        return scope["method"] == "POST" and f"{path}/".startswith(f"{self._pages}/")

    def _refusal(self) -> HTTPException:
        return HTTPException(413, f"The body has more than the {self._limit} bytes that are allowed")


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
