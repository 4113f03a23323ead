"""CRC64NVME, as S3 writes it: base64 of the eight bytes, most significant first."""

from __future__ import annotations

import base64
from collections.abc import Sequence

READ_SIZE = 1 << 20
"""Bytes read at a time: large enough that the checksum, not the calls, takes the time."""


def crc64nvme(data: bytes | memoryview, previous: int = 0) -> int:
    """The checksum of what `previous` is of, followed by `data`."""
    # Imported here: it takes longer than everything else that the executor starts with.
    from awscrt.checksums import crc64nvme as crc

    return int(crc(data, previous))


def combined(pieces: Sequence[tuple[int, int]]) -> int:
    """The checksum of several pieces in a row, each given as (checksum, length in bytes)."""
    from awscrt.checksums import combine_crc64nvme

    total = 0
    for crc, length in pieces:
        total = int(combine_crc64nvme(total, crc, length))
    return total


def encoded(crc: int) -> str:
    """The form of S3 and of the protocol: 12 characters."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()
