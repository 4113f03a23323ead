"""The sites that run jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from cdmtaskservice.api import models, openapi, views
from cdmtaskservice.api.auth import Admin, GuardedRoute
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType

router = APIRouter(route_class=GuardedRoute)

Cluster = Annotated[str, Path(description="The site's name", examples=["kbase"])]


@router.get("/sites", response_model=models.Sites, tags=[openapi.SITES], summary="All sites")
async def list_sites(parts: Parts) -> Response:
    """Every site with its limits per container, whether it is open, and whether it answers."""
    return JsonResponse({"sites": [views.site(s) for s in await parts.sites.list()]})


@router.put(
    "/admin/sites/{cluster}/active",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Open a site",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER),
)
async def open_site(cluster: Cluster, admin: Admin, parts: Parts) -> Response:
    """Let users submit jobs to the site."""
    await parts.sites.set_active(cluster, True)
    return no_content()


@router.delete(
    "/admin/sites/{cluster}/active",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Close a site",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER),
)
async def close_site(cluster: Cluster, admin: Admin, parts: Parts) -> Response:
    """Take no new jobs for the site. Jobs that it has go on."""
    await parts.sites.set_active(cluster, False)
    return no_content()
