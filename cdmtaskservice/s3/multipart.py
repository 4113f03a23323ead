"""Uploads in parts, of which the store verifies each part's checksum and the whole's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

import structlog

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    DependencyUnavailableError,
    IllegalParameterError,
    NoSuchS3PathError,
)
from cdmtaskservice.s3.model import PartSpec, PresignedRequest
from cdmtaskservice.s3.objects import CHECKSUM_HEADER, head, verify
from cdmtaskservice.s3.refusals import refusal
from cdmtaskservice.s3.transport import Call, Transport, xml_text

MAX_PARTS = 10_000
"""A limit of S3."""

_COMPLETE_DEADLINE = 60.0
"""Seconds: a store may copy all parts before it answers."""

_SIGN_AT_ONCE = 200

_log = structlog.get_logger(__name__)

PresignPart = Callable[[PartSpec, tuple[tuple[str, str], ...]], PresignedRequest]
"""Presigns the PUT of a part with the given query parameters."""


async def begin(transport: Transport, path: str) -> str:
    """Starts an upload to `path` and returns its ID."""
    # FULL_OBJECT: the checksum of the whole is that of its bytes, however they were cut.
    headers = {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"}
    answer = await transport.send(Call("POST", path, (("uploads", ""),), headers))
    if not answer.ok:
        raise await refusal(transport, answer, path, "write")
    upload_id = xml_text(answer.body, "UploadId")
    if not upload_id:
        raise DependencyUnavailableError(f"The S3 store started an upload to {path!r} but gave no ID for it")
    return upload_id


async def presign_parts(
    path: str, upload_id: str, parts: Sequence[PartSpec], presign: PresignPart
) -> list[PresignedRequest]:
    """The requests by which the parts are sent, in order. Raises IllegalParameterError for too many or none."""
    check_part_count(path, len(parts))
    requests = []
    for number, part in enumerate(parts, 1):
        requests.append(presign(part, part_query(upload_id, number)))
        if number % _SIGN_AT_ONCE == 0:
            await asyncio.sleep(0)
    return requests


def check_part_count(path: str, count: int) -> None:
    """Raises IllegalParameterError unless S3 allows an upload of `count` parts."""
    if not 1 <= count <= MAX_PARTS:
        raise IllegalParameterError(
            f"S3 path {path!r} cannot be sent in {count} parts, only in 1 to {MAX_PARTS}: use larger parts"
        )


def part_query(upload_id: str, number: int) -> tuple[tuple[str, str], ...]:
    """The query parameters that address a part, counted from 1."""
    return (("partNumber", str(number)), ("uploadId", upload_id))


async def complete(
    transport: Transport,
    path: str,
    upload_id: str,
    etags: Sequence[str],
    part_checksums: Sequence[str] | None,
    crc64nvme: str,
) -> None:
    """Joins the parts into the object, unless that has been done before."""
    headers = {CHECKSUM_HEADER: crc64nvme, "x-amz-checksum-type": "FULL_OBJECT"}
    body = _completion(etags, part_checksums)
    answer = await transport.send(Call("POST", path, (("uploadId", upload_id),), headers, body, _COMPLETE_DEADLINE))
    if answer.code == "NoSuchUpload":
        await _was_completed(transport, path, crc64nvme)
    elif not answer.ok:
        raise await refusal(transport, answer, path, "write")
    elif xml_text(answer.body, "ChecksumCRC64NVME") != crc64nvme:
        # Not every store compares the checksum that it is given, or repeats it: the object itself tells.
        verify(await head(transport, path), crc64nvme)


async def abort(transport: Transport, path: str, upload_id: str) -> None:
    """Drops the upload and its parts. An upload that is not there any more is no error."""
    answer = await transport.send(Call("DELETE", path, (("uploadId", upload_id),)))
    if not answer.ok and answer.status != 404:
        raise await refusal(transport, answer, path, "write")


async def drop(transport: Transport, path: str, upload_id: str) -> None:
    """`abort` for an upload that is of no more use: a failure is logged, since the caller has more to say."""
    try:
        await abort(transport, path, upload_id)
    except CTSError as e:
        _log.warning("s3_upload_left_behind", path=path, upload_id=upload_id, error=e.message)


async def _was_completed(transport: Transport, path: str, crc64nvme: str) -> None:
    try:
        found = await head(transport, path)
    except NoSuchS3PathError as e:
        raise NoSuchS3PathError(
            f"There is neither a file at S3 path {path!r} nor this upload to it: it was dropped, send it again"
        ) from e
    if found.crc64nvme != crc64nvme:
        raise ChecksumMismatchError(
            f"The upload to S3 path {path!r} is no longer there, and the file that is has the CRC64NVME "
            f"{found.crc64nvme}, not {crc64nvme}: send it again"
        )


def _completion(etags: Sequence[str], checksums: Sequence[str] | None) -> bytes:
    parts = []
    for number, etag in enumerate(etags, 1):
        quoted = escape('"' + etag.strip('"') + '"')
        checksum = f"<ChecksumCRC64NVME>{escape(checksums[number - 1])}</ChecksumCRC64NVME>" if checksums else ""
        parts.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{quoted}</ETag>{checksum}</Part>")
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{namespace}">{"".join(parts)}</CompleteMultipartUpload>'.encode()
