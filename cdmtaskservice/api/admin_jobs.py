"""Everybody's jobs, for administrators."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BeforeValidator
from starlette.responses import Response

from cdmtaskservice.api import models, openapi, views
from cdmtaskservice.api.auth import Admin, AdminOrExecutor, GuardedRoute, SentToken
from cdmtaskservice.api.jobs import page
from cdmtaskservice.api.parameters import MAX_NUMBER, ContainerNumber, JobId, WantedJobs, seconds
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.quantities import Duration
from cdmtaskservice.domain.states import JobState

router = APIRouter(route_class=GuardedRoute, tags=[openapi.ADMIN])

_NO_JOB = openapi.errors(ErrorType.NO_SUCH_JOB)
_NO_SUBJOB = openapi.errors(ErrorType.NO_SUCH_JOB, ErrorType.NO_SUCH_SUBJOB)
_WRONG_STATE = openapi.errors(ErrorType.INVALID_JOB_STATE, ErrorType.NO_SUCH_JOB)
_LONGEST_AGE = datetime.timedelta(days=3650)


def _check_age(age: datetime.timedelta) -> datetime.timedelta:
    if age > _LONGEST_AGE:
        raise ValueError(f"the age may be at most {_LONGEST_AGE.days} days")
    return age


@router.get(
    "/admin/jobs",
    response_model=models.JobList,
    summary="Everybody's jobs",
    responses=openapi.errors(ErrorType.INVALID_USERNAME),
)
async def admin_list_jobs(
    admin: Admin,
    token: SentToken,
    parts: Parts,
    wanted: WantedJobs,
    user: Annotated[str | None, Query(description="Only this user's jobs")] = None,
    waiting: Annotated[
        bool, Query(description="Only jobs that cannot go on now: held, stuck, or with something that does not answer")
    ] = False,
) -> Response:
    """Jobs of everybody, or of one user, the newest state change first."""
    wanted = replace(wanted, user=user, waiting=waiting)
    return JsonResponse(page(await parts.admin_jobs.list(wanted, token), wanted))


@router.get("/admin/jobs/{job_id}", response_model=models.AdminJobDetails, summary="Anybody's job", responses=_NO_JOB)
async def admin_get_job(job_id: JobId, caller: AdminOrExecutor, parts: Parts) -> Response:
    """A job with all its files and everything that is known of it. For external executors too."""
    return JsonResponse(views.admin_job(*await parts.admin_jobs.get(job_id)))


@router.get(
    "/admin/jobs/{job_id}/exit_codes",
    response_model=models.ExitCodes,
    summary="Anybody's exit codes",
    responses=_NO_JOB,
)
async def admin_get_exit_codes(job_id: JobId, admin: Admin, parts: Parts) -> Response:
    """The exit codes by container number."""
    return JsonResponse({"exit_codes": await parts.admin_jobs.exit_codes(job_id)})


@router.put("/admin/jobs/{job_id}/cancel", status_code=204, summary="Cancel anybody's job", responses=_WRONG_STATE)
async def admin_cancel_job(job_id: JobId, admin: Admin, parts: Parts) -> Response:
    """As the owner would cancel it."""
    await parts.admin_jobs.cancel(job_id)
    return no_content()


@router.get(
    "/admin/jobs/{job_id}/container", response_model=models.SubJobs, summary="A job's containers", responses=_NO_JOB
)
async def admin_list_containers(job_id: JobId, admin: Admin, parts: Parts) -> Response:
    """All containers of a job, by number."""
    return JsonResponse({"subjobs": [views.sub_job(c) for c in await parts.admin_jobs.containers(job_id)]})


@router.get(
    "/admin/jobs/{job_id}/container/{container_number}",
    response_model=models.SubJob,
    summary="A container",
    responses=_NO_SUBJOB,
)
async def admin_get_container(job_id: JobId, container_number: ContainerNumber, admin: Admin, parts: Parts) -> Response:
    """One container of a job."""
    return JsonResponse(views.sub_job(await parts.admin_jobs.container(job_id, container_number)))


@router.get(
    "/admin/jobs/{job_id}/runner_status",
    response_model=dict[str, object],
    summary="What the engine says",
    responses=_NO_SUBJOB,
)
async def admin_get_runner_status(
    job_id: JobId,
    admin: Admin,
    parts: Parts,
    container_number: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Of which container's run")] = 0,
) -> Response:
    """What the site's engine says of a container's run, in its own words; `{}` before it was submitted."""
    return JsonResponse(await parts.admin_jobs.runner_status(job_id, container_number))


@router.put(
    "/admin/jobs/{job_id}/meta",
    status_code=204,
    summary="Note something on a job",
    responses=openapi.errors(ErrorType.MISSING_PARAMETER, ErrorType.ILLEGAL_PARAMETER, ErrorType.NO_SUCH_JOB),
)
async def admin_update_meta(job_id: JobId, meta: models.MetaUpdate, admin: Admin, parts: Parts) -> Response:
    """Set and remove keys of the job's `admin_meta`, which its owner sees too."""
    await parts.admin_jobs.set_meta(job_id, meta.set_fields, meta.unset_keys)
    return no_content()


@router.put("/admin/jobs/{job_id}/notify", status_code=204, summary="Publish a state again", responses=_WRONG_STATE)
async def admin_notify(
    job_id: JobId,
    admin: Admin,
    parts: Parts,
    state: Annotated[JobState, Query(description="A state that the job has been in")],
) -> Response:
    """Publish once more the message that the job has come to a state."""
    await parts.admin_jobs.notify(job_id, state)
    return no_content()


@router.delete("/admin/jobs/{job_id}/clean", status_code=204, summary="Remove a job's files", responses=_WRONG_STATE)
async def admin_clean_job(
    job_id: JobId,
    admin: Admin,
    parts: Parts,
    force: Annotated[bool, Query(description="Even where the job is not over")] = False,
) -> Response:
    """Remove the job's files at its site; outputs in S3 stay. A second time it does nothing."""
    await parts.admin_jobs.clean(job_id, force)
    return no_content()


@router.post(
    "/admin/unsent_notifications",
    response_model=models.Unsent,
    summary="Publish what is overdue",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER),
)
async def admin_send_unsent(
    admin: Admin,
    parts: Parts,
    notification_age: Annotated[
        Duration,
        BeforeValidator(seconds),
        AfterValidator(_check_age),
        Query(description="Only what has waited for so long, a minute at least"),
    ] = datetime.timedelta(minutes=10),
) -> Response:
    """Publish messages that the broker should have had for some time. The service does so by itself, too."""
    jobs, transitions = await parts.admin_jobs.unsent(notification_age)
    return JsonResponse({"jobs": jobs, "transitions": transitions})
