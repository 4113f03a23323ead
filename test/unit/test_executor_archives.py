"""Good archives to trees: what comes out, with which modes, links, times and checksums."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.executor import zstd as zstd_module
from cdmtaskservice.executor.archive_tree import Limits, Tree
from cdmtaskservice.executor.archives import require, unpack, unpack_zip
from cdmtaskservice.executor.failures import ContainerFailure
from cdmtaskservice.executor.stopping import Stop

from .archive_files import (
    bgzip,
    directory,
    hard_link,
    member,
    skippable,
    symlink,
    tar,
    tar_gz,
    unix_entry,
    zipped,
    zstd,
)
from .remote_tasks import crc


def unpacked(tmp_path: Path, kind: str, data: bytes, name: str = "b/data", limits: Limits | None = None) -> Tree:
    """The tree of an archive, below `tmp_path`/tree."""
    (tmp_path / "tree").mkdir()
    tree = Tree(str(tmp_path / "tree"), name, limits or Limits(10000, 1 << 30), Stop())
    if kind == "zip":
        (tmp_path / "archive").write_bytes(data)
        unpack_zip(str(tmp_path / "archive"), name, tree)
    else:
        unpack(kind, io.BytesIO(data), name, tree)
    return tree


def layout(path: Path) -> dict[str, object]:
    """What lies below a directory: files with mode and contents, links with their target, None for directories."""
    found: dict[str, object] = {}
    for p in path.rglob("*"):
        if p.is_symlink():
            found[str(p.relative_to(path))] = os.readlink(p)
        elif p.is_dir():
            assert stat.S_IMODE(p.stat().st_mode) == 0o755
            found[str(p.relative_to(path))] = None
        else:
            found[str(p.relative_to(path))] = (stat.S_IMODE(p.stat().st_mode), p.read_bytes())
    return found


def plain(data: bytes) -> tuple[int, bytes]:
    return 0o644, data


GOOD = (
    directory("./"),
    directory("./empty/"),
    member("./a/b/c", b"deep"),
    member("program", b"#!", mode=0o4711),
    member("group", b"", mode=0o2674),
    member("é/日本 \n🧬", b"unicode"),
    symlink("link", "a/b/../b/c"),
    symlink("a/up", "../a//./b"),
    symlink("dangling", "not/there"),
    hard_link("hard", "./a/b/c"),
    directory("a/b"),
)
GOOD_LAYOUT = {
    "empty": None,
    "a": None,
    "a/b": None,
    "a/b/c": plain(b"deep"),
    "program": (0o755, b"#!"),
    "group": plain(b""),
    "é": None,
    "é/日本 \n🧬": plain(b"unicode"),
    "link": "a/b/../b/c",
    "a/up": "../a//./b",
    "dangling": "not/there",
    "hard": plain(b"deep"),
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("kind", ["tar.gz", "tar.zst"])
def test_a_tar_is_laid_out_as_it_was_packed(tmp_path: Path, kind: str, form: int):
    data = tar(*GOOD, format=form)
    tree = unpacked(tmp_path, kind, gzip.compress(data) if kind == "tar.gz" else zstd(data))
    assert layout(tmp_path / "tree") == GOOD_LAYOUT
    assert os.path.samefile(tmp_path / "tree/hard", tmp_path / "tree/a/b/c")
    assert tree.totals() == (5, 17)
    assert tree.files_done == 5


def test_the_manifest_says_what_was_written(tmp_path: Path):
    tree = unpacked(tmp_path, "tar.gz", tar_gz(*GOOD))
    assert list(tree.manifest()) == [
        {"path": "a/b/c", "size": 4, "crc64nvme": crc(b"deep")},
        {"path": "a/up", "link": "../a//./b"},
        {"path": "dangling", "link": "not/there"},
        {"path": "group", "size": 0, "crc64nvme": crc(b"")},
        {"path": "hard", "size": 4, "crc64nvme": crc(b"deep")},
        {"path": "link", "link": "a/b/../b/c"},
        {"path": "program", "size": 2, "crc64nvme": crc(b"#!")},
        {"path": "é/日本 \n🧬", "size": 7, "crc64nvme": crc(b"unicode")},
    ]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path: Path, form: int):
    name, target = "/".join(["d" * 255] * 5 + ["f" * 255]), "../" * 5 + "t" * 200
    unpacked(tmp_path, "tar.gz", tar_gz(member(name, b"x"), symlink("d" * 255 + "/l", "t" * 200), format=form))
    assert layout(tmp_path / "tree")[name] == plain(b"x")
    assert layout(tmp_path / "tree")["d" * 255 + "/l"] == target[15:]


def test_hundreds_of_files_and_large_ones(tmp_path: Path):
    contents = {f"{n % 7}/{n}": os.urandom(n) for n in range(600)} | {"large": os.urandom(3_000_001)}
    tree = unpacked(tmp_path, "tar.gz", tar_gz(*(member(name, data) for name, data in contents.items())))
    assert {n: d for n, d in layout(tmp_path / "tree").items() if d} == {n: plain(d) for n, d in contents.items()}
    assert [m["crc64nvme"] for m in tree.manifest()] == [crc(contents[n]) for n in sorted(contents)]


def test_a_file_that_comes_twice_is_the_later_one_and_its_other_names_keep_the_first(tmp_path: Path):
    tree = unpacked(
        tmp_path,
        "tar.gz",
        tar_gz(
            member("x", b"first"),
            hard_link("hard", "x"),
            symlink("link", "x"),
            member("x", b"two"),
            member("link", b"three"),
            hard_link("x", "x"),
            symlink("y", "x"),
            hard_link("y", "x"),
        ),
    )
    assert layout(tmp_path / "tree") == {n: plain(d) for n, d in TWICE.items()}
    assert list(tree.manifest()) == [{"path": n, "size": len(d), "crc64nvme": crc(d)} for n, d in TWICE.items()]


TWICE = {"hard": b"first", "link": b"three", "x": b"two", "y": b"two"}


@pytest.mark.parametrize(
    ("told", "kept"), [(1e9, 10**9), (-5, 0), (1e300, 1 << 32), (float("inf"), 1 << 32), (float("nan"), 0), (1.9, 1)]
)
def test_times_are_kept_where_they_can_be(tmp_path: Path, told: float, kept: int):
    unpacked(tmp_path, "tar.gz", tar_gz(member("x", pax_headers={"mtime": str(told)})))
    assert (tmp_path / "tree/x").stat().st_mtime == kept


def test_no_bit_but_that_to_execute_counts(tmp_path: Path):
    before = os.umask(0o077)
    try:
        unpacked(tmp_path, "tar.gz", tar_gz(member("d/x", mode=0o7100), member("y", mode=0o7066)))
    finally:
        os.umask(before)
    assert layout(tmp_path / "tree") == {"d": None, "d/x": (0o755, b""), "y": plain(b"")}
    assert (tmp_path / "tree/d/x").stat().st_uid == os.geteuid()


# Streams


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: bgzip(data),
        lambda data: gzip.compress(data) + bytes(700),
        lambda data: gzip.compress(data[:600]) + bytes(3) + gzip.compress(data[600:]),
    ],
    ids=["bgzip", "zeros at the end", "two members"],
)
def test_gzip_of_several_members(tmp_path: Path, pack: Any):
    data = tar(member("x", os.urandom(300_000)), member("y", b"y"))
    unpacked(tmp_path, "tar.gz", pack(data))
    assert sorted(layout(tmp_path / "tree")) == ["x", "y"]


@pytest.mark.parametrize("size", [0, 1, 1 << 17, (1 << 20) - 1, 1 << 20, (1 << 21) + 1])
@pytest.mark.parametrize("zeros", [True, False])
def test_zstd_of_several_frames(tmp_path: Path, size: int, zeros: bool):
    data = bytes(size) if zeros else os.urandom(size)
    frames = skippable(b"a") + zstd(data, checksum=True) + skippable(bytes(500_000)) + zstd(data) + skippable(b"")
    unpacked(tmp_path, "tar.zst", zstd(tar(member("x", data))[:1000]) + zstd(tar(member("x", data))[1000:]))
    assert (tmp_path / "tree/x").read_bytes() == data
    stream = zstd_module.Unzstd(io.BytesIO(frames))
    with stream:
        assert stream.read() == data * 2
    assert stream.closed


@pytest.mark.parametrize("size", [1 << 12, 1 << 13, 1 << 17, 300_000])
def test_zstd_gives_all_that_it_has_where_there_is_nothing_more_to_read(size: int):
    """A frame without a checksum is taken in before the last of it is given out, into buffers that it may just fill."""
    stream = zstd_module.Unzstd(io.BytesIO(zstd(b"ab" * (size // 2))))
    with stream:
        found, buffer = b"", bytearray(1 << 12)
        while count := stream.readinto(buffer):
            found += buffer[:count]
    assert found == b"ab" * (size // 2)


def test_a_machine_without_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    require("tar.zst")
    monkeypatch.setattr(zstd_module, "_LIBRARY", "libnothing.so.9")
    require("tar.gz")
    with pytest.raises(ContainerFailure, match=r"no libnothing\.so\.9.*Install the package libzstd1") as caught:
        require("tar.zst")
    assert caught.value.again is None


@pytest.mark.parametrize(
    ("key", "name"), [("b/c/hs.fa.gz", "hs.fa"), ("b/hs.fa", "hs.fa"), ("b/.gz", ".gz"), ("b/é.gz", "é")]
)
def test_a_gz_is_one_file_without_the_ending(tmp_path: Path, key: str, name: str):
    data = os.urandom(100_000)
    tree = unpacked(tmp_path, "gz", bgzip(data, 20_000), key)
    assert layout(tmp_path / "tree") == {name: plain(data)}
    assert list(tree.manifest()) == [{"path": name, "size": len(data), "crc64nvme": crc(data)}]


# zip


def test_a_zip_is_laid_out_as_it_was_packed(tmp_path: Path):
    large = os.urandom(1 << 21) + bytes(1 << 21)
    tree = unpacked(
        tmp_path,
        "zip",
        zipped(
            ("empty/", b""),
            (unix_entry("é/日本", 0o100600), b"unicode"),
            (unix_entry("program", 0o104711), b"#!"),
            (unix_entry("link", 0o120777), "é/日本".encode()),
            (unix_entry("dir", 0o040700), b""),
            ("large", large),
            ("a\\b", b"no path"),
        ),
    )
    assert layout(tmp_path / "tree") == {
        "empty": None,
        "é": None,
        "é/日本": plain(b"unicode"),
        "program": (0o755, b"#!"),
        "link": "é/日本",
        "dir": None,
        "large": plain(large),
        "a\\b": plain(b"no path"),
    }
    assert tree.totals() == (4, 7 + 2 + 7 + (1 << 22))
    assert [m.get("crc64nvme") for m in tree.manifest()] == [
        crc(b"no path"),
        crc(large),
        None,
        crc(b"#!"),
        crc(b"unicode"),
    ]
    assert 1580000000 < (tmp_path / "tree/program").stat().st_mtime < 1581000000


def test_a_zip_of_stored_entries_and_with_large_fields(tmp_path: Path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        with made.open("x", "w", force_zip64=True) as entry:
            entry.write(b"one")
        made.writestr("y", b"stored")
    unpacked(tmp_path, "zip", file.getvalue())
    assert layout(tmp_path / "tree") == {"x": plain(b"one"), "y": plain(b"stored")}


def test_a_zip_name_without_the_mark_of_utf_8_may_be_utf_8(tmp_path: Path):
    data = zipped(("nae", b"x")).replace(b"nae", "né".encode())
    unpacked(tmp_path, "zip", data)
    assert layout(tmp_path / "tree") == {"né": plain(b"x")}


def test_a_zip_time_that_is_none(tmp_path: Path):
    entry = zipfile.ZipInfo("x")
    data = bytearray(zipped((entry, b"x")))
    for start in (data.index(b"PK\3\4") + 10, data.index(b"PK\1\2") + 12):
        data[start : start + 4] = b"\xff\xff\0\0"
    unpacked(tmp_path, "zip", bytes(data))
    assert layout(tmp_path / "tree") == {"x": plain(b"x")}
