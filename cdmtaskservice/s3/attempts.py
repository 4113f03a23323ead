"""One request to a store: tried again where the fault is a passing one, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import TypeVar

import structlog

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.meter import Meter, Metered

ATTEMPTS = 4
"""How often a request is sent at most."""

DEADLINE = 5.0
"""Seconds that a request may take with all its attempts, unless it moves data: somebody waits for the answer."""

DIGEST_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"})
PART_CODES = frozenset({"EntityTooSmall", "InvalidPart", "InvalidPartOrder"})

_FIRST_PAUSE = 0.1
"""Seconds: upper bound of the pause before the second attempt. It doubles with each further one."""

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
_FINAL_CODES = DIGEST_CODES | PART_CODES | {"NoSuchUpload"}
"""Refusals that can stand in a 200, which botocore makes a 500 of."""

_CREDENTIAL_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
"""What a store says when it does not know the service itself, whatever the path."""

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)
_random = SystemRandom()


class TransientFaultError(Exception):
    """One attempt failed in a way in which the next one may not."""


class RefusedError(Exception):
    """The store's no. code: S3's error code; empty where the answer has no body, as the answer to a HEAD."""

    def __init__(self, path: str, status: int, code: str) -> None:
        super().__init__(f"{status} {code}".rstrip())
        self.path = path
        self.status = status
        self.code = code


class CredentialsRefusedError(DependencyUnavailableError):
    """The store does not know who asks, whatever the path. code: S3's error code."""

    def __init__(self, code: str) -> None:
        super().__init__(
            f"The S3 store does not accept the service's own credentials ({code}): an administrator must check "
            "its access key, secret key, region and clock"
        )
        self.code = code


def judged(path: str, status: int, code: str = "") -> Exception:
    """The error for an answer that is no yes, asked about `path`.

    A RefusedError; a TransientFaultError where the store cannot answer now; a CredentialsRefusedError where it does not
    accept the service's credentials.
    """
    if code in _CREDENTIAL_CODES:
        _log.error("s3_credentials_refused", code=code)
        return CredentialsRefusedError(code)
    if code in _TRANSIENT_CODES or (status in _TRANSIENT_STATUS and code not in _FINAL_CODES):
        return TransientFaultError(f"status {status} {code}".rstrip())
    return RefusedError(path, status, code)


async def persist(
    meter: Meter, operation: str, path: str, attempt: Callable[[], Awaitable[Result]], deadline: float = DEADLINE
) -> Result:
    """What `attempt` gives, which is called again where it raises TransientFaultError.

    deadline: seconds for all attempts together. Raises DependencyUnavailableError after it or after ATTEMPTS.
    """
    with Metered(meter, "s3", operation, (RefusedError,)):
        return await _persist(operation, path, attempt, deadline)


async def _persist(operation: str, path: str, attempt: Callable[[], Awaitable[Result]], deadline: float) -> Result:
    fault: TransientFaultError | None = None
    try:
        async with asyncio.timeout(deadline):
            for number in range(ATTEMPTS):
                if number:
                    await pause(number)
                try:
                    return await attempt()
                except TransientFaultError as e:
                    _log.debug("s3_attempt_failed", operation=operation, path=path, fault=str(e))
                    fault = e
    except TimeoutError:
        raise unavailable(operation, path, f"no answer within {deadline:g} s", fault) from fault
    raise unavailable(operation, path, f"{ATTEMPTS} attempts failed", fault) from fault


async def pause(attempt: int) -> None:
    """Waits before the attempt of that number, counted from 0: longer each time, and for a random share of it."""
    await asyncio.sleep(_random.uniform(0.2, 1.0) * _FIRST_PAUSE * 2 ** (attempt - 1))


def unavailable(operation: str, path: str, what: str, fault: Exception | None) -> DependencyUnavailableError:
    """The error for a request that got no answer; the details go to the log, since clients see the error."""
    _log.warning("s3_unavailable", operation=operation, path=path, what=what, fault=str(fault) if fault else None)
    return DependencyUnavailableError(f"The S3 store is not available: {what}. Try again later")
