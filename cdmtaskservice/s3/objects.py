"""Single objects: looked at, many at once too, and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdmtaskservice.domain.errors import ChecksumMismatchError
from cdmtaskservice.s3.batches import run_batch
from cdmtaskservice.s3.model import S3Object, split_path
from cdmtaskservice.s3.refusals import refusal, unexpected
from cdmtaskservice.s3.transport import Answer, Call, Transport

CHECKSUM_HEADER = "x-amz-checksum-crc64nvme"

_HEAD_HEADERS = {"x-amz-checksum-mode": "ENABLED"}


class _RefusedError(Exception):
    """A HEAD that was refused. What for is found out only for the one that is reported."""

    def __init__(self, path: str, answer: Answer) -> None:
        super().__init__(path)
        self.path = path
        self.answer = answer


async def head(transport: Transport, path: str) -> S3Object:
    """The object at `path`."""
    return (await head_many(transport, [path], 1))[0]


async def head_many(transport: Transport, paths: Sequence[str], concurrency: int) -> list[S3Object]:
    """The objects at `paths`, in that order."""

    async def look(path: str) -> S3Object:
        answer = await transport.send(Call("HEAD", path, headers=_HEAD_HEADERS))
        if not answer.ok:
            raise _RefusedError(path, answer)
        return _described(path, answer)

    for path in paths:
        split_path(path)
    try:
        return await run_batch(paths, look, concurrency)
    except _RefusedError as e:
        raise await refusal(transport, e.answer, e.path, "read") from None


def checksum_headers(size: int, crc64nvme: str) -> dict[str, str]:
    """The headers by which a store is bound to accept these bytes only."""
    return {
        "content-length": str(size),
        CHECKSUM_HEADER: crc64nvme,
        # Some stores keep a checksum only where its algorithm is named.
        "x-amz-sdk-checksum-algorithm": "CRC64NVME",
    }


async def stored(transport: Transport, path: str, size: int, crc64nvme: str, answer: Answer) -> S3Object:
    """The object that a PUT with that answer made, which the store must have understood the checksum of."""
    if answer.headers.get(CHECKSUM_HEADER) == crc64nvme:
        return S3Object(path, size, crc64nvme, _etag(answer.headers))
    found = await head(transport, path)
    verify(found, crc64nvme)
    return found


def verify(found: S3Object, crc64nvme: str) -> None:
    """Raises ChecksumMismatchError unless the object is known to have that checksum."""
    if found.crc64nvme != crc64nvme:
        raise ChecksumMismatchError(
            f"The file at S3 path {found.path!r} has the CRC64NVME {found.crc64nvme}, but {crc64nvme} is expected"
        )


def _described(path: str, answer: Answer) -> S3Object:
    length = answer.headers.get("Content-Length")
    if length is None:
        raise unexpected(answer, f"tell the size of {path!r}")
    return S3Object(path, int(length), answer.headers.get(CHECKSUM_HEADER), _etag(answer.headers))


def _etag(headers: Mapping[str, str]) -> str:
    return headers.get("ETag", "").strip('"')
