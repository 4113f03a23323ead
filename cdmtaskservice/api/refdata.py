"""Reference data: what there is, and what administrators do with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from cdmtaskservice.api import models, openapi, views
from cdmtaskservice.api.auth import Admin, GuardedRoute
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.jobs import Crc64nvme

router = APIRouter(route_class=GuardedRoute)

RefdataId = Annotated[str, Path(description="The ID of the reference data")]
Cluster = Annotated[str, Path(description="The name of a site")]
S3Path = Annotated[str, Path(description="`bucket/key`", examples=["cts-data/refdata/checkm2_db.tar.gz"])]

_AT_SITE = openapi.errors(
    ErrorType.ILLEGAL_PARAMETER,
    ErrorType.INVALID_REFDATA_STATE,
    ErrorType.NO_SUCH_REFDATA,
    ErrorType.UNSUPPORTED,
)


@router.get("/refdata", response_model=models.AllReferenceData, tags=[openapi.REFDATA], summary="All reference data")
async def list_refdata(parts: Parts) -> Response:
    """Reference data, the newest first, at most 1000."""
    return JsonResponse({"data": [views.refdata(r) for r in await parts.refdata.list()]})


@router.get(
    "/refdata/id/{refdata_id}",
    response_model=models.ReferenceData,
    tags=[openapi.REFDATA],
    summary="One piece of reference data",
    responses=openapi.errors(ErrorType.NO_SUCH_REFDATA),
)
async def get_refdata(refdata_id: RefdataId, parts: Parts) -> Response:
    """Reference data with its state at every site."""
    return JsonResponse(views.refdata(await parts.refdata.get(refdata_id)))


@router.get(
    "/refdata/path/{s3path:path}",
    response_model=models.AllReferenceData,
    tags=[openapi.REFDATA],
    summary="Reference data of a file",
    responses=openapi.errors(ErrorType.ILLEGAL_S3_PATH),
)
async def list_refdata_of_path(s3path: S3Path, parts: Parts) -> Response:
    """All that was registered of a file in S3, which may have changed in between."""
    return JsonResponse({"data": [views.refdata(r) for r in await parts.refdata.list(s3path)]})


@router.get(
    "/admin/refdata",
    response_model=models.AllAdminReferenceData,
    tags=[openapi.ADMIN],
    summary="All reference data, with its progress",
)
async def admin_list_refdata(admin: Admin, parts: Parts) -> Response:
    """As for everybody, with what only administrators see."""
    return JsonResponse({"data": [views.admin_refdata(r) for r in await parts.refdata.list()]})


@router.get(
    "/admin/refdata/{refdata_id}",
    response_model=models.AdminReferenceData,
    tags=[openapi.ADMIN],
    summary="Reference data, with its progress",
    responses=openapi.errors(ErrorType.NO_SUCH_REFDATA),
)
async def admin_get_refdata(refdata_id: RefdataId, admin: Admin, parts: Parts) -> Response:
    """How far it is at every site, why it does not go on, and what went wrong."""
    return JsonResponse(views.admin_refdata(await parts.refdata.get(refdata_id)))


@router.post(
    "/admin/refdata/{s3path:path}",
    response_model=models.ReferenceData,
    tags=[openapi.ADMIN],
    summary="Register reference data",
    responses=openapi.errors(
        ErrorType.ILLEGAL_PARAMETER,
        ErrorType.ILLEGAL_S3_PATH,
        ErrorType.CHECKSUM_MISMATCH,
        ErrorType.S3_PATH_INACCESSIBLE,
        ErrorType.NO_SUCH_S3_PATH,
        ErrorType.NO_SUCH_BUCKET,
        ErrorType.REFDATA_EXISTS,
    ),
)
async def register_refdata(
    s3path: S3Path,
    admin: Admin,
    parts: Parts,
    crc64nvme: Annotated[
        Crc64nvme | None, Query(description="What the file's CRC64NVME must be, base64", examples=["S8AXmd7A3f8="])
    ] = None,
    unpack: Annotated[
        bool, Query(description="Whether to unpack it: a `.tar.gz`, `.tgz`, `.tar.zst`, `.gz` or `.zip`")
    ] = False,
) -> Response:
    """Register a file in S3. It is staged at every site that has room for reference data."""
    return JsonResponse(views.refdata(await parts.refdata.register(admin, s3path, crc64nvme, unpack=unpack)))


@router.put(
    "/admin/refdata/{refdata_id}/{cluster}/recover",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Stage it at a site anew",
    responses=_AT_SITE,
)
async def recover_refdata(
    refdata_id: RefdataId,
    cluster: Cluster,
    admin: Admin,
    parts: Parts,
    force: Annotated[bool, Query(description="Even where it is complete, as when a disk was lost")] = False,
) -> Response:
    """Where it has failed or does not go on, or where the site came later. What has come of it before is used."""
    await parts.refdata.recover(admin, refdata_id, cluster, force=force)
    return no_content()


@router.delete(
    "/admin/refdata/{refdata_id}/{cluster}/clean",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Remove what staging has left",
    responses=_AT_SITE,
)
async def clean_refdata(
    refdata_id: RefdataId,
    cluster: Cluster,
    admin: Admin,
    parts: Parts,
    force: Annotated[bool, Query(description="Even where it is being staged, which is stopped")] = False,
) -> Response:
    """Have leftovers removed at a site, and not the data. `cleaned` says when that was done."""
    await parts.refdata.clean(admin, refdata_id, cluster, force=force)
    return no_content()


@router.delete(
    "/admin/refdata/{refdata_id}",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Retire reference data",
    responses=openapi.errors(ErrorType.INVALID_REFDATA_STATE, ErrorType.NO_SUCH_REFDATA),
)
async def retire_refdata(refdata_id: RefdataId, admin: Admin, parts: Parts) -> Response:
    """Have it removed at every site. Refused where an image names it or a job needs it. Its record stays."""
    await parts.refdata.retire(admin, refdata_id)
    return no_content()
