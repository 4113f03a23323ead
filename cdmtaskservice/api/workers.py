"""What executors on workers call: the protocol, and the files that a worker runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path
from starlette.responses import Response

from cdmtaskservice.api import openapi, worker_models
from cdmtaskservice.api.auth import Executor, ExecutorOrContainer, GuardedRoute
from cdmtaskservice.api.parameters import ContainerNumber, JobId
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import (
    ContainerUpdate,
    Heartbeat,
    InputsRequest,
    UploadsComplete,
    UploadsRequest,
    WorkRequest,
)

router = APIRouter(route_class=GuardedRoute, tags=[openapi.EXECUTORS])

_CONTAINER = "/external_exec/jobs/{job_id}/container/{container_number}"
_NOT_OURS = (ErrorType.INVALID_JOB_STATE, ErrorType.NO_SUCH_JOB, ErrorType.NO_SUCH_SUBJOB)

IfNoneMatch = Annotated[str | None, Header(description="The `ETag` of the file that the caller has")]


def _file_responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    sha256 = {"schema": {"type": "string"}, "description": "SHA-256 of the file, in hex"}
    etag = {"schema": {"type": "string"}, "description": "For `If-None-Match`"}
    return {
        200: {
            "description": "The file",
            "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": etag, "X-Content-SHA256": sha256},
        },
        304: {"description": "The caller has the file already", "content": {}},
    }


@router.put(
    f"{_CONTAINER}/update/{{state}}",
    status_code=204,
    summary="Report a state",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER, ErrorType.CHECKSUM_MISMATCH, *_NOT_OURS),
)
async def update_container(
    job_id: JobId,
    container_number: ContainerNumber,
    state: Annotated[JobState, Path(description="The state that the container has reached")],
    update: ContainerUpdate,
    caller: ExecutorOrContainer,
    parts: Parts,
) -> Response:
    """The container has reached a state. Outputs are believed once S3 says the same of them."""
    await parts.workers.update(caller, job_id, container_number, state, update)
    return no_content()


@router.post(
    f"{_CONTAINER}/work",
    response_model=worker_models.WorkOrder,
    summary="Claim a container",
    responses=openapi.errors(*_NOT_OURS),
)
async def claim_work(
    job_id: JobId, container_number: ContainerNumber, request: WorkRequest, executor: Executor, parts: Parts
) -> Response:
    """Get the work order of a container, with a container token for all further calls."""
    return JsonResponse(await parts.workers.work(job_id, container_number, request))


@router.post(
    f"{_CONTAINER}/heartbeat",
    response_model=worker_models.HeartbeatAnswer,
    summary="Give a sign of life",
    responses=openapi.errors(*_NOT_OURS),
)
async def beat(
    job_id: JobId, container_number: ContainerNumber, heartbeat: Heartbeat, caller: ExecutorOrContainer, parts: Parts
) -> Response:
    """The executor lives, and is so far. The answer says whether it must stop."""
    return JsonResponse(await parts.workers.heartbeat(caller, job_id, container_number, heartbeat))


@router.post(
    f"{_CONTAINER}/inputs",
    response_model=worker_models.FreshInputs,
    summary="Get fresh downloads",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER, *_NOT_OURS),
)
async def refresh_inputs(
    job_id: JobId,
    container_number: ContainerNumber,
    request: InputsRequest,
    caller: ExecutorOrContainer,
    parts: Parts,
) -> Response:
    """Presigned GETs for inputs whose first ones have expired."""
    return JsonResponse(await parts.workers.inputs(caller, job_id, container_number, request))


@router.post(
    f"{_CONTAINER}/uploads",
    response_model=worker_models.Uploads,
    summary="Get uploads",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER, ErrorType.ILLEGAL_S3_PATH, *_NOT_OURS),
)
async def presign_uploads(
    job_id: JobId,
    container_number: ContainerNumber,
    request: UploadsRequest,
    caller: ExecutorOrContainer,
    parts: Parts,
) -> Response:
    """Presigned uploads for outputs and logs of these sizes and checksums."""
    return JsonResponse(await parts.workers.uploads(caller, job_id, container_number, request))


@router.post(
    f"{_CONTAINER}/uploads/complete",
    status_code=204,
    summary="Finish uploads in parts",
    responses=openapi.errors(ErrorType.ILLEGAL_PARAMETER, ErrorType.CHECKSUM_MISMATCH, *_NOT_OURS),
)
async def complete_uploads(
    job_id: JobId,
    container_number: ContainerNumber,
    request: UploadsComplete,
    caller: ExecutorOrContainer,
    parts: Parts,
) -> Response:
    """Make files of parts that are all uploaded."""
    await parts.workers.complete_uploads(caller, job_id, container_number, request)
    return no_content()


@router.get(
    "/external_exec/files/condor/executable.sh",
    response_class=Response,
    summary="What HTCondor starts",
    responses=_file_responses("text/x-shellscript"),
)
async def get_executable(parts: Parts, if_none_match: IfNoneMatch = None) -> Response:
    """The script that an HTCondor worker runs."""
    files = await parts.worker_files.build()
    return _file(files.executable, files.executable_sha256, "text/x-shellscript", if_none_match)


@router.get(
    "/external_exec/files/code_archive.tgz",
    response_class=Response,
    summary="The executor",
    responses=_file_responses("application/gzip"),
)
async def get_code_archive(parts: Parts, if_none_match: IfNoneMatch = None) -> Response:
    """The executor's code, which the script unpacks."""
    files = await parts.worker_files.build()
    return _file(files.archive, files.archive_sha256, "application/gzip", if_none_match)


def _file(content: bytes, sha256: str, media_type: str, if_none_match: str | None) -> Response:
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "X-Content-SHA256": sha256, "Cache-Control": "no-cache"}
    if if_none_match is not None and _names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _names(if_none_match: str, etag: str) -> bool:
    """Whether a list of entity tags has this one, or is `*`. Weak and strong tags are alike here (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
