"""Archives to trees: .tar.gz, .tar.zst, .gz while they come, .zip when it is there."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from .archive_tree import Tree
from .checksum import READ_SIZE
from .decompression import Gunzip, NotWhole, Source
from .failures import ContainerFailure
from .zstd import Unzstd, require_zstd

STREAMED = ("tar.gz", "tar.zst", "gz")
"""What can be unpacked while it comes."""
ZIP = "zip"

_TAR_HEADERS = 1 << 20
"""Bytes of the headers of one entry. tarfile takes a long name or a pax header into memory, as large as it says."""
_TAR_END = 1 << 26
"""Zeros after the end of a tar. Tapes had blocks of a few MiB to fill up."""
_GLOBAL_HEADERS = 100
"""tarfile keeps those, too; there are a few words about where the archive is from."""
_ZIP_LIST = 1 << 25
"""Bytes that zipfile may ask for at once: it takes the list of all entries into memory, and makes 20 times as much
of it."""
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
"""zip flags: an encrypted entry, strong encryption, masked headers. Source: APPNOTE.TXT, 4.4.4."""
_UTF8 = 1 << 11
_UNIX = 3
"""zip: the entry's mode is that of Unix."""
_LONGEST_LINK = 4096
_FAULTS = (
    NotWhole,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RecursionError,  # tarfile reads one header within the other
    NotImplementedError,  # zipfile, of what it does not know
    ValueError,
    LookupError,
    ArithmeticError,
)
"""What reading an archive that is none may raise: its parsers were not made for those that mean harm."""


def require(kind: str | None) -> None:
    """Raise ContainerFailure where this machine lacks what unpacks the kind."""
    if kind == "tar.zst":
        require_zstd()


def unpack(kind: str, source: Source, archive: str, tree: Tree) -> None:
    """Unpack the archive that `source` gives the bytes of, in order, into the tree.

    kind: of STREAMED. archive: its S3 path. Raises ContainerFailure for an archive that is damaged or refused.
    """
    with _reading(kind, archive):
        if kind == "gz":
            name = archive.rpartition("/")[2]
            with Gunzip(source) as stream:
                tree.file(name[:-3] if name.endswith(".gz") and name != ".gz" else name, stream.readinto)
        else:
            with Unzstd(source) if kind == "tar.zst" else Gunzip(source) as stream:
                _unpack_tar(_Forward(stream), tree)
    tree.check_links()


def unpack_zip(path: str, archive: str, tree: Tree) -> None:
    """Unpack the zip that lies at `path`, and is `archive` in S3, into the tree. Raises as `unpack` does."""
    with _reading(ZIP, archive), _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as opened:
        for entry in opened.infolist():
            _unpack_zip_entry(opened, entry, tree)
    tree.check_links()


@contextmanager
def _reading(kind: str, archive: str) -> Iterator[None]:
    """Puts into words what parsers raise."""
    try:
        yield
    except _FAULTS as error:
        raise ContainerFailure(
            f"The file {archive} is not a whole .{kind}: {error or type(error).__name__}. Pack it anew, and register "
            "it again.",
            f"{type(error).__name__}: {error}",
        ) from error


class _Forward:
    """What tarfile reads: forwards only, and no more than so much for one entry."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._file = io.BufferedReader(raw, READ_SIZE)
        self._at = 0
        self._left = 0
        self.last = b""
        """What was read last."""

    def allow(self, headers: int) -> None:
        """So many bytes of headers may follow."""
        self._left = headers

    def read(self, size: int) -> bytes:
        """Read headers. Raises NotWhole for more than was allowed."""
        if not 0 <= size <= self._left:
            raise NotWhole(f"an entry has headers of more than {_TAR_HEADERS} bytes")
        self._left -= size
        self.last = self._file.read(size)
        self._at += len(self.last)
        return self.last

    def tell(self) -> int:
        """The number of bytes read."""
        return self._at

    def seek(self, offset: int) -> None:
        """Pass over what fills a block up. There is nothing else that could be passed over."""
        if not 0 <= offset - self._at < tarfile.BLOCKSIZE:
            raise NotWhole("a header has an impossible size")
        self.read(offset - self._at)

    def read_into(self, buffer: memoryview) -> int:
        """Read contents of files; 0 at the end of the archive."""
        count = self._file.readinto(buffer)
        self._at += count
        return count


def _unpack_tar(source: _Forward, tree: Tree) -> None:
    source.allow(_TAR_HEADERS)
    # tarfile asks for no more of a file than `source` has.
    with tarfile.TarFile(fileobj=source, encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        while entry := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps all that it has seen
            if len(tar.pax_headers) > _GLOBAL_HEADERS:
                raise NotWhole(f"it has more than {_GLOBAL_HEADERS} global headers")
            _unpack_tar_entry(entry, source, tree)
            source.allow(_TAR_HEADERS)
    # tarfile lets a damaged header, and a missing one, pass for the end.
    if source.last != bytes(tarfile.BLOCKSIZE):
        raise NotWhole("it ends too early" if len(source.last) < tarfile.BLOCKSIZE else "a header is damaged")
    # Only at its very end can a stream say that it is whole.
    end, buffer = source.tell(), memoryview(bytearray(READ_SIZE))
    while count := source.read_into(buffer):
        if bytes(buffer[:count]).count(0) != count or source.tell() - end > _TAR_END:
            raise NotWhole("more follows after its end, as where archives were put together")


def _unpack_tar_entry(entry: tarfile.TarInfo, source: _Forward, tree: Tree) -> None:
    name = entry.name
    if entry.issparse() or any(key.startswith("GNU.sparse.") for key in entry.pax_headers):
        raise tree.refusal(name, "is a sparse file, packed with --sparse")
    if entry.isdir():
        tree.directory(name)
    elif entry.issym():
        tree.symlink(name, entry.linkname)
    elif entry.islnk():
        tree.hard_link(name, entry.linkname)
    elif entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        if entry.size < 0:
            raise NotWhole("a header has an impossible size")
        contents = _Contents(source, entry.size)
        tree.file(name, contents.read_into, bool(entry.mode & stat.S_IXUSR), entry.mtime)
    elif entry.isdev():
        raise tree.refusal(name, "is a named pipe" if entry.isfifo() else "is a device")
    else:
        raise tree.refusal(name, f"is of the unknown type {entry.type!r}")


class _Contents:
    """The bytes of one file of a tar."""

    def __init__(self, source: _Forward, size: int) -> None:
        self._source = source
        self._left = size

    def read_into(self, buffer: memoryview) -> int:
        count = self._source.read_into(buffer[: self._left])
        if not count and self._left:
            raise NotWhole("it ends too early")
        self._left -= count
        return count


class _Bounded(io.BufferedReader):
    """What zipfile reads: a file, of which it does not get too much at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all that follow. Raises NotWhole where that is too much."""
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _ZIP_LIST:
            raise NotWhole(f"its list of entries takes more than {_ZIP_LIST} bytes: .tar.gz has none")
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to an offset. Raises BadZipFile where there is no such one: it is the archive's fault, not the disk's."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError) as error:
            raise zipfile.BadZipFile("it has an impossible offset") from error


def _unpack_zip_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, tree: Tree) -> None:
    name = _zip_name(entry)
    mode = entry.external_attr >> 16 if entry.create_system == _UNIX else 0
    kind = stat.S_IFMT(mode)
    if entry.flag_bits & _ENCRYPTED:
        raise tree.refusal(name, "is encrypted")
    if name.endswith("/") or kind == stat.S_IFDIR:
        tree.directory(name)
        return
    if kind not in (0, stat.S_IFREG, stat.S_IFLNK):
        raise tree.refusal(name, "is a device, a named pipe or a socket")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise tree.refusal(name, f"is compressed by method {entry.compress_type}; only deflate is unpacked")
    with cast("zipfile.ZipExtFile", opened.open(entry)) as contents:
        if kind == stat.S_IFLNK:
            target = contents.read(_LONGEST_LINK)
            tree.symlink(name, target.decode("utf-8", "surrogateescape"))
        else:
            tree.file(name, contents.readinto, bool(mode & stat.S_IXUSR), _zip_time(entry))


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name as it stands in the archive. zipfile takes one without the mark of UTF-8 for that of an old DOS."""
    name = entry.orig_filename
    if not entry.flag_bits & _UTF8:
        name = name.encode("cp437").decode("utf-8", "surrogateescape")
    return name


def _zip_time(entry: zipfile.ZipInfo) -> float:
    """A zip has the local time of nobody knows where: it is taken for this machine's."""
    try:
        return time.mktime((*entry.date_time, 0, 0, -1))
    except (OverflowError, ValueError):
        return 0.0
