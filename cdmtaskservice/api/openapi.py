"""What the OpenAPI document says beyond what the routes themselves declare."""

from __future__ import annotations

from typing import Any

from cdmtaskservice.api.models import ErrorReply
from cdmtaskservice.domain.errors import ErrorType

DESCRIPTION = """
Runs containers on remote compute: a job is an approved image, input files in S3 and limits; its outputs go to S3 with
their checksums.

* **Tokens** go into the header `Authorization: Bearer TOKEN`. A bad token is refused at every URL, public ones too.
* **Errors** have one shape everywhere, see *ErrorReply*. `appcode` tells the kind; `request_id`, which every answer
  also has as the header `X-Request-ID`, finds the request in the service's log.
* **Times** are ISO 8601 with a timezone, durations seconds or ISO 8601, memory bytes or text such as `2GB`. In replies
  they are UTC, ISO 8601, and bytes.
* Fields without a value are left out of replies. Unknown fields in requests are refused.
"""

SERVICE = "Service"
JOBS = "Jobs"
IMAGES = "Images"
REFDATA = "Reference data"
SITES = "Sites"
ADMIN = "Administration"
EXECUTORS = "Executors"
CALLBACKS = "Callbacks"
HEALTH = "Health"

TAGS: list[dict[str, Any]] = [
    {"name": SERVICE, "description": "What this is, and who you are to it."},
    {"name": JOBS, "description": "Submit jobs and follow them. A job is its owner's alone, and administrators'."},
    {"name": IMAGES, "description": "Images that administrators have approved: only they run."},
    {"name": REFDATA, "description": "Databases that images need, staged at sites and mounted read-only."},
    {"name": SITES, "description": "Where jobs run, and how large they may be there."},
    {"name": ADMIN, "description": "For administrators."},
    {"name": EXECUTORS, "description": "What executors on workers call. See docs/executor-protocol.md."},
    {"name": CALLBACKS, "description": "What remote sites call when a job may have gone on. No more than hints."},
    {"name": HEALTH, "description": "For whoever operates the service."},
]


def errors(*kinds: ErrorType) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in these kinds of errors, besides those that every route can."""
    return {
        int(status): _documented([k for k in kinds if k.status == status])
        for status in sorted({k.status for k in kinds})
    }


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add to every operation the errors that every request can end in, and drop the framework's own 422."""
    for path in document["paths"].values():
        for operation in path.values():
            _complete_operation(operation)
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _complete_operation(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    checked = [ErrorType.REQUEST_VALIDATION_FAILED] if _has_input(operation) else []
    refused = [ErrorType.INVALID_TOKEN, ErrorType.INVALID_AUTH_HEADER]
    forbidden = []
    if "security" in operation:
        refused.insert(0, ErrorType.NO_TOKEN)
        forbidden.append(ErrorType.UNAUTHORIZED)
    for kinds in (checked, refused, forbidden):
        if kinds:
            _add(responses, str(int(kinds[0].status)), _text(kinds))
    if "requestBody" in operation:
        _add(responses, "413", "The body is too large")
    _add(responses, "500", "Something went wrong in the service")
    _add(responses, "503", "Something that the service needs does not answer now; `Retry-After` says when to come back")
    operation["responses"] = dict(sorted(responses.items()))


def _has_input(operation: dict[str, Any]) -> bool:
    return "requestBody" in operation or not all(_is_any_text(p) for p in operation.get("parameters", ()))


def _is_any_text(parameter: dict[str, Any]) -> bool:
    """Whether no value of a parameter can be wrong by itself."""
    schema = parameter["schema"]
    limits = {"enum", "pattern", "minLength", "maxLength", "anyOf"}
    return schema.get("type") == "string" and not limits & schema.keys()


def _add(responses: dict[str, Any], status: str, text: str) -> None:
    if status in responses:
        responses[status]["description"] = f"{text}; {responses[status]['description']}"
        return
    responses[status] = {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}},
    }


def _documented(kinds: list[ErrorType]) -> dict[str, Any]:
    return {"model": ErrorReply, "description": _text(kinds)}


def _text(kinds: list[ErrorType]) -> str:
    return "; ".join(f"{k.code} {k.text}" for k in kinds)
