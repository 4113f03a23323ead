"""What operators and their tools ask: alive, ready, numbers."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from cdmtaskservice.api import models, openapi
from cdmtaskservice.api.auth import GuardedRoute
from cdmtaskservice.api.context import context_of
from cdmtaskservice.api.metrics import CONTENT_TYPE_LATEST
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import DependencyUnavailableError

router = APIRouter(route_class=GuardedRoute, tags=[openapi.HEALTH])

_log = structlog.get_logger(__name__)


@router.get("/health/live", response_model=models.Alive, summary="Alive?")
async def live() -> Response:
    """Answers as long as the process serves requests at all."""
    return JsonResponse({"status": "alive"})


@router.get(
    "/health/ready",
    response_model=models.Readiness,
    summary="Ready?",
    responses={503: {"model": models.Readiness | models.ErrorReply, "description": "Not ready"}},
)
async def ready(request: Request, parts: Parts) -> Response:
    """Whether what the service cannot work without answers. Every dependency has an entry, also those without which
    only messages or new images wait. Why one does not answer, is for administrators and the log."""
    states = await parts.health.ready()
    caller = context_of(request.scope).caller
    in_full = isinstance(caller, Principal) and parts.authentication.is_admin(caller)
    entries: list[dict[str, object]] = []
    for state in states:
        entry: dict[str, object] = {"name": state.name, "ok": state.ok, "required": state.required}
        if not state.ok:
            _log.warning("dependency_not_ready", name=state.name, detail=state.detail)
        if in_full and state.detail is not None:
            entry["detail"] = state.detail
        entries.append(entry)
    all_ok = all(s.ok for s in states if s.required)
    return JsonResponse({"ready": all_ok, "dependencies": entries}, 200 if all_ok else 503)


@router.get(
    "/metrics",
    response_class=Response,
    summary="Numbers",
    responses={200: {"description": "The numbers", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(parts: Parts) -> Response:
    """Numbers for Prometheus, in its text format."""
    try:
        gauges = await parts.health.gauges()
    except DependencyUnavailableError as error:
        # Numbers are wanted most when something is away: those that we have ourselves are given all the same.
        _log.warning("gauges_unavailable", error=error.message)
        gauges = None
    return Response(parts.metrics.page(gauges, parts.sites.availability()), media_type=CONTENT_TYPE_LATEST)
