"""zstd through the system's own library: Python has none before 3.14, and dpkg, rpm and zypper all link this one.

Source of the functions: zstd.h, "Streaming decompression".
"""

from __future__ import annotations

import ctypes
import io
from typing import Any

from .decompression import NotWhole, Source
from .failures import ContainerFailure

_LIBRARY = "libzstd.so.1"


class _InBuffer(ctypes.Structure):
    _fields_ = (("src", ctypes.c_char_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


class _OutBuffer(ctypes.Structure):
    _fields_ = (("dst", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


def require_zstd() -> ctypes.CDLL:
    """The library. Raises ContainerFailure where it is not installed."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise ContainerFailure(
            f"This machine has no {_LIBRARY}, which .tar.zst needs. Install the package libzstd1 (Debian, Ubuntu, "
            "SLES) or libzstd (RHEL), or register the reference data as .tar.gz.",
            str(error),
        ) from error
    for name, result, arguments in (
        ("ZSTD_createDStream", ctypes.c_void_p, ()),
        ("ZSTD_initDStream", ctypes.c_size_t, (ctypes.c_void_p,)),
        ("ZSTD_freeDStream", ctypes.c_size_t, (ctypes.c_void_p,)),
        ("ZSTD_DStreamInSize", ctypes.c_size_t, ()),
        (
            "ZSTD_decompressStream",
            ctypes.c_size_t,
            (ctypes.c_void_p, ctypes.POINTER(_OutBuffer), ctypes.POINTER(_InBuffer)),
        ),
        ("ZSTD_isError", ctypes.c_uint, (ctypes.c_size_t,)),
        ("ZSTD_getErrorName", ctypes.c_char_p, (ctypes.c_size_t,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Unzstd(io.RawIOBase):
    """What `source` decompresses to: one frame or many, and skippable ones. Reading raises NotWhole.

    Takes as much memory as the frame's window, which the library bounds at 128 MiB.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._library = require_zstd()
        self._chunk = self._library.ZSTD_DStreamInSize()
        self._in = _InBuffer(b"", 0, 0)
        self._data = b""  # what _in points at
        self._whole = False
        self._more = False
        self._stream = self._library.ZSTD_createDStream()
        if not self._stream:
            raise MemoryError("no room for a zstd stream")
        self._checked(self._library.ZSTD_initDStream(self._stream))

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end of the last frame."""
        target = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        out = _OutBuffer(ctypes.addressof(target), len(buffer), 0)
        while not out.pos:
            if self._in.pos == self._in.size and not self._more:
                self._data = self._source.read(self._chunk)
                if not self._data:
                    if not self._whole:
                        raise NotWhole("it ends too early")
                    return 0
                self._in = _InBuffer(self._data, len(self._data), 0)
            left = self._checked(
                self._library.ZSTD_decompressStream(self._stream, ctypes.byref(out), ctypes.byref(self._in))
            )
            self._whole = not left
            # A full buffer may not have been all that the library could give without more to read.
            self._more = bool(left) and out.pos == out.size
        return int(out.pos)

    def close(self) -> None:
        """Free the library's memory."""
        if not self.closed and self._stream:
            self._library.ZSTD_freeDStream(self._stream)
            self._stream = None
        super().close()

    def _checked(self, result: int) -> int:
        if self._library.ZSTD_isError(result):
            raise NotWhole(self._library.ZSTD_getErrorName(result).decode())
        return result
