"""Files of this machine, sent to S3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from awscrt import checksums

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    DependencyUnavailableError,
)
from cdmtaskservice.s3 import multipart, objects
from cdmtaskservice.s3.batches import run_batch, run_to_the_end
from cdmtaskservice.s3.checksum import crc64nvme_of_file, decode, encode
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.s3.refusals import refusal
from cdmtaskservice.s3.transport import DEADLINE, Answer, Call, Transport

_PART_SIZE = 64 << 20
_PARTS_AT_ONCE = 4
_BLOCK = 1 << 20
_SLOWEST = 1_000_000
"""Bytes per second below which a transfer counts as stuck."""


def transfer_deadline(size: int) -> float:
    """Seconds that the transfer of `size` bytes may take with all its attempts."""
    return DEADLINE + size / _SLOWEST


async def upload(transport: Transport, path: str, file: Path) -> S3Object:
    """Sends `file` to `path`, in one piece or in parts."""
    size = (await asyncio.to_thread(file.stat)).st_size
    try:
        if size <= _PART_SIZE:
            return await _send_whole(transport, path, file, size)
        return await _send_parts(transport, path, file, size)
    except DependencyUnavailableError as e:
        # A file that shrank cannot fill the request that was announced, which looks like a broken connection.
        if (await asyncio.to_thread(file.stat)).st_size != size:
            raise ChecksumMismatchError(f"{file} changed while it was sent to S3 path {path!r}") from e
        raise


async def _send_whole(transport: Transport, path: str, file: Path, size: int) -> S3Object:
    crc = await crc64nvme_of_file(file, 0, size)
    answer = await _send(transport, path, file, 0, size, crc, ())
    return await objects.stored(transport, path, size, crc, answer)


async def _send_parts(transport: Transport, path: str, file: Path, size: int) -> S3Object:
    part_size = max(_PART_SIZE, -(-size // multipart.MAX_PARTS))
    offsets = range(0, size, part_size)
    upload_id = await multipart.begin(transport, path)

    async def send(offset: int) -> tuple[str, str]:
        length = min(part_size, size - offset)
        crc = await crc64nvme_of_file(file, offset, length)
        query = multipart.part_query(upload_id, offset // part_size + 1)
        answer = await _send(transport, path, file, offset, length, crc, query)
        return answer.headers.get("ETag", ""), crc

    try:
        sent = await run_batch(offsets, send, _PARTS_AT_ONCE)
        whole = 0
        for offset, (_, crc) in zip(offsets, sent, strict=True):
            whole = checksums.combine_crc64nvme(whole, decode(crc), min(part_size, size - offset))
        etags, crcs = [etag for etag, _ in sent], [crc for _, crc in sent]
        await multipart.complete(transport, path, upload_id, etags, crcs, encode(whole))
    except BaseException:
        await run_to_the_end(multipart.drop(transport, path, upload_id))
        raise
    return await objects.head(transport, path)


async def _send(
    transport: Transport,
    path: str,
    file: Path,
    offset: int,
    length: int,
    crc64nvme: str,
    query: tuple[tuple[str, str], ...],
) -> Answer:
    answer = await transport.send(
        Call(
            "PUT",
            path,
            query,
            objects.checksum_headers(length, crc64nvme),
            partial(_blocks, file, offset, length) if length else b"",
            transfer_deadline(length),
        )
    )
    if not answer.ok:
        raise await refusal(transport, answer, path, "write")
    return answer


async def _blocks(file: Path, offset: int, length: int) -> AsyncIterator[bytes]:
    """Read in threads, so that neither the disk holds up the event loop nor a large part the memory."""
    with await asyncio.to_thread(file.open, "rb") as stream:
        await asyncio.to_thread(stream.seek, offset)
        while length > 0:
            block = await asyncio.to_thread(stream.read, min(_BLOCK, length))
            if not block:
                raise ChecksumMismatchError(f"{file} is shorter than it was")
            length -= len(block)
            yield block
