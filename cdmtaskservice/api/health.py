"""What operators and their tools ask: alive, ready, numbers."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from cdmtaskservice.api import models, openapi
from cdmtaskservice.api.auth import GuardedRoute
from cdmtaskservice.api.metrics import CONTENT_TYPE_LATEST, HttpMetrics
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse
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
async def ready(parts: Parts) -> Response:
    """Whether everything that the service needs answers, one entry each."""
    states = await parts.health.ready()
    all_ok = all(s.ok for s in states)
    entries = [{"name": s.name, "ok": s.ok} | ({} if s.detail is None else {"detail": s.detail}) for s in states]
    return JsonResponse({"ready": all_ok, "dependencies": entries}, 200 if all_ok else 503)


@router.get(
    "/metrics",
    response_class=Response,
    summary="Numbers",
    responses={200: {"description": "The numbers", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, parts: Parts) -> Response:
    """Numbers for Prometheus, in its text format."""
    counted: HttpMetrics = request.app.state.metrics
    try:
        gauges = await parts.health.gauges()
    except DependencyUnavailableError as error:
        # Numbers are wanted most when something is away: those that we have ourselves are given all the same.
        _log.warning("gauges_unavailable", error=error.message)
        gauges = None
    return Response(counted.page(gauges), media_type=CONTENT_TYPE_LATEST)
