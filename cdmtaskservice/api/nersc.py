"""What NERSC and JAWS call when something has happened, and what administrators ask of the client at NERSC."""

from __future__ import annotations

import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from cdmtaskservice.api import models, openapi
from cdmtaskservice.api.auth import Admin, GuardedRoute
from cdmtaskservice.api.parameters import JobId, seconds
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.quantities import Duration, format_duration

router = APIRouter(route_class=GuardedRoute)


@router.get("/callback/download/{job_id}", status_code=204, tags=[openapi.CALLBACKS], summary="Inputs may be there")
async def callback_download(job_id: JobId, parts: Parts) -> Response:
    """A hint that the job's inputs may be staged. What has happened is always read from the site."""
    return _hint(job_id, parts)


@router.get("/callback/job/{job_id}", status_code=204, tags=[openapi.CALLBACKS], summary="The run may be over")
async def callback_job(job_id: JobId, parts: Parts) -> Response:
    """A hint that the job's run may have gone on. What has happened is always read from the site."""
    return _hint(job_id, parts)


@router.get("/callback/upload/{job_id}", status_code=204, tags=[openapi.CALLBACKS], summary="Outputs may be there")
async def callback_upload(job_id: JobId, parts: Parts) -> Response:
    """A hint that the job's outputs may be uploaded. What has happened is always read from the site."""
    return _hint(job_id, parts)


@router.get("/callback/errlogs/{job_id}", status_code=204, tags=[openapi.CALLBACKS], summary="Logs may be there")
async def callback_errlogs(job_id: JobId, parts: Parts) -> Response:
    """A hint that the logs of a failed job may be uploaded. What has happened is always read from the site."""
    return _hint(job_id, parts)


def _hint(job_id: str, parts: Parts) -> Response:
    parts.callbacks.news_of_job(job_id)
    return no_content()


@router.get(
    "/admin/clients/nersc",
    response_model=models.NerscClient,
    tags=[openapi.ADMIN],
    summary="The client at NERSC",
    responses=openapi.errors(ErrorType.CLIENT_LIFETIME, ErrorType.UNSUPPORTED),
)
async def admin_get_nersc_client(
    admin: Admin,
    parts: Parts,
    require_lifetime: Annotated[
        Duration | None,
        BeforeValidator(seconds),
        Query(description="An error where the client expires sooner: seconds, or an ISO 8601 duration"),
    ] = None,
) -> Response:
    """The client of NERSC's Superfacility API with which the service works, and when it expires."""
    found = await parts.nersc_client.lifetime(require_lifetime)
    left = datetime.timedelta(seconds=int(found.expires_in.total_seconds()))
    return JsonResponse({"id": found.id, "expires_at": found.expires_at, "expires_in": format_duration(left)})
