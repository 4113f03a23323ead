"""Every error that a client can be told of.

One base class, `CTSError`; a subclass carries its `ErrorType`, which holds the application code, its text and the
HTTP status. The API registers one handler for the base class, so a new error needs a class here and nothing else.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import ClassVar


class ErrorType(Enum):
    """Application code, text and HTTP status of an error, as the HTTP contract lists them."""

    AUTHENTICATION_FAILED = (10000, "Authentication failed", HTTPStatus.UNAUTHORIZED)
    NO_TOKEN = (10010, "No authentication token", HTTPStatus.UNAUTHORIZED)
    INVALID_TOKEN = (10020, "Invalid token", HTTPStatus.UNAUTHORIZED)
    INVALID_AUTH_HEADER = (10030, "Invalid authentication header", HTTPStatus.UNAUTHORIZED)
    INVALID_USERNAME = (10040, "Invalid user name", HTTPStatus.BAD_REQUEST)
    UNAUTHORIZED = (20000, "Unauthorized", HTTPStatus.FORBIDDEN)
    S3_PATH_INACCESSIBLE = (20010, "S3 path inaccessible", HTTPStatus.FORBIDDEN)
    S3_BUCKET_INACCESSIBLE = (20020, "S3 bucket inaccessible", HTTPStatus.FORBIDDEN)
    MISSING_PARAMETER = (30000, "Missing input parameter", HTTPStatus.BAD_REQUEST)
    ILLEGAL_PARAMETER = (30001, "Illegal input parameter", HTTPStatus.BAD_REQUEST)
    REQUEST_VALIDATION_FAILED = (30010, "Request validation failed", HTTPStatus.BAD_REQUEST)
    ILLEGAL_S3_PATH = (30020, "Illegal S3 path", HTTPStatus.BAD_REQUEST)
    CHECKSUM_MISMATCH = (30030, "Checksum mismatch", HTTPStatus.BAD_REQUEST)
    IMAGE_NAME_PARSE = (30040, "Image name parse error", HTTPStatus.BAD_REQUEST)
    IMAGE_FETCH = (30050, "Image fetch error", HTTPStatus.BAD_REQUEST)
    IMAGE_NO_ENTRYPOINT = (30060, "Image has no entrypoint", HTTPStatus.BAD_REQUEST)
    CLIENT_LIFETIME = (30200, "Client lifetime too short", HTTPStatus.BAD_REQUEST)
    INVALID_JOB_STATE = (30300, "Invalid job state", HTTPStatus.BAD_REQUEST)
    INVALID_REFDATA_STATE = (30400, "Invalid reference data state", HTTPStatus.BAD_REQUEST)
    NOT_FOUND = (40000, "Not Found", HTTPStatus.NOT_FOUND)
    NO_SUCH_S3_PATH = (40010, "S3 path not found", HTTPStatus.NOT_FOUND)
    NO_SUCH_BUCKET = (40020, "S3 bucket not found", HTTPStatus.NOT_FOUND)
    NO_SUCH_IMAGE = (40030, "No such image", HTTPStatus.NOT_FOUND)
    NO_SUCH_JOB = (40040, "No such job", HTTPStatus.NOT_FOUND)
    NO_SUCH_SUBJOB = (40050, "No such sub job", HTTPStatus.NOT_FOUND)
    NO_SUCH_REFDATA = (40060, "No such reference data", HTTPStatus.NOT_FOUND)
    NO_LOGS = (40070, "No logs available", HTTPStatus.NOT_FOUND)
    IMAGE_TAG_EXISTS = (50000, "Image tag exists", HTTPStatus.BAD_REQUEST)
    IMAGE_DIGEST_EXISTS = (50010, "Image digest exists", HTTPStatus.BAD_REQUEST)
    REFDATA_EXISTS = (50100, "Refdata already exists", HTTPStatus.BAD_REQUEST)
    RESOURCE_UNAVAILABLE = (60000, "Resource unavailable", HTTPStatus.BAD_REQUEST)
    JOB_FLOW_INACTIVE = (60010, "Job flow inactive", HTTPStatus.BAD_REQUEST)
    JOB_FLOW_UNAVAILABLE = (60020, "Job flow unavailable", HTTPStatus.BAD_REQUEST)
    UNSUPPORTED = (100000, "Unsupported operation", HTTPStatus.BAD_REQUEST)

    def __init__(self, code: int, text: str, status: HTTPStatus) -> None:
        self.code = code
        self.text = text
        self.status = status


class CTSError(Exception):
    """Base of all errors that reach a client. `error_type` None means a status without an application code."""

    error_type: ClassVar[ErrorType | None] = None
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.error_type is not None:
            cls.http_status = cls.error_type.status

    @property
    def message(self) -> str:
        """What was wrong, with which value, and what to do."""
        return str(self.args[0]) if self.args else ""


class AuthenticationFailedError(CTSError):
    """The client gets 401/10000."""

    error_type = ErrorType.AUTHENTICATION_FAILED


class MissingTokenError(CTSError):
    """The client gets 401/10010."""

    error_type = ErrorType.NO_TOKEN


class InvalidTokenError(CTSError):
    """The client gets 401/10020."""

    error_type = ErrorType.INVALID_TOKEN


class InvalidAuthHeaderError(CTSError):
    """The client gets 401/10030."""

    error_type = ErrorType.INVALID_AUTH_HEADER


class InvalidUserError(CTSError):
    """The client gets 400/10040."""

    error_type = ErrorType.INVALID_USERNAME


class UnauthorizedError(CTSError):
    """The client gets 403/20000."""

    error_type = ErrorType.UNAUTHORIZED


class S3PathInaccessibleError(CTSError):
    """The client gets 403/20010."""

    error_type = ErrorType.S3_PATH_INACCESSIBLE


class S3BucketInaccessibleError(CTSError):
    """The client gets 403/20020."""

    error_type = ErrorType.S3_BUCKET_INACCESSIBLE


class MissingParameterError(CTSError):
    """The client gets 400/30000."""

    error_type = ErrorType.MISSING_PARAMETER


class IllegalParameterError(CTSError):
    """The client gets 400/30001."""

    error_type = ErrorType.ILLEGAL_PARAMETER


class IllegalS3PathError(CTSError, ValueError):
    """The client gets 400/30020; inside a request model it is a validation error of its field."""

    error_type = ErrorType.ILLEGAL_S3_PATH


class ChecksumMismatchError(CTSError):
    """The client gets 400/30030."""

    error_type = ErrorType.CHECKSUM_MISMATCH


class ImageNameParseError(CTSError, ValueError):
    """The client gets 400/30040; inside a request model it is a validation error of its field."""

    error_type = ErrorType.IMAGE_NAME_PARSE


class ImageFetchError(CTSError):
    """The client gets 400/30050."""

    error_type = ErrorType.IMAGE_FETCH


class ImageNoEntrypointError(CTSError):
    """The client gets 400/30060."""

    error_type = ErrorType.IMAGE_NO_ENTRYPOINT


class InvalidJobStateError(CTSError):
    """The client gets 400/30300."""

    error_type = ErrorType.INVALID_JOB_STATE


class NotFoundError(CTSError):
    """An unknown URL. The client gets 404/40000."""

    error_type = ErrorType.NOT_FOUND


class NoSuchS3PathError(CTSError):
    """The client gets 404/40010."""

    error_type = ErrorType.NO_SUCH_S3_PATH


class NoSuchBucketError(CTSError):
    """The client gets 404/40020."""

    error_type = ErrorType.NO_SUCH_BUCKET


class NoSuchImageError(CTSError):
    """The client gets 404/40030."""

    error_type = ErrorType.NO_SUCH_IMAGE


class NoSuchJobError(CTSError):
    """The client gets 404/40040."""

    error_type = ErrorType.NO_SUCH_JOB


class NoSuchSubJobError(CTSError):
    """The client gets 404/40050."""

    error_type = ErrorType.NO_SUCH_SUBJOB


class NoSuchRefdataError(CTSError):
    """The client gets 404/40060."""

    error_type = ErrorType.NO_SUCH_REFDATA


class InvalidRefdataStateError(CTSError):
    """The client gets 400/30400."""

    error_type = ErrorType.INVALID_REFDATA_STATE


class RefdataExistsError(CTSError):
    """The client gets 400/50100."""

    error_type = ErrorType.REFDATA_EXISTS


class NoLogsError(CTSError):
    """The client gets 404/40070."""

    error_type = ErrorType.NO_LOGS


class ImageTagExistsError(CTSError):
    """The client gets 400/50000."""

    error_type = ErrorType.IMAGE_TAG_EXISTS


class ImageDigestExistsError(CTSError):
    """The client gets 400/50010."""

    error_type = ErrorType.IMAGE_DIGEST_EXISTS


class SiteInactiveError(CTSError):
    """An administrator closed the site. The client gets 400/60010."""

    error_type = ErrorType.JOB_FLOW_INACTIVE


class SiteUnavailableError(CTSError):
    """The site does not answer now. The client gets 400/60020."""

    error_type = ErrorType.JOB_FLOW_UNAVAILABLE


class ClientLifetimeError(CTSError):
    """A client expires sooner than is asked for. The client gets 400/30200."""

    error_type = ErrorType.CLIENT_LIFETIME


class ResourceUnavailableError(CTSError):
    """There is no room for this now. The client gets 400/60000."""

    error_type = ErrorType.RESOURCE_UNAVAILABLE


class UnsupportedOperationError(CTSError):
    """The client gets 400/100000."""

    error_type = ErrorType.UNSUPPORTED


class IdempotencyConflictError(CTSError):
    """An idempotency key came back with another request. The client gets 409."""

    http_status = HTTPStatus.CONFLICT


class DependencyUnavailableError(CTSError):
    """The store, S3 or the auth service does not answer: transient by nature. The client gets 503."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
