"""What a store's no means, in the words of our errors."""

from __future__ import annotations

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
from cdmtaskservice.s3.transport import Answer, Call, Transport

_DIGEST_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"})
_PART_CODES = frozenset({"EntityTooSmall", "InvalidPart", "InvalidPartOrder"})


async def check_store(transport: Transport) -> None:
    """Raises DependencyUnavailableError unless the store answers and knows the service's credentials."""
    answer = await transport.send(Call("GET", ""))
    # A store that knows the service need not let it list its buckets.
    if not answer.ok and answer.code != "AccessDenied":
        raise unexpected(answer, "list its buckets")


async def check_bucket(transport: Transport, bucket: str) -> None:
    """Raises NoSuchBucketError or S3BucketInaccessibleError where the service cannot see `bucket`."""
    answer = await transport.send(Call("HEAD", bucket))
    if answer.ok:
        return
    if answer.status == 404:
        raise no_such_bucket(bucket)
    if answer.status == 403:
        # The answer to a HEAD has no body, so it does not tell a refused service from a refused bucket.
        await check_store(transport)
        raise S3BucketInaccessibleError(f"Access to S3 bucket {bucket!r} is denied to the service")
    raise unexpected(answer, f"look at bucket {bucket!r}")


async def refusal(transport: Transport, answer: Answer, path: str, verb: str) -> CTSError:
    """The error for `answer`, given to an attempt to `verb` the object at `path`.

    Where the answer leaves it open what is at fault, the bucket or the service's credentials, the store is asked.
    Raises DependencyUnavailableError where it does not answer that.
    """
    bucket = path.partition("/")[0]
    if answer.code == "NoSuchBucket":
        return no_such_bucket(bucket)
    if answer.code == "NoSuchKey":
        return no_such_path(path)
    if answer.code in _DIGEST_CODES:
        return ChecksumMismatchError(
            f"The bytes sent for S3 path {path!r} do not have the CRC64NVME that was announced for them"
        )
    if answer.code in _PART_CODES:
        return ChecksumMismatchError(
            f"The parts sent for S3 path {path!r} are not those that were announced ({answer.code}): send it again"
        )
    if answer.code == "KeyTooLongError":
        return IllegalS3PathError(f"The S3 store finds the key of S3 path {path!r} too long")
    if answer.status == 404:
        probe = await transport.send(Call("HEAD", bucket))
        return no_such_bucket(bucket) if probe.status == 404 else no_such_path(path)
    if answer.status == 403:
        if not answer.code:
            await check_store(transport)
        return S3PathInaccessibleError(f"The service is not allowed to {verb} S3 path {path!r}")
    if not answer.code:
        await check_store(transport)
    return unexpected(answer, f"{verb} {path!r}")


def no_such_bucket(bucket: str) -> NoSuchBucketError:
    """The error for a bucket that is not there."""
    return NoSuchBucketError(f"There is no S3 bucket {bucket!r}")


def no_such_path(path: str) -> NoSuchS3PathError:
    """The error for an object that is not there."""
    return NoSuchS3PathError(f"There is no file at S3 path {path!r}")


def unexpected(answer: Answer, what: str) -> DependencyUnavailableError:
    """The error for an answer that no request of ours should get: the store's fault or ours, not the client's."""
    detail = f"{answer.status} {answer.code}".rstrip()
    return DependencyUnavailableError(f"The S3 store did not {what}: it answered {detail}")
