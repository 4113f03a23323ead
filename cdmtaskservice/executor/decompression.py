"""What archives are read through: raw streams that decompress while the bytes still come."""

from __future__ import annotations

import io
import zlib
from typing import Any, Protocol

_CHUNK = 1 << 17
"""Bytes taken at a time. What a short member leaves of them is copied, so this is not as large as elsewhere."""
_GZIP = 31
"""zlib: with a gzip header and trailer, whose checksum and length zlib compares."""


class Source(Protocol):
    """Where the bytes of an archive come from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class NotWhole(Exception):
    """An archive is cut short, damaged, or no archive of its kind. The message says where it shows."""


class Gunzip(io.RawIOBase):
    """What `source` decompresses to: one member or many, perhaps with zeros after the last. Reading raises NotWhole."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._data = b""
        self._member = zlib.decompressobj(_GZIP)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end of the last member."""
        target = memoryview(buffer)
        while True:
            if not self._data:
                self._data = self._source.read(_CHUNK)
                if not self._data:
                    if not self._member.eof:
                        raise NotWhole("it ends too early")
                    return 0
            if self._member.eof:
                self._data = self._data.lstrip(b"\0")
                if not self._data:
                    continue
                self._member = zlib.decompressobj(_GZIP)
            try:
                data = self._member.decompress(self._data, len(target))
            except zlib.error as error:
                raise NotWhole(str(error)) from error
            self._data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if data:
                target[: len(data)] = data
                return len(data)
