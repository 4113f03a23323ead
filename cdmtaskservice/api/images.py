"""Approved images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query
from pydantic import AfterValidator
from starlette.responses import Response

from cdmtaskservice.api import models, openapi, views
from cdmtaskservice.api.auth import Admin, GuardedRoute
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse, no_content
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.parameters import MountPoint, check_text

router = APIRouter(route_class=GuardedRoute)

ImageText = Annotated[
    str,
    Path(
        description="`host/path[:tag][@digest]`. The digest wins over the tag; without either, the tag is `latest`.",
        examples=["ghcr.io/kbase/checkm2:1.0.2"],
    ),
]


@router.get("/images", response_model=models.Images, tags=[openapi.IMAGES], summary="All images")
async def list_images(parts: Parts) -> Response:
    """Approved images, at most 1000."""
    return JsonResponse({"data": [views.image(i) for i in await parts.images.list()]})


@router.get(
    "/images/{image:path}",
    response_model=models.Image,
    tags=[openapi.IMAGES],
    summary="One image",
    responses=openapi.errors(ErrorType.IMAGE_NAME_PARSE, ErrorType.NO_SUCH_IMAGE),
)
async def get_image(image: ImageText, parts: Parts) -> Response:
    """An approved image."""
    return JsonResponse(views.image(await parts.images.get(image)))


@router.post(
    "/admin/images/{image:path}",
    response_model=models.Image,
    tags=[openapi.ADMIN],
    summary="Approve an image",
    responses=openapi.errors(
        ErrorType.MISSING_PARAMETER,
        ErrorType.IMAGE_NAME_PARSE,
        ErrorType.IMAGE_FETCH,
        ErrorType.IMAGE_NO_ENTRYPOINT,
        ErrorType.NO_SUCH_IMAGE,
        ErrorType.NO_SUCH_REFDATA,
        ErrorType.IMAGE_TAG_EXISTS,
        ErrorType.IMAGE_DIGEST_EXISTS,
    ),
)
async def approve_image(
    image: ImageText,
    admin: Admin,
    parts: Parts,
    approval: Annotated[ImageApproval | None, Body(description="What users should know of it")] = None,
    refdata_id: Annotated[
        str | None,
        Query(max_length=100, description="Reference data that the image needs"),
        AfterValidator(lambda text: text if text is None else check_text(text)),
    ] = None,
    default_refdata_mount_point: Annotated[
        MountPoint | None, Query(description="Where jobs have it unless they say otherwise. Needs `refdata_id`.")
    ] = None,
) -> Response:
    """Let jobs run the image, by the digest that its registry gives now."""
    record = await parts.images.approve(
        admin, image, approval or ImageApproval(), refdata_id, default_refdata_mount_point
    )
    return JsonResponse(views.image(record))


@router.delete(
    "/admin/images/{image:path}",
    status_code=204,
    tags=[openapi.ADMIN],
    summary="Withdraw an image",
    responses=openapi.errors(ErrorType.IMAGE_NAME_PARSE, ErrorType.NO_SUCH_IMAGE),
)
async def delete_image(image: ImageText, admin: Admin, parts: Parts) -> Response:
    """Take no new jobs with the image. Jobs that have it go on."""
    await parts.images.delete(image)
    return no_content()
