"""What the service is, and who the caller is to it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cdmtaskservice.api import models, openapi
from cdmtaskservice.api.auth import GuardedRoute, User
from cdmtaskservice.api.parts import Parts
from cdmtaskservice.api.responses import JsonResponse

router = APIRouter(route_class=GuardedRoute, tags=[openapi.SERVICE])


@router.get("/", response_model=models.Root, summary="The service")
async def root(parts: Parts) -> Response:
    """Name, version and time of the service."""
    info = parts.info
    return JsonResponse(
        {
            "service_name": info.name,
            "version": info.version,
            "git_hash": info.git_hash,
            "server_time": info.now(),
            "notes": info.notes,
        }
    )


@router.get("/whoami", response_model=models.WhoAmI, summary="The caller")
async def whoami(user: User, parts: Parts) -> Response:
    """Who the token belongs to, and which S3 paths they may use in jobs."""
    shown: dict[str, object] = {"user": user.user}
    if parts.authentication.is_admin(user):
        shown["roles"] = ["full_admin"]
    shown["allowed_paths"] = [{"path": path, "perm": "write"} for path in parts.authentication.allowed_paths(user)]
    return JsonResponse(shown)
