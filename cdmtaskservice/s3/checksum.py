"""CRC64NVME, the checksum by which every file is known: of bytes, files and streams.

A checksum is written as S3 writes it: the 8 bytes of the sum, most significant first, in base64 (12 characters).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterable
from pathlib import Path

from awscrt import checksums

_BLOCK = 1 << 20
"""Bytes read at a time: large enough that reading and not Python sets the pace, small enough to cost no memory."""


def crc64nvme(data: bytes) -> str:
    """The checksum of `data`. Runs at several GB/s, so callers on the event loop keep `data` below some MB."""
    return encode(checksums.crc64nvme(data))


async def crc64nvme_of_stream(chunks: AsyncIterable[bytes]) -> str:
    """The checksum of all `chunks`, one after the other."""
    value = 0
    async for chunk in chunks:
        value = checksums.crc64nvme(chunk, value)
    return encode(value)


async def crc64nvme_of_file(file: Path, offset: int = 0, length: int | None = None) -> str:
    """The checksum of `length` bytes of `file` from `offset` on (None: to its end), read in a thread.

    A file that ends before `offset + length` gives the checksum of what is there. Raises OSError as `open` does.
    """
    return encode(await asyncio.to_thread(_sum_file, file, offset, length))


def encode(value: int) -> str:
    """The base64 text of a checksum's number."""
    return base64.b64encode(value.to_bytes(8, "big")).decode("ascii")


def decode(text: str) -> int:
    """The number of a checksum's base64 text. Raises ValueError where `text` is not 8 bytes in base64."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 8:
        raise ValueError(f"A CRC64NVME is 8 bytes in base64, but {text!r} holds {len(raw)}")
    return int.from_bytes(raw, "big")


def _sum_file(file: Path, offset: int, length: int | None) -> int:
    value = 0
    left = length
    with file.open("rb") as stream:
        stream.seek(offset)
        while left is None or left > 0:
            block = stream.read(_BLOCK if left is None else min(_BLOCK, left))
            if not block:
                break
            value = checksums.crc64nvme(block, value)
            if left is not None:
                left -= len(block)
    return value
