"""What can go wrong, as classes.

`CTSError` is the base of all. `ServiceError` is a refusal that the service sent, with its code, its message and the
request's ID; its subclasses follow the service's codes. Nothing secret stands in any of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar


class CTSError(Exception):
    """Base of all errors of this client."""


class NotConfigured(CTSError):
    """Nothing says which service to use, or with which token."""


class UnexpectedReply(CTSError):
    """What answers does not speak as the CDM Task Service does: a proxy's page, or another service."""


class ServiceUnreachable(CTSError):
    """The service does not answer: no connection, no reply in time, or HTTP 502, 503 or 504, also when tried again.

    http_status: where something has answered; request_id: where the service itself has. hopeless: whether trying again
    is of no use, as with a certificate that is not trusted; unknown_host: whether nobody knows the host's name.
    """

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        request_id: str | None = None,
        hopeless: bool = False,
        unknown_host: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.request_id = request_id
        self.hopeless = hopeless
        self.unknown_host = unknown_host


class WaitTimeout(CTSError, TimeoutError):
    """A job was not over in time. It goes on.

    state: the job's last known one, None where none was read.
    """

    def __init__(self, job_id: str, state: str | None, timeout: float) -> None:
        known = f"it is {state}" if state else "its state could not be read"
        super().__init__(f"Job {job_id} was not over after {timeout:g} s: {known}")
        self.job_id = job_id
        self.state = state
        self.timeout = timeout


class JobNotOver(CTSError):
    """A job has no outputs yet, as it is not over."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Job {job_id} is not over, it is {state}: wait for it first")
        self.job_id = job_id
        self.state = state


class DownloadError(CTSError):
    """A file could not be downloaded, or has a name that no file here may have. `file` is its S3 path."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file!r}: {reason}")
        self.file = file


class ChecksumMismatch(DownloadError):
    """The bytes that came are not those that the service named. Nothing of them is left.

    expected, found: CRC64NVME in base64.
    """

    def __init__(self, file: str, expected: str, found: str) -> None:
        super().__init__(
            file,
            f"its CRC64NVME is {found}, and it should be {expected}: it was perhaps replaced since the job made it; "
            "another job probably wrote to the same output directory",
        )
        self.expected = expected
        self.found = found


class FileExists(CTSError, FileExistsError):
    """A file is there already, with other content, and may not be overwritten. `path` is its own."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists with other content: move it away, or download with overwrite=True")
        self.path = path

    def __str__(self) -> str:
        """The message, which an OSError would make of its number."""
        return str(self.args[0])


class ServiceError(CTSError):
    """The service has refused a request.

    http_status: HTTP's. app_code, app_error: the service's code and its text, None where it has none for this.
    message: what was wrong, with which value, and what to do. request_id: for the administrators, None where something
    between here and the service has answered. detail: every fault of a request that has not the right form.
    """

    codes: ClassVar[frozenset[int]] = frozenset()
    """The service's codes that this class stands for."""
    statuses: ClassVar[frozenset[int]] = frozenset()
    """HTTP statuses that it stands for where there is no code, or an unknown one."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int,
        app_code: int | None = None,
        app_error: str | None = None,
        request_id: str | None = None,
        detail: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.app_code = app_code
        self.app_error = app_error
        self.request_id = request_id
        self.detail = detail or []
        self.repeated = False
        """Whether an earlier try of the same request may have been carried out."""

    def __str__(self) -> str:
        """All that there is to tell, in one line."""
        kind = f"{self.app_error} ({self.app_code})" if self.app_code else f"HTTP {self.http_status}"
        return f"{kind}: {self.message}" + (f" [request {self.request_id}]" if self.request_id else "")


class AuthenticationError(ServiceError):
    """There is no token, or the service does not take it."""

    codes = frozenset({10000, 10010, 10020, 10030})
    statuses = frozenset({401})


class Unauthorized(ServiceError):
    """This is not the user's to do, or not the user's job, or a place in S3 that may not be used."""

    codes = frozenset({20000, 20010, 20020})
    statuses = frozenset({403})


class InvalidRequest(ServiceError):
    """The request cannot be carried out as it is; the message names the value."""

    codes = frozenset({10040, 30000, 30001, 30010, 30020, 30030, 30040, 30050, 30060})
    statuses = frozenset({400, 405, 413, 414, 415, 422, 431})


class LifetimeTooShort(ServiceError):
    """The service's client at NERSC expires sooner than was asked for."""

    codes = frozenset({30200})


class InvalidState(ServiceError):
    """The job, or reference data, is not in a state in which this can be done."""

    codes = frozenset({30300, 30400})


class NotFound(ServiceError):
    """There is no such thing; the subclasses say what."""

    codes = frozenset({40000})
    statuses = frozenset({404, 410})

    @property
    def is_url(self) -> bool:
        """Whether the service has no such URL: most likely it is older than this client."""
        return self.app_code in {None, 40000}


class NoSuchFile(NotFound):
    """There is no such file, or no such bucket, in S3."""

    codes = frozenset({40010, 40020})


class NoSuchImage(NotFound):
    """No such image is approved."""

    codes = frozenset({40030})


class NoSuchJob(NotFound):
    """There is no job with this ID."""

    codes = frozenset({40040})


class NoSuchContainer(NotFound):
    """The job has no container with this number."""

    codes = frozenset({40050})


class NoSuchReferenceData(NotFound):
    """There is no reference data with this ID."""

    codes = frozenset({40060})


class NoLogs(NotFound):
    """The container has left no log, or not yet."""

    codes = frozenset({40070})


class Conflict(ServiceError):
    """There is such a thing already, or an idempotency key came with another job before."""

    codes = frozenset({50000, 50010, 50100})
    statuses = frozenset({409})


class ResourceUnavailable(ServiceError):
    """Something that the request needs cannot be had now; later it can."""

    codes = frozenset({60000})


class SiteUnavailable(ServiceError):
    """The site is closed for new jobs, or does not work at the moment."""

    codes = frozenset({60010, 60020})


class Unsupported(ServiceError):
    """The service, or this site, cannot do that."""

    codes = frozenset({100000})


class TooManyRequests(ServiceError):
    """The service, or something before it, wants fewer requests."""

    statuses = frozenset({429})


def _all(base: type[ServiceError]) -> list[type[ServiceError]]:
    return [base, *(c for sub in base.__subclasses__() for c in _all(sub))]


_ALL = _all(ServiceError)
_BY_CODE: Mapping[int, type[ServiceError]] = {code: c for c in _ALL for code in vars(c).get("codes", ())}
_BY_STATUS: Mapping[int, type[ServiceError]] = {status: c for c in _ALL for status in vars(c).get("statuses", ())}

_SHOWN = 300
"""Characters of a page that is none of the service's."""


def read_error(status: int, body: bytes) -> ServiceError:
    """The error that a reply with a status of 300 or more stands for, whoever has sent it."""
    error = _error_of(body)
    code = _typed(error.get("appcode"), int)
    message = _typed(error.get("message"), str) or _in_words(status, body if not error else b"")
    detail = error.get("request_validation_detail")
    kind = _BY_CODE.get(code or 0) or _BY_STATUS.get(status, ServiceError)
    return kind(
        message,
        http_status=status,
        app_code=code,
        app_error=_typed(error.get("apperror"), str),
        request_id=_typed(error.get("request_id"), str),
        detail=[d for d in detail if isinstance(d, dict)] if isinstance(detail, list) else None,
    )


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {}


def _typed(value: Any, kind: type[Any]) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _in_words(status: int, body: bytes) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = f"status {status}"
    text = " ".join(body.decode("utf-8", "replace").split())
    if not text or text.startswith("<"):
        return phrase
    return f"{phrase}: {text[:_SHOWN]}" + ("…" if len(text) > _SHOWN else "")
