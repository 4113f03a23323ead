"""CRC64NVME, as S3 writes it: base64 of the eight bytes, most significant first."""

from __future__ import annotations

import base64
from collections.abc import Sequence

READ_SIZE = 1 << 20
"""Bytes read at a time: large enough that the checksum, not the calls, takes the time."""


_FEW = 1 << 16
"""Bytes whose checksum we have sooner than the library for it is imported, which is a thousand times faster then."""

_REFLECTED = 0x9A6C9329AC4BC9B5
"""The polynomial, lowest bit first. Source: CRC-64/NVME, NVM Express, NVM Command Set Specification."""
_ONES = (1 << 64) - 1


class _Ours:
    """The checksum of a few bytes in plain Python: many containers have nothing but a short log."""

    left = _FEW
    table: Sequence[int] = ()

    @classmethod
    def crc64nvme(cls, data: bytes | memoryview, previous: int) -> int:
        if not cls.table:
            cls.table = [_shifted(n) for n in range(256)]
        crc, table = previous ^ _ONES, cls.table
        for byte in memoryview(data).cast("B"):
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ _ONES


def crc64nvme(data: bytes | memoryview, previous: int = 0) -> int:
    """The checksum of what `previous` is of, followed by `data`."""
    _Ours.left -= len(data)
    if _Ours.left >= 0:
        return _Ours.crc64nvme(data, previous)
    # Imported here: it takes longer than everything else that the executor starts with.
    from awscrt.checksums import crc64nvme as crc

    return int(crc(data, previous))


def _shifted(register: int) -> int:
    for _ in range(8):
        register = (register >> 1) ^ (_REFLECTED if register & 1 else 0)
    return register


def combined(pieces: Sequence[tuple[int, int]]) -> int:
    """The checksum of several pieces in a row, each given as (checksum, length in bytes)."""
    if len(pieces) == 1:
        return pieces[0][0]
    from awscrt.checksums import combine_crc64nvme

    total = 0
    for crc, length in pieces:
        total = int(combine_crc64nvme(total, crc, length))
    return total


def encoded(crc: int) -> str:
    """The form of S3 and of the protocol: 12 characters."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def decoded(crc64nvme: str) -> int:
    """The checksum of its 12 characters. Raises ValueError."""
    return int.from_bytes(base64.b64decode(crc64nvme, validate=True), "big")
