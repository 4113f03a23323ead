"""Users' own jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from cdmtaskservice.api import models, openapi, views
from cdmtaskservice.api.auth import GuardedRoute, User
from cdmtaskservice.api.paging import cursor_after
from cdmtaskservice.api.parameters import MAX_NUMBER, MAX_OFFSET, MAX_PAGE, ContainerNumber, JobId, WantedJobs
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.api.streams import LogResponse, events_response, followed_response
from cdmtaskservice.domain.errors import ErrorType, IllegalParameterError
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.services.jobs import FileKind, LogStream

router = APIRouter(route_class=GuardedRoute, tags=[openapi.JOBS])

DryRun = Annotated[bool, Query(description="Only check: nothing is stored, and the reply is a `DryRun`")]


@dataclass(frozen=True)
class LogQuery:
    """Which bytes of a log."""

    seek: int
    length: int | None
    follow: bool


async def _log_query(
    seek: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Leave out so many bytes at the start")] = 0,
    length: Annotated[int | None, Query(ge=1, le=MAX_OFFSET, description="Give so many bytes at most")] = None,
    follow: Annotated[
        bool, Query(description="Go on while the container runs. Without `length`, which needs a log that is whole.")
    ] = False,
) -> LogQuery:
    if follow and length is not None:
        raise IllegalParameterError("length cannot go with follow: leave out one of them")
    return LogQuery(seek, length, follow)


WantedLog = Annotated[LogQuery, Depends(_log_query)]

_NO_JOB = openapi.errors(ErrorType.NO_SUCH_JOB)
_LOG_RESPONSES = openapi.errors(
    ErrorType.ILLEGAL_PARAMETER,
    ErrorType.NO_SUCH_JOB,
    ErrorType.NO_SUCH_SUBJOB,
    ErrorType.NO_LOGS,
    ErrorType.RESOURCE_UNAVAILABLE,
    ErrorType.UNSUPPORTED,
) | {
    200: {
        "description": "The log",
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "headers": {
            "CTS-Log-Attempt": {"schema": {"type": "integer"}, "description": "With `follow`: whose log it is"},
            "CTS-Log-Offset": {
                "schema": {"type": "integer"},
                "description": "With `follow`: of the first byte, more than `seek` where older ones are in no store",
            },
        },
    }
}


@router.post(
    "/jobs",
    response_model=models.JobId | models.DryRun,
    summary="Submit a job",
    responses=openapi.errors(
        ErrorType.ILLEGAL_PARAMETER,
        ErrorType.ILLEGAL_S3_PATH,
        ErrorType.CHECKSUM_MISMATCH,
        ErrorType.IMAGE_NAME_PARSE,
        ErrorType.S3_PATH_INACCESSIBLE,
        ErrorType.S3_BUCKET_INACCESSIBLE,
        ErrorType.NO_SUCH_S3_PATH,
        ErrorType.NO_SUCH_BUCKET,
        ErrorType.NO_SUCH_IMAGE,
        ErrorType.JOB_FLOW_INACTIVE,
        ErrorType.JOB_FLOW_UNAVAILABLE,
    )
    | {409: {"model": models.ErrorReply, "description": "The Idempotency-Key came with another request before"}},
)
async def submit_job(
    job: JobInput,
    user: User,
    parts: Parts,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=64,
            pattern="^[!-~]+$",
            description="The same key and body give the same job, however often they are sent",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> Response:
    """Check a job and accept it. What is accepted is never lost: it ends `complete`, `error` or `canceled`."""
    if dry_run:
        return JsonResponse(views.dry_run(job, await parts.submission.dry_run(user, job)))
    return JsonResponse({"job_id": await parts.submission.submit(user, job, idempotency_key)})


@router.get("/jobs", response_model=models.JobList, summary="Your jobs")
async def list_jobs(user: User, parts: Parts, wanted: WantedJobs) -> Response:
    """Your jobs, the newest state change first. There may be more than fit: follow `next_cursor`."""
    return JsonResponse(page(await parts.jobs.list(user, wanted), wanted))


@router.get("/jobs/{job_id}", response_model=models.Job, summary="A job", responses=_NO_JOB)
async def get_job(job_id: JobId, user: User, parts: Parts) -> Response:
    """A job with all its files. To poll, ask for the status, which costs much less."""
    return JsonResponse(views.job_details(*await parts.jobs.get(user, job_id)))


@router.get("/jobs/{job_id}/status", response_model=models.JobStatus, summary="A job's state", responses=_NO_JOB)
async def get_job_status(job_id: JobId, user: User, parts: Parts) -> Response:
    """How far a job is. Cheap enough to poll."""
    return JsonResponse(views.job_status(await parts.jobs.status(user, job_id)))


@router.get(
    "/jobs/{job_id}/exit_codes", response_model=models.ExitCodes, summary="A job's exit codes", responses=_NO_JOB
)
async def get_job_exit_codes(job_id: JobId, user: User, parts: Parts) -> Response:
    """The exit codes by container number."""
    return JsonResponse({"exit_codes": await parts.jobs.exit_codes(user, job_id)})


@router.get(
    "/jobs/{job_id}/containers", response_model=models.Containers, summary="A job's containers", responses=_NO_JOB
)
async def get_job_containers(job_id: JobId, user: User, parts: Parts) -> Response:
    """All containers by number, with what is known of each."""
    containers = await parts.jobs.containers(user, job_id)
    return JsonResponse({"containers": [views.container(c) for c in containers]})


@router.get("/jobs/{job_id}/files", response_model=models.JobFiles, summary="A job's files", responses=_NO_JOB)
async def get_job_files(
    job_id: JobId,
    user: User,
    parts: Parts,
    kind: Annotated[FileKind, Query(description="Outputs are there once the job is over")] = "outputs",
    offset: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Leave out so many files at the start")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most")] = MAX_PAGE,
) -> Response:
    """A job's files, each with a link by which it can be downloaded. There may be more: follow `next_offset`."""
    return JsonResponse(views.files_page(await parts.jobs.files(user, job_id, kind, offset, limit), offset))


@router.get(
    "/jobs/{job_id}/log/{container_number}/stdout",
    response_class=StreamingResponse,
    summary="What a container wrote to its standard output",
    responses=_LOG_RESPONSES,
)
async def get_job_stdout(
    job_id: JobId, container_number: ContainerNumber, user: User, parts: Parts, wanted: WantedLog
) -> Response:
    """The container's log, or the bytes of it that `seek` and `length` name; or with `follow` what it writes, as it
    writes it."""
    return await _log(parts, user, job_id, container_number, "stdout", wanted)


@router.get(
    "/jobs/{job_id}/log/{container_number}/stderr",
    response_class=StreamingResponse,
    summary="What a container wrote to its standard error",
    responses=_LOG_RESPONSES,
)
async def get_job_stderr(
    job_id: JobId, container_number: ContainerNumber, user: User, parts: Parts, wanted: WantedLog
) -> Response:
    """The container's log, or the bytes of it that `seek` and `length` name; or with `follow` what it writes, as it
    writes it."""
    return await _log(parts, user, job_id, container_number, "stderr", wanted)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    summary="What happens to a job",
    responses=openapi.errors(ErrorType.NO_SUCH_JOB, ErrorType.RESOURCE_UNAVAILABLE)
    | {200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}},
)
async def watch_job(
    job_id: JobId,
    user: User,
    parts: Parts,
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="The `id` of the last event that was seen: go on after it")
    ] = None,
) -> Response:
    """Events as they happen: `state` (each that the job comes to, with an `id`), `containers` (how many are in which
    state), `waiting` (why the job does not move on, or null), and at last `end`. Where the stream breaks off before,
    ask again with `Last-Event-ID`."""
    return events_response(await parts.events.watch(user, job_id), last_event_id)


@router.put(
    "/jobs/{job_id}/cancel",
    status_code=204,
    summary="Cancel a job",
    responses=openapi.errors(ErrorType.INVALID_JOB_STATE, ErrorType.NO_SUCH_JOB),
)
async def cancel_job(job_id: JobId, user: User, parts: Parts) -> Response:
    """The job is `canceling` when this is answered, and `canceled` once its containers are stopped."""
    await parts.jobs.cancel(user, job_id)
    return no_content()


def page(jobs: Sequence[JobRecord], wanted: JobFilter) -> views.View:
    """A page of jobs, with the cursor of the next one where there may be one."""
    shown: views.View = {"jobs": [views.job_preview(j) for j in jobs]}
    if jobs and len(jobs) >= wanted.limit:
        shown["next_cursor"] = cursor_after(jobs[-1])
    return shown


async def _log(parts: Parts, user: User, job_id: str, number: int, stream: LogStream, wanted: LogQuery) -> Response:
    if wanted.follow:
        followed = await parts.live_logs.follow(user, job_id, number, stream, wanted.seek)
        return followed_response(followed, job_id, number, stream)
    chunks = await parts.jobs.log(user, job_id, number, stream, wanted.seek, wanted.length)
    return LogResponse(chunks, job_id, number, stream)
