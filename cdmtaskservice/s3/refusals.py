"""What a store's no means, in the words of our errors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    DependencyUnavailableError,
    IllegalS3PathError,
    NoSuchBucketError,
    NoSuchS3PathError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
)
from cdmtaskservice.s3.attempts import DEADLINE, DIGEST_CODES, PART_CODES, RefusedError
from cdmtaskservice.s3.store import Store


async def ask(
    store: Store, verb: str, operation: str, path: str, deadline: float = DEADLINE, /, **params: Any
) -> dict[str, Any]:
    """`Store.call` of an operation that shall `verb` the object at `path`, with a no told as one of our errors."""
    try:
        return await store.call(operation, path, deadline, **params)
    except RefusedError as e:
        raise await refusal(store, e, verb) from e


async def check_store(store: Store) -> None:
    """Raises DependencyUnavailableError unless the store answers and knows the service's credentials."""
    try:
        await store.call("list_buckets", "")
    except RefusedError as e:
        # A store that knows the service need not let it list its buckets.
        if e.code != "AccessDenied":
            raise unexpected(e, "list its buckets") from e


async def check_bucket(store: Store, bucket: str) -> None:
    """Raises NoSuchBucketError or S3BucketInaccessibleError where the service cannot see `bucket`."""
    try:
        await store.call("head_bucket", bucket)
    except RefusedError as e:
        if e.status == 404:
            raise NoSuchBucketError(f"There is no S3 bucket {bucket!r}") from e
        if e.status == 403:
            # The answer to a HEAD has no body, so it does not tell a refused service from a refused bucket.
            await check_store(store)
            raise S3BucketInaccessibleError(f"Access to S3 bucket {bucket!r} is denied to the service") from e
        raise unexpected(e, f"look at bucket {bucket!r}") from e


async def refusal(store: Store, refused: RefusedError, verb: str) -> CTSError:
    """The error for a no to an attempt to `verb` an object.

    Where the answer leaves it open what is at fault, the bucket or the service's credentials, the store is asked.
    Raises NoSuchBucketError, DependencyUnavailableError where it does not answer that.
    """
    path, code = refused.path, refused.code
    bucket = path.partition("/")[0]
    if code == "NoSuchBucket":
        return NoSuchBucketError(f"There is no S3 bucket {bucket!r}")
    if code in DIGEST_CODES:
        return ChecksumMismatchError(
            f"The bytes sent for S3 path {path!r} do not have the CRC64NVME that was announced for them"
        )
    if code in PART_CODES:
        return ChecksumMismatchError(
            f"The parts sent for S3 path {path!r} are not those that were announced ({code}): send it again"
        )
    if code == "KeyTooLongError":
        return IllegalS3PathError(f"The S3 store finds the key of S3 path {path!r} too long")
    if refused.status == 404:
        if code != "NoSuchKey":
            with suppress(S3BucketInaccessibleError):
                await check_bucket(store, bucket)
        return NoSuchS3PathError(f"There is no file at S3 path {path!r}")
    if not code:
        await check_store(store)
    if refused.status == 403:
        return S3PathInaccessibleError(f"The service is not allowed to {verb} S3 path {path!r}")
    return unexpected(refused, f"{verb} {path!r}")


def unexpected(refused: RefusedError, what: str) -> DependencyUnavailableError:
    """The error for an answer that no request of ours should get: the store's fault or ours, not the client's."""
    return DependencyUnavailableError(f"The S3 store did not {what}: it answered {refused}")
