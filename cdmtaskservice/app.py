"""The application: all routes with what surrounds them, made for a set of services."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cdmtaskservice.api import (
    about,
    admin_jobs,
    health,
    images,
    jobs,
    nersc,
    openapi,
    refdata,
    refdata_service,
    sites,
    workers,
)
from cdmtaskservice.api.auth import AuthenticationMiddleware
from cdmtaskservice.api.cors import Cors
from cdmtaskservice.api.errors import ErrorReplies
from cdmtaskservice.api.middleware import BodyLimitMiddleware, RequestMiddleware
from cdmtaskservice.domain.errors import CTSError
from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.web import site as web
from cdmtaskservice.web.visit import PREFIX

MAX_BODY = 16 * 1024 * 1024
"""Bytes. Ten thousand input files with paths and data IDs as long as can be take 14 MB."""

Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    services: Services,
    *,
    root_path: str = "",
    cors_origins: Collection[str] = (),
    lifespan: Lifespan | None = None,
    max_body: int = MAX_BODY,
    secure: bool = False,
) -> FastAPI:
    """The HTTP interface of these services, and their pages.

    root_path: what a proxy in front takes off the path, such as `/services/cts`. cors_origins: whose pages may call the
    service from a browser, as `https://host[:port]`, or `*` alone. lifespan: entered before the first
    request and left after the last. max_body: of a request, in bytes. secure: the service's own pages are seen over
    https only.
    """
    modules = (about, sites, jobs, images, refdata, admin_jobs, nersc, workers, refdata_service, health)
    routes = [r for m in modules for r in m.router.routes if isinstance(r, Route)]
    replies = ErrorReplies(services.info.now, routes)
    app = _Application(
        title=services.info.name,
        version=services.info.version,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        # A redirect would lose the token in many a client; slashes at the end are dropped before routing instead.
        redirect_slashes=False,
        # Clients send JSON without saying so; tokens never come by themselves, as cookies do, so nobody can be tricked.
        strict_content_type=False,
        generate_unique_id_function=_operation_id,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.services = services
    for module in modules:
        app.include_router(module.router)
    app.router.routes.extend(web.routes(services, secure=secure))
    for kind in (CTSError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, replies.handle)
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimitMiddleware, limit=max_body, replies=replies, pages=PREFIX)
    app.add_middleware(AuthenticationMiddleware, authentication=services.authentication, replies=replies)
    root_path = root_path.rstrip("/")
    cors = Cors(cors_origins, root_path)
    app.add_middleware(RequestMiddleware, replies=replies, metrics=services.metrics, cors=cors, root_path=root_path)
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi())
        return self.openapi_schema


def _operation_id(route: APIRoute) -> str:
    return route.name
