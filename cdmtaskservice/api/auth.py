"""Who is asking, and whether they may.

The token is looked at by a middleware before anything else of a request. What a route asks of the caller is declared
at the route, as a dependency of one of the types below, and is checked before the body is read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias, TypeGuard

import structlog
from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cdmtaskservice.api.context import context_of
from cdmtaskservice.api.errors import ErrorReplies
from cdmtaskservice.api.parts import services_of
from cdmtaskservice.auth.container_token import ContainerClaim
from cdmtaskservice.auth.header import parse_authorization
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import (
    CTSError,
    InvalidAuthHeaderError,
    MissingTokenError,
    UnauthorizedError,
)
from cdmtaskservice.services.authentication import Authentication

Caller: TypeAlias = Principal | ContainerClaim


class AuthenticationMiddleware:
    """Finds out who sends a request, where it has a token, and refuses bad tokens whatever the URL."""

    def __init__(self, app: ASGIApp, authentication: Authentication, replies: ErrorReplies) -> None:
        self._app = app
        self._authentication = authentication
        self._replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        try:
            context.token = _token(scope)
            if context.token is not None:
                context.caller = await self._authentication.principal(context.token)
        except CTSError as error:
            await self._replies.reply(context.request_id, error)(scope, receive, send)
            return
        with structlog.contextvars.bound_contextvars(**context.words):
            await self._app(scope, receive, send)


class Role(SecurityBase):
    """What a route asks of its caller. As a dependency it gives the caller.

    permits: whether this caller may; asked only where there is one. needed: what it takes, for the refusal.
    """

    # What makes it a security scheme in the OpenAPI document; all roles are one scheme, as they share the name.
    model = HTTPBearer(description="A KBase token. Executors and containers have tokens of their own.")
    scheme_name = "Token"

    def __init__(self, permits: Callable[[Authentication, Caller], bool], needed: str) -> None:
        self._permits = permits
        self._needed = needed

    def check(self, request: Request) -> Caller:
        """The caller. Raises: MissingTokenError, UnauthorizedError."""
        caller = context_of(request.scope).caller
        if caller is None:
            raise MissingTokenError("This needs a token: send the header 'Authorization: Bearer TOKEN'")
        if not self._permits(services_of(request).authentication, caller):
            raise UnauthorizedError(f"This is for {self._needed} only")
        return caller

    async def __call__(self, request: Request) -> Caller:
        """The caller, as a dependency. Raises as `check` does."""
        return self.check(request)


class GuardedRoute(APIRoute):
    """A route that checks the roles which it declares before it reads the body.

    Dependencies alone would come too late: the framework reads and parses a body first, so a stranger could have
    megabytes parsed, and would be told of faults in them before being told to sign in.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route with the check in front of it."""
        handler = super().get_route_handler()
        roles = [d.call for d in self.dependant.dependencies if isinstance(d.call, Role)]
        if not roles:
            return handler

        async def guarded(request: Request) -> Response:
            for role in roles:
                role.check(request)
            return await handler(request)

        return guarded


async def _sent_token(request: Request) -> str:
    return context_of(request.scope).token or ""


def _is_user(caller: Caller) -> TypeGuard[Principal]:
    return isinstance(caller, Principal)


User = Annotated[Principal, Depends(Role(lambda _, c: _is_user(c), "users; a container token is for its own calls"))]
Admin = Annotated[
    Principal, Depends(Role(lambda a, c: _is_user(c) and a.is_admin(c), "administrators of this service"))
]
AdminOrExecutor = Annotated[
    Principal,
    Depends(
        Role(
            lambda a, c: _is_user(c) and (a.is_admin(c) or a.is_executor(c)),
            "administrators of this service and external executors",
        )
    ),
]
Executor = Annotated[Principal, Depends(Role(lambda a, c: _is_user(c) and a.is_executor(c), "external executors"))]
ExecutorOrContainer = Annotated[
    Principal | ContainerClaim,
    Depends(
        Role(
            lambda a, c: isinstance(c, ContainerClaim) or a.is_executor(c),
            "external executors and containers with the token of their work order",
        )
    ),
]
Refserv = Annotated[Principal, Depends(Role(lambda a, c: _is_user(c) and a.is_refserv(c), "reference data services"))]
SentToken = Annotated[str, Depends(_sent_token)]
"""The caller's token itself, where the auth service must be asked in their name."""


def _token(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        raise InvalidAuthHeaderError("The request has several Authorization headers: send one")
    return parse_authorization(values[0].decode("latin-1"))
