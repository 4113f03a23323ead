"""Archives that are damaged, or mean harm: what is said of them, and that nothing outside is touched."""

import errno
import gzip
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.executor.archive_tree import Limits, Tree, Written, shown
from cdmtaskservice.executor.archives import unpack, unpack_zip
from cdmtaskservice.executor.decompression import Gunzip
from cdmtaskservice.executor.failures import ContainerFailure
from cdmtaskservice.executor.stopping import Stop

from .archive_files import (
    bgzip,
    directory,
    hard_link,
    member,
    raw_header,
    symlink,
    tar,
    tar_gz,
    unix_entry,
    zeros_gz,
    zipped,
    zstd,
)

LIMITS = Limits(10, 1 << 20)
Members = Sequence[tuple[tarfile.TarInfo, bytes]]


class Refused:
    """Unpacks what must be refused, in a directory `tree` beside a directory `outside`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"secret")
        (directory / "tree").mkdir()
        self.tree = Tree(str(directory / "tree"), "b/the/archive", LIMITS, Stop())

    def unpack(self, kind: str, data: bytes) -> None:
        if kind == "zip":
            (self.directory / "file").write_bytes(data)
            unpack_zip(str(self.directory / "file"), "b/the/archive", self.tree)
        else:
            unpack(kind, io.BytesIO(data), "b/the/archive", self.tree)

    def words(self, kind: str, data: bytes) -> str:
        """What the failure says."""
        with pytest.raises(ContainerFailure) as caught:
            self.unpack(kind, data)
        assert caught.value.again is None
        assert "b/the/archive" in caught.value.error
        assert [(p.name, p.read_bytes(), p.stat().st_nlink) for p in self.outside.iterdir()] == [
            ("secret", b"secret", 1)
        ]
        assert {p.name for p in self.directory.iterdir()} <= {"tree", "outside", "file"}
        assert self.tree.bytes_written <= LIMITS.bytes + (1 << 20)
        assert len(list((self.directory / "tree").rglob("*"))) <= LIMITS.files
        return caught.value.error


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    return Refused(tmp_path)


# Entries


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("/etc/x")], "its entry '/etc/x' has an absolute path. Pack it anew without"),
        ([member("../outside/x")], "its entry '../outside/x' has a path with '..'"),
        ([directory("a"), member("a/../../outside/x")], "with '..'"),
        ([directory("..")], "with '..'"),
        ([symlink("a", "/etc/passwd")], "its entry 'a' is a symbolic link to the absolute path '/etc/passwd'"),
        ([symlink("a", "../outside")], "its entry 'a' is a symbolic link to '../outside', which leads out"),
        ([symlink("d/a", "../../outside/secret")], "leads out"),
        # By its words, this one stays inside.
        ([directory("a/b"), symlink("a/b/top", "../.."), symlink("x", "a/b/top/../outside")], "entry 'x' is a symb"),
        ([symlink("a", "b/../../outside"), symlink("b", "c"), directory("c")], "leads out"),
        ([symlink("a", "none/../../outside")], "leads out"),
        # Out and in again: when the tree has its final name, this leads out.
        ([member("x"), symlink("a", "../tree/x")], "leads out"),
        ([symlink("a", "b"), symlink("b", "a")], "leads out"),
        ([symlink("a", "a/x")], "leads out"),
        ([symlink("a", "x" * 3073)], "which no link can hold"),
        ([symlink("a", "")], "which no link can hold"),
        ([symlink("a", "caf\udce9")], "is a symbolic link whose target is not UTF-8"),
        ([symlink("s", "../outside"), member("s/secret", b"!")], "needs the directory 's', which is a symbolic link"),
        ([directory("d"), symlink("s", "d"), member("s/x/y")], "needs the directory 's', which is a symbolic link"),
        ([symlink("s", "../outside"), directory("s")], "needs the directory 's', which is a symbolic link"),
        ([hard_link("h", "/etc/passwd")], "has an absolute path"),
        ([hard_link("h", "../outside/secret")], "with '..'"),
        ([hard_link("h", "not there")], "is a hard link to 'not there', which is no file of the archive before it"),
        ([symlink("s", "../outside/secret"), hard_link("h", "s")], "which is no file"),
        ([symlink("s", "../outside"), hard_link("h", "s/secret")], "which is no file"),
        ([member("d/f"), symlink("s", "d"), hard_link("h", "s/f")], "which is no file"),
        ([directory("d"), hard_link("h", "d")], "which is no file"),
        ([member("a", type=tarfile.CHRTYPE)], "is a device"),
        ([member("a", type=tarfile.BLKTYPE)], "is a device"),
        ([member("a", type=tarfile.FIFOTYPE)], "is a named pipe"),
        ([member("a", type=b"V")], "is of the unknown type b'V'"),
        ([member("f"), member("f/x")], "its entry 'f/x' needs the directory 'f', which is a file"),
        ([member("f"), directory("f")], "needs the directory 'f', which is a file"),
        ([directory("f"), member("f")], "has the name of a directory"),
        ([member("d/f"), symlink("d", "x")], "has the name of a directory"),
        ([member("caf\udce9")], r"its entry 'caf\udce9' has a name that is not UTF-8"),
        ([member("x", pax_headers={"path": "a\0b"})], r"its entry 'a\x00b' has a name that has a NUL"),
        ([member(".")], "has no name"),
        ([member("é" * 128)], "has a name of more than 255 bytes"),
        ([member("/".join(["d" * 200] * 16))], "has a path of more than 3072 bytes"),
        ([member("a/" * 100 + "b")], "lies below more than 100 directories"),
        ([member(f"{n}") for n in range(11)], "has more than 10 files and directories"),
        ([member("1/2/3/4/5/6/7/8/9/10/11")], "has more than 10 files and directories"),
        ([directory("x")] * 11, "has more than 10 files and directories"),
        ([symlink(f"{n}", "x") for n in range(11)], "has more than 10 files and directories"),
        ([member("x"), *(hard_link(f"{n}", "x") for n in range(11))], "has more than 10 files and directories"),
        ([member("x", bytes(1 << 21))], "unpacks to more than 1048576 bytes"),
        ([member("x", bytes(1 << 19))] * 3, "unpacks to more than 1048576 bytes"),
        ([member("x", pax_headers={"GNU.sparse.major": "2"})], "is a sparse file, packed with --sparse"),
        ([member("x", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"})], "is a sparse file"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_tar_with_an_entry_that_is_refused(refused: Refused, members: Members, words: str):
    assert words in refused.words("tar.gz", tar_gz(*members))


def test_links_that_lead_on_too_often_are_refused(refused: Refused):
    refused.tree = Tree(refused.tree.path, "b/the/archive", Limits(100, 1), Stop())
    links = [symlink(f"{n}", f"{n + 1}") for n in range(50)]
    with pytest.raises(ContainerFailure, match="its entry '0' is a symbolic link to '1', which leads out"):
        unpack("tar.gz", io.BytesIO(tar_gz(*links)), "b/the/archive", refused.tree)


def test_a_file_system_that_takes_two_names_for_one(refused: Refused):
    (Path(refused.tree.path) / "A").symlink_to(refused.outside)
    assert "takes for that of another entry" in refused.words("tar.gz", tar_gz(member("A/x")))
    assert "takes for that of another entry" in refused.words("tar.gz", tar_gz(member("A")))


@pytest.mark.parametrize("function", ["open", "mkdir", "symlink", "link"])
def test_what_a_file_system_cannot_have_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch, function: str):
    def impossible(*_: object, **__: object) -> None:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))

    def unpack_entries() -> None:
        refused.tree.file("x", lambda buffer: 0)
        monkeypatch.setattr(os, function, impossible)
        refused.tree.directory("d")
        refused.tree.symlink("s", "x")
        refused.tree.hard_link("h", "x")
        refused.tree.file("y", lambda buffer: 0)

    with pytest.raises(ContainerFailure, match=r"its entry '[dshy]' is nothing that this file system can have: Inv"):
        unpack_entries()


def test_a_file_is_moved_where_there_are_no_hard_links(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    def impossible(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", impossible)
    (refused.directory / "file").write_bytes(b"x")
    refused.tree.adopt("x", str(refused.directory / "file"), Written(1, 2))
    assert (Path(refused.tree.path) / "x").read_bytes() == b"x"
    assert refused.tree.totals() == (1, 1)


def test_a_name_is_shown_as_far_as_it_helps():
    assert shown("x\n\x1b[31m") == r"'x\n\x1b[31m'"
    assert shown("x" * 300) == f"'{'x' * 200}'… (300 characters)"
    assert shown("x" * 200) == f"'{'x' * 200}'"


# Tar headers


def headers(*blocks: bytes) -> bytes:
    return gzip.compress(b"".join(blocks) + bytes(1024), 1)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (headers(raw_header(b"x", 2 << 20), bytes(2 << 20)), "headers of more than 1048576 bytes"),
        (headers(raw_header(b"g", 2 << 20), bytes(2 << 20)), "headers of more than 1048576 bytes"),
        (headers(raw_header(b"L", 1 << 32)), "headers of more than 1048576 bytes"),
        (headers(raw_header(b"K", 7 << 30)), "headers of more than 1048576 bytes"),
        (headers(*[raw_header(b"x", 512), padded(b"12 path=abc\n")] * 900), "is not a whole .tar.gz"),
        (headers(*[raw_header(b"L", 3), padded(b"abc")] * 1100), "is not a whole .tar.gz"),
        (headers(raw_header(b"0", -512)), "is not a whole .tar.gz"),
        (headers(raw_header(b"L", -512)), "is not a whole .tar.gz"),
        (headers(raw_header(b"V", -512, b"y"), raw_header(b"0", 0)), "unknown type"),
        (headers(raw_header(b"x", 20), padded(b"99 path=abc\n")), "is not a whole .tar.gz"),
        (headers(raw_header(b"S", 0)), "is a sparse file"),
        (headers(raw_header(b"0", 0, b"")), "has no name"),
        (headers(raw_header(b"0", 7 << 30)), "it ends too early"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_tar_with_headers_that_would_do_harm(refused: Refused, data: bytes, words: str):
    assert words in refused.words("tar.gz", data)


def test_global_headers_do_not_pile_up(refused: Refused):
    blocks = []
    for n in range(101):
        line = f"key{n}=1\n"
        blocks += [raw_header(b"g", len(line) + 3), padded(f"{len(line) + 3} {line}".encode())]
    assert "more than 100 global headers" in refused.words("tar.gz", headers(*blocks, raw_header(b"0", 0)))


# Damage


def damaged(kind: str) -> dict[str, bytes]:
    contents = tar(member("x", os.urandom(2000)), member("y", b"y"))
    pack = gzip.compress if kind == "tar.gz" else zstd
    good = pack(contents)
    wrong_header = bytearray(contents)
    wrong_header[512 + 2048] ^= 1
    return {
        "html": b"<html>404</html>" * 100,
        "empty": b"",
        "cut": good[: len(good) // 2],
        "cut by a byte": good[:-1],
        "no tar": pack(b"<html>404</html>" * 100),
        "nothing in it": pack(b""),
        "tar cut in a file": pack(contents[:1000]),
        "tar cut after a file": pack(contents[: 512 + 2048]),
        "tar cut in a header": pack(contents[: 512 + 2048 + 100]),
        "tar with a damaged header": pack(bytes(wrong_header)),
        "two tars": pack(contents * 2),
        "more after it": good + b"more",
        "damaged end": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:] if kind == "tar.gz" else good + b"\x28",
    }


@pytest.mark.parametrize("kind", ["tar.gz", "tar.zst"])
@pytest.mark.parametrize("damage", damaged("tar.gz"))
def test_an_archive_that_is_not_whole(refused: Refused, kind: str, damage: str):
    words = refused.words(kind, damaged(kind)[damage])
    assert words.startswith(f"The file b/the/archive is not a whole .{kind}: ")
    assert words.endswith(". Pack it anew, and register it again.")


def test_a_tar_without_an_end(refused: Refused):
    assert "more follows after its end" in refused.words("tar.gz", tar_gz(member("x")) + zeros_gz(65))


def test_what_is_packed_is_said_where_two_tars_were_put_together(refused: Refused):
    assert "more follows after its end" in refused.words("tar.gz", tar_gz(member("x")) + tar_gz(member("y")))


def test_an_empty_archive_is_one(tmp_path: Path):
    tree = Tree(str(tmp_path), "b/x", LIMITS, Stop())
    unpack("tar.gz", io.BytesIO(tar_gz()), "b/x", tree)
    assert tree.totals() == (0, 0)


@pytest.mark.parametrize("damage", ["html", "empty", "cut", "cut by a byte"])
def test_a_gz_that_is_not_whole(refused: Refused, damage: str):
    assert "is not a whole .gz: " in refused.words("gz", damaged("tar.gz")[damage])


def test_a_gz_that_ends_after_a_member_of_several_is_whole_as_far_as_anyone_can_tell(tmp_path: Path):
    tree = Tree(str(tmp_path), "b/x.gz", LIMITS, Stop())
    unpack("gz", io.BytesIO(bgzip(b"x" * 100, 50)), "b/x.gz", tree)
    assert (tmp_path / "x").read_bytes() == b"x" * 100


# Bombs


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("gz", zeros_gz(64)),
        ("tar.gz", gzip.compress(raw_header(b"0", 7 << 30), 1) + zeros_gz(64)),
        ("tar.zst", zstd(raw_header(b"0", 7 << 30)) + zstd(bytes(64 << 20))),
        ("zip", zipped(("x", bytes(64 << 20)))),
    ],
    ids=["gz", "tar.gz", "tar.zst", "zip"],
)
def test_a_bomb_is_stopped_where_it_is_too_large(refused: Refused, kind: str, data: bytes):
    assert "unpacks to more than 1048576 bytes, the most that reference data may have" in refused.words(kind, data)


# zip


def changed(data: bytes, local: int, central: int, value: bytes) -> bytes:
    """A zip of one entry, with other bytes at an offset of its local header and of its central one."""
    made = bytearray(data)
    for start in (data.index(b"PK\3\4") + local, data.index(b"PK\1\2") + central):
        made[start : start + len(value)] = value
    return bytes(made)


ONE = zipped(("x", b"contents"), method=zipfile.ZIP_STORED)


def entries(*pairs: tuple[str, int] | tuple[str, int, bytes]) -> bytes:
    return zipped(*((unix_entry(p[0], p[1]), p[2] if len(p) == 3 else b"") for p in pairs))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (entries(("/etc/x", 0)), "its entry '/etc/x' has an absolute path"),
        (entries(("../outside/x", 0)), "with '..'"),
        (entries(("a/../../outside/", 0)), "with '..'"),
        (entries(("a", 0o120777, b"../outside")), "leads out"),
        (entries(("a", 0o120777, b"/etc")), "absolute path '/etc'"),
        (entries(("a", 0o120777, b"\xff")), "target is not UTF-8"),
        (entries(("a", 0o120777, b"../outside"), ("a/secret", 0, b"!")), "which is a symbolic link"),
        (entries(("a", 0o010644)), "is a device, a named pipe or a socket"),
        (entries(("a", 0o020644)), "is a device, a named pipe or a socket"),
        (entries(("a", 0o060644)), "is a device, a named pipe or a socket"),
        (entries(("a", 0o140644)), "is a device, a named pipe or a socket"),
        (entries(("a", 0), ("a/x", 0)), "which is a file"),
        (entries(*((f"{n}", 0) for n in range(11))), "has more than 10 files"),
        (zipped(("x", b"x"), method=zipfile.ZIP_BZIP2), "is compressed by method 12"),
        (zipped(("x", b"x"), method=zipfile.ZIP_LZMA), "is compressed by method 14"),
        (ONE.replace(b"x", b"\xff"), r"its entry '\udcff' has a name that is not UTF-8"),
        (zipped(("abc", b"x")).replace(b"abc", b"a\0c"), r"its entry 'a\x00c' has a name that has a NUL"),
        (changed(ONE, 6, 8, b"\1\0"), "its entry 'x' is encrypted"),
        (changed(ONE, 6, 8, b"\x40\0"), "its entry 'x' is encrypted"),
        (changed(ONE, 6, 8, b"\0\x08").replace(b"x", b"\xff"), "is not a whole .zip"),
        (changed(ONE, 22, 24, struct.pack("<L", 4)), "is not a whole .zip: Bad CRC"),
        (ONE.replace(b"contents", b"CONTENTS"), "is not a whole .zip: Bad CRC"),
        (ONE[:-10], "is not a whole .zip"),
        (ONE[: len(ONE) // 2], "is not a whole .zip"),
        (ONE[20:], "is not a whole .zip"),
        (b"<html>404</html>" * 100, "is not a whole .zip: File is not a zip file"),
        (b"", "is not a whole .zip"),
        (bytes(33 << 20) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 33 << 20, 0, 0), "more than 33554432 bytes"),
        (changed(ONE, 4, 6, b"\xff\0"), "is not a whole .zip: zip file version"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_zip_that_is_refused(refused: Refused, data: bytes, words: str):
    assert words in refused.words("zip", data)


def test_a_stop_ends_unpacking(tmp_path: Path):
    stop = Stop()
    tree = Tree(str(tmp_path), "b/x", Limits(10, 1 << 40), stop)

    class Endless:
        def __init__(self) -> None:
            self.data: Any = zeros_gz(3)

        def read(self, size: int) -> bytes:
            if tree.bytes_written:
                stop.set(KeyError("the reason"))
            data, self.data = self.data[:1000], self.data[1000:] or zeros_gz(1)
            return bytes(data)

    with pytest.raises(KeyError, match="the reason"):
        tree.file("x", Gunzip(Endless()).readinto)
