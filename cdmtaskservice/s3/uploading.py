"""Bytes and files of this machine, sent to S3."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from awscrt import checksums

from cdmtaskservice.domain.errors import ChecksumMismatchError
from cdmtaskservice.s3 import multipart
from cdmtaskservice.s3.attempts import DEADLINE
from cdmtaskservice.s3.batches import run_batch, run_to_the_end
from cdmtaskservice.s3.checksum import crc64nvme, decode, encode
from cdmtaskservice.s3.heads import Heads
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.s3.refusals import ask
from cdmtaskservice.s3.store import Store

PART_SIZE = 8 << 20
"""Bytes: as many, times the parts that are sent at once, of a file are in memory, twice."""

_PARTS_AT_ONCE = 4


async def write(store: Store, heads: Heads, path: str, data: bytes, crc: str) -> S3Object:
    """Sends `data`, whose checksum is `crc`, to `path`."""
    answer = await send(store, "put_object", path, data, crc)
    if answer.get("ChecksumCRC64NVME") == crc:
        return S3Object(path, len(data), crc, answer.get("ETag", "").strip('"'))
    # Not every store has understood the checksum that it is given, or repeats it: the object itself tells.
    found = await heads.head(path)
    multipart.verify(found, crc)
    return found


async def upload(store: Store, heads: Heads, path: str, file: Path) -> S3Object:
    """Sends `file` to `path`, in one piece or in parts."""
    size = (await asyncio.to_thread(file.stat)).st_size
    if size <= PART_SIZE:
        data, crc = await asyncio.to_thread(read_part, file, 0, size)
        return await write(store, heads, path, data, crc)
    upload_id = await multipart.begin(store, path)
    try:
        etags, crcs, whole = await send_parts(store, path, upload_id, file, size)
        await multipart.complete(store, heads, path, upload_id, etags, crcs, whole)
    except BaseException:
        await run_to_the_end(multipart.drop(store, path, upload_id))
        raise
    return await heads.head(path)


async def send_parts(
    store: Store, path: str, upload_id: str, file: Path, size: int
) -> tuple[list[str], list[str], str]:
    """Sends the `size` bytes of `file` as the parts of an upload: their ETags, their checksums, and the whole's."""
    part_size = max(PART_SIZE, -(-size // multipart.MAX_PARTS))
    offsets = range(0, size, part_size)

    async def send_one(offset: int) -> tuple[str, str]:
        data, crc = await asyncio.to_thread(read_part, file, offset, min(part_size, size - offset))
        number = offset // part_size + 1
        answer = await send(store, "upload_part", path, data, crc, UploadId=upload_id, PartNumber=number)
        return answer.get("ETag", ""), crc

    sent = await run_batch(offsets, send_one, _PARTS_AT_ONCE)
    whole = 0
    for offset, (_, crc) in zip(offsets, sent, strict=True):
        whole = checksums.combine_crc64nvme(whole, decode(crc), min(part_size, size - offset))
    return [etag for etag, _ in sent], [crc for _, crc in sent], encode(whole)


async def send(store: Store, operation: str, path: str, data: bytes, crc: str, **params: Any) -> dict[str, Any]:
    """`Store.call` of an operation that sends `data`, whose checksum is `crc`."""
    return await ask(
        store,
        "write",
        operation,
        path,
        DEADLINE + len(data) / store.slowest,
        Body=data,
        ChecksumCRC64NVME=crc,
        # Some stores keep a checksum only where its algorithm is named.
        ChecksumAlgorithm="CRC64NVME",
        **params,
    )


def read_part(file: Path, offset: int, length: int) -> tuple[bytes, str]:
    """Bytes of a file, with their checksum. Raises ChecksumMismatchError where it is shorter."""
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    if len(data) < length:
        raise ChecksumMismatchError(f"{file} changed while it was sent to S3: it is shorter than it was")
    return data, crc64nvme(data)
