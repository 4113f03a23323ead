"""What reference data services call, and NERSC when a task there is over."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from cdmtaskservice.api import openapi, worker_models
from cdmtaskservice.api.auth import GuardedRoute, Refserv
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.refdata import Cluster, RefdataId
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState

router = APIRouter(route_class=GuardedRoute)


@router.post(
    "/external_exec/refdata/{cluster}/work",
    response_model=worker_models.RefdataWork,
    tags=[openapi.EXECUTORS],
    summary="Look for something to do",
    responses=openapi.errors(ErrorType.UNSUPPORTED),
)
async def claim_refdata_work(cluster: Cluster, request: RefdataWorkRequest, service: Refserv, parts: Parts) -> Response:
    """What this reference data service is to do at the site."""
    return JsonResponse(await parts.refdata_desk.work(cluster, request))


@router.post(
    "/external_exec/refdata/{refdata_id}/{cluster}/progress",
    response_model=worker_models.RefdataProgressAnswer,
    tags=[openapi.EXECUTORS],
    summary="Give a sign of life",
    responses=openapi.errors(ErrorType.UNSUPPORTED),
)
async def report_refdata_progress(
    refdata_id: RefdataId, cluster: Cluster, told: RefdataProgress, service: Refserv, parts: Parts
) -> Response:
    """The task is so far. The answer says whether it must stop."""
    return JsonResponse(await parts.refdata_desk.progress(refdata_id, cluster, told))


@router.put(
    "/external_exec/refdata/{refdata_id}/{cluster}/update/{state}",
    status_code=204,
    tags=[openapi.EXECUTORS],
    summary="Report a state",
    responses=openapi.errors(
        ErrorType.ILLEGAL_PARAMETER,
        ErrorType.INVALID_REFDATA_STATE,
        ErrorType.NO_SUCH_REFDATA,
        ErrorType.UNSUPPORTED,
    ),
)
async def update_refdata(
    refdata_id: RefdataId,
    cluster: Cluster,
    state: Annotated[RefdataState, Path(description="`complete` or `error`")],
    service: Refserv,
    parts: Parts,
    update: Annotated[RefdataUpdate | None, Body(description="What else there is to say")] = None,
) -> Response:
    """A task is done, or has failed."""
    await parts.refdata_desk.update(refdata_id, cluster, state, update or RefdataUpdate())
    return no_content()


@router.get(
    "/callback/refdata_download/{refdata_id}/{cluster}",
    status_code=204,
    tags=[openapi.CALLBACKS],
    summary="Reference data may be staged",
)
async def callback_refdata_download(refdata_id: RefdataId, cluster: Cluster, parts: Parts) -> Response:
    """A hint that staging may have gone on. What has happened is always read from the site, and the answer does not
    tell whether there is such reference data."""
    parts.callbacks.news_of_refdata(refdata_id, cluster)
    return no_content()
