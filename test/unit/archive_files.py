"""Archives for tests, good ones and such as nobody should unpack."""

import ctypes
import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from typing import Any


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members, each with its contents."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar: a file, unless `type` says other."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=0o755, **more)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def raw_header(type: bytes, size: int, name: bytes = b"x") -> bytes:
    """A header that tarfile does not write: of any type, which says any size."""
    field = b"%011o\0" % size if size >= 0 else b"\xff" + (size & (1 << 88) - 1).to_bytes(11, "big")
    before = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0"
    after = type + bytes(100) + b"ustar\x0000" + bytes(247)
    total = sum(before) + 8 * 32 + sum(after)
    return before + b"%06o\0 " % total + after


def tar_gz(*members: tuple[tarfile.TarInfo, bytes], **more: Any) -> bytes:
    return gzip.compress(tar(*members, **more), 1)


def bgzip(data: bytes, block: int = 1000) -> bytes:
    """Many short members, and an empty one at the end."""
    blocks = [data[n : n + block] for n in range(0, len(data), block)]
    return b"".join(gzip.compress(b) for b in [*blocks, b""])


def zeros_gz(mebibytes: int) -> bytes:
    """gzip of so many MiB of zeros."""
    made = zlib.compressobj(9, wbits=31)
    return b"".join([*(made.compress(bytes(1 << 20)) for _ in range(mebibytes)), made.flush()])


def zstd(data: bytes, checksum: bool = False) -> bytes:
    """One frame."""
    library = ctypes.CDLL("libzstd.so.1")
    for name in ("ZSTD_compressBound", "ZSTD_compress2", "ZSTD_CCtx_setParameter"):
        getattr(library, name).restype = ctypes.c_size_t
    library.ZSTD_createCCtx.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.ZSTD_createCCtx())
    library.ZSTD_CCtx_setParameter(context, 201, int(checksum))
    bound = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    target = ctypes.create_string_buffer(bound)
    size = library.ZSTD_compress2(context, target, ctypes.c_size_t(bound), data, ctypes.c_size_t(len(data)))
    library.ZSTD_freeCCtx(context)
    return target.raw[:size]


def skippable(data: bytes) -> bytes:
    """A zstd frame that is none of the contents."""
    return struct.pack("<II", 0x184D2A50, len(data)) + data


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED, **more: Any) -> bytes:
    """A zip of entries, each with its contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, **more) as made:
        for entry, data in entries:
            made.writestr(entry, data, method)
    return file.getvalue()


def unix_entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6))
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry
