"""Uploads in parts, of which the store verifies each part's checksum and the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    DependencyUnavailableError,
    IllegalParameterError,
    NoSuchS3PathError,
)
from cdmtaskservice.s3.attempts import RefusedError
from cdmtaskservice.s3.heads import Heads
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.s3.refusals import ask, refusal
from cdmtaskservice.s3.store import Store

MAX_PARTS = 10_000
"""A limit of S3."""

_COMPLETE_DEADLINE = 60.0
"""Seconds: a store may copy all parts before it answers."""

_log = structlog.get_logger(__name__)


async def begin(store: Store, path: str, **kept: Any) -> str:
    """Starts an upload to `path` and returns its ID. kept: what else the object shall have, as botocore names it."""
    # FULL_OBJECT: the checksum of the whole is that of its bytes, however they were cut.
    answer = await ask(
        store,
        "write",
        "create_multipart_upload",
        path,
        ChecksumAlgorithm="CRC64NVME",
        ChecksumType="FULL_OBJECT",
        **kept,
    )
    if "UploadId" not in answer:
        raise DependencyUnavailableError(f"The S3 store started an upload to {path!r} but gave no ID for it")
    return str(answer["UploadId"])


def check_part_count(path: str, count: int) -> None:
    """Raises IllegalParameterError unless S3 allows an upload of `count` parts."""
    if not 1 <= count <= MAX_PARTS:
        raise IllegalParameterError(
            f"S3 path {path!r} cannot be sent in {count} parts, only in 1 to {MAX_PARTS}: use larger parts"
        )


async def complete(
    store: Store,
    heads: Heads,
    path: str,
    upload_id: str,
    etags: Sequence[str],
    part_checksums: Sequence[str] | None,
    crc64nvme: str,
) -> None:
    """Joins the parts into the object, unless that has been done before."""
    parts = named(etags, part_checksums)
    try:
        answer = await store.call(
            "complete_multipart_upload",
            path,
            _COMPLETE_DEADLINE,
            UploadId=upload_id,
            ChecksumCRC64NVME=crc64nvme,
            ChecksumType="FULL_OBJECT",
            MultipartUpload={"Parts": parts},
        )
    except RefusedError as e:
        if e.code != "NoSuchUpload":
            raise await refusal(store, e, "write") from e
        await _was_completed(heads, path, crc64nvme)
    else:
        if answer.get("ChecksumCRC64NVME") != crc64nvme:
            # Not every store compares the checksum that it is given, or repeats it: the object itself tells.
            verify(await heads.head(path), crc64nvme)


def named(etags: Sequence[str], part_checksums: Sequence[str] | None) -> list[dict[str, Any]]:
    """The parts, in order, as botocore wants them named when they are joined."""
    parts: list[dict[str, Any]] = [
        {"PartNumber": number, "ETag": '"' + etag.strip('"') + '"'} for number, etag in enumerate(etags, 1)
    ]
    if part_checksums:
        parts = [part | {"ChecksumCRC64NVME": crc} for part, crc in zip(parts, part_checksums, strict=True)]
    return parts


async def abort(store: Store, path: str, upload_id: str) -> None:
    """Drops the upload and its parts. An upload that is not there any more is no error."""
    try:
        await store.call("abort_multipart_upload", path, UploadId=upload_id)
    except RefusedError as e:
        if e.status != 404:
            raise await refusal(store, e, "write") from e


async def drop(store: Store, path: str, upload_id: str) -> None:
    """`abort` for an upload that is of no more use: a failure is logged, since the caller has more to say."""
    try:
        await abort(store, path, upload_id)
    except CTSError as e:
        _log.warning("s3_upload_left_behind", path=path, upload_id=upload_id, error=e.message)


def verify(found: S3Object, crc64nvme: str) -> None:
    """Raises ChecksumMismatchError unless the object is known to have that checksum."""
    if found.crc64nvme != crc64nvme:
        raise ChecksumMismatchError(
            f"The file at S3 path {found.path!r} has the CRC64NVME {found.crc64nvme}, but {crc64nvme} is expected"
        )


async def _was_completed(heads: Heads, path: str, crc64nvme: str) -> None:
    try:
        found = await heads.head(path)
    except NoSuchS3PathError as e:
        raise NoSuchS3PathError(
            f"There is neither a file at S3 path {path!r} nor this upload to it: it was dropped, send it again"
        ) from e
    if found.crc64nvme != crc64nvme:
        raise ChecksumMismatchError(
            f"The upload to S3 path {path!r} is no longer there, and the file that is has the CRC64NVME "
            f"{found.crc64nvme}, not {crc64nvme}: send it again"
        )
