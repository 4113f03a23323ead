"""Every answer that is an error: one shape, made in one place.

A message of a 4xx is the error's own. One of a 5xx is written here, since what went wrong inside is nobody's business
outside: it stands in the log under the request's ID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from cdmtaskservice.api.context import context_of
from cdmtaskservice.api.responses import JsonResponse
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import CTSError, ErrorType

RETRY_AFTER = 5
"""Seconds after which a client may try again when something that we need did not answer."""

MAX_DETAILS = 100
"""Faults of one request that are listed; a body of ten thousand wrong entries needs no more."""

_MAX_SHOWN_TEXT = 500
_MAX_SHOWN_NAME = 100
_MAX_SHOWN_VALUES = 50
_IN_MESSAGE = 3

_log = structlog.get_logger(__name__)


class ErrorReplies:
    """Makes replies of exceptions. `now` gives the time that they show; `routes` are those of the application."""

    def __init__(self, now: Clock, routes: Sequence[Route] = ()) -> None:
        self._now = now
        self._routes = routes

    def reply(self, request_id: str, error: Exception) -> Response:
        """The answer to a request that ended with `error`; what a 5xx does not say is logged."""
        match error:
            case CTSError():
                return self._of_service(request_id, error)
            case RequestValidationError():
                return self._of_validation(request_id, error.errors())
            case HTTPException():
                return self._of_framework(request_id, error)
        _log.error("request_failed", request_id=request_id, exc_info=error)
        return self._make(request_id, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL)

    async def handle(self, request: Request, error: Exception) -> Response:
        """The same as an exception handler."""
        if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The framework names the methods of one route only, where a URL may have several.
            error = HTTPException(error.status_code, headers={"Allow": self._methods(request.scope) or "GET"})
        return self.reply(context_of(request.scope).request_id, error)

    def _methods(self, scope: Scope) -> str:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return ", ".join(sorted({m for r in self._routes if r.path_regex.match(path) for m in r.methods or ()}))

    def _of_service(self, request_id: str, error: CTSError) -> Response:
        status, kind = error.http_status, error.error_type
        headers = {}
        message = error.message
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.warning(
                "dependency_unavailable",
                request_id=request_id,
                status=int(status),
                error=message,
                kind=type(error).__name__,
                cause=repr(error.__cause__) if error.__cause__ else None,
            )
            headers["Retry-After"] = str(RETRY_AFTER)
            message = _UNAVAILABLE
        elif status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return self._make(request_id, status, message, kind, headers=headers)

    def _of_validation(self, request_id: str, faults: Sequence[Mapping[str, Any]]) -> Response:
        details = [_safe_fault(f) for f in faults[:MAX_DETAILS]]
        named = "; ".join(_in_words(f) for f in details[:_IN_MESSAGE])
        more = len(faults) - _IN_MESSAGE
        message = f"The request is not valid: {named}" + (f"; and {more} more faults" if more > 0 else "")
        kind = ErrorType.REQUEST_VALIDATION_FAILED
        return self._make(request_id, kind.status, message, kind, details=details)

    def _of_framework(self, request_id: str, error: HTTPException) -> Response:
        try:
            status = HTTPStatus(error.status_code)
        except ValueError:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        kind: ErrorType | None = None
        match status:
            case HTTPStatus.NOT_FOUND:
                kind, message = ErrorType.NOT_FOUND, "There is nothing at this URL; see /docs for what there is"
            case HTTPStatus.METHOD_NOT_ALLOWED:
                message = f"This URL takes other methods: {(error.headers or {}).get('Allow')}"
            case HTTPStatus.BAD_REQUEST:
                # The framework's own word for a body that cannot be read: not UTF-8, nested too deeply, and so on.
                fault = {"type": "json_invalid", "loc": ("body",), "msg": "The body cannot be read as JSON in UTF-8"}
                return self._of_validation(request_id, [fault])
            case _:
                message = str(error.detail)
        return self._make(request_id, status, message, kind, headers=error.headers)

    def _make(
        self,
        request_id: str,
        status: HTTPStatus,
        message: str,
        kind: ErrorType | None = None,
        *,
        details: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        error: dict[str, Any] = {
            "httpcode": int(status),
            "httpstatus": status.phrase,
            "time": self._now(),
            "request_id": request_id,
            "message": message or status.phrase,
        }
        if kind is not None:
            error["appcode"] = kind.code
            error["apperror"] = kind.text
        if details is not None:
            error["request_validation_detail"] = details
        return JsonResponse({"error": error}, int(status), headers)


_INTERNAL = "Something went wrong in the service. The administrators can find out what, by the request_id"
_UNAVAILABLE = (
    f"Something that the service needs does not answer now. Try again in {RETRY_AFTER} seconds; if it stays so, the "
    "administrators can find out what it is, by the request_id"
)


_NOT_JSON = "The body must be JSON: send it with the header 'Content-Type: application/json'"


def _safe_fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    """A fault as the framework lists it, with nothing in it that JSON cannot hold or that is huge."""
    location = [_cut(part, _MAX_SHOWN_NAME) if isinstance(part, str) else part for part in fault["loc"]]
    # The framework hands on what was announced as something else than JSON as the bytes that it is.
    unread = location == ["body"] and isinstance(fault.get("input"), bytes)
    safe: dict[str, Any] = {"type": fault["type"], "loc": location, "msg": _NOT_JSON if unread else _cut(fault["msg"])}
    if "input" in fault:
        safe["input"] = _safe_value(fault["input"])
    if fault.get("ctx"):
        safe["ctx"] = {str(k): _safe_value(v) for k, v in fault["ctx"].items()}
    return safe


def _in_words(fault: Mapping[str, Any]) -> str:
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {str(fault['msg']).removeprefix('Value error, ')}"


def _safe_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        # Clients in other languages choke on integers of thousands of digits, and so does Python when writing them.
        return value if abs(value) < 2**63 else "a number of more than 63 bits"
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, bytes):
        return _cut(value[: _MAX_SHOWN_TEXT * 4].decode("utf-8", "replace"))
    if isinstance(value, dict | list | tuple):
        return _safe_container(value)
    return _cut(str(value))


def _safe_container(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Any:
    scalars = value.values() if isinstance(value, dict) else value
    if len(value) > _MAX_SHOWN_VALUES or any(isinstance(v, dict | list | tuple) for v in scalars):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)} entries"
    if isinstance(value, dict):
        return {_cut(str(k)): _safe_value(v) for k, v in value.items()}
    return [_safe_value(v) for v in value]


def _cut(text: str, limit: int = _MAX_SHOWN_TEXT) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
