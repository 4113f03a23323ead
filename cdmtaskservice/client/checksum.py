"""CRC64NVME as S3 writes it: base64 of eight bytes, the most significant first, 12 characters."""

from __future__ import annotations

import base64
from pathlib import Path

_READ_SIZE = 1 << 20


class Crc64Nvme:
    """The checksum of bytes that come one after the other."""

    def __init__(self) -> None:
        # Imported here, as it takes long and only files need it.
        from awscrt.checksums import crc64nvme

        self._crc64nvme = crc64nvme
        self._crc = 0

    def update(self, data: bytes) -> None:
        """More bytes."""
        self._crc = int(self._crc64nvme(data, self._crc))

    def text(self) -> str:
        """The checksum so far."""
        return base64.b64encode(self._crc.to_bytes(8, "big")).decode()


def checksum_of(file: Path) -> str:
    """The checksum of a file. Raises OSError."""
    crc = Crc64Nvme()
    with file.open("rb") as source:
        while block := source.read(_READ_SIZE):
            crc.update(block)
    return crc.text()
