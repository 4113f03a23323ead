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


async def _hint(job_id: JobId, parts: Parts) -> Response:
    """A hint that the job may have gone on. What has happened is always read from its site, and the answer does not
    tell whether there is such a job."""
    parts.callbacks.news_of_job(job_id)
    return no_content()


for _step, _summary in (
    ("download", "Inputs may be staged"),
    ("job", "The run may be over"),
    ("upload", "Outputs may be uploaded"),
    ("errlogs", "Logs of a failure may be uploaded"),
):
    router.add_api_route(
        f"/callback/{_step}/{{job_id}}",
        _hint,
        name=f"callback_{_step}",
        status_code=204,
        tags=[openapi.CALLBACKS],
        summary=_summary,
    )


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
