"""Which outputs are taken, on a real directory."""

import os
import socket
from pathlib import Path

import pytest

from cdmtaskservice.executor.outputs import OutputRefused, opened, walk


def test_regular_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "empty directory").mkdir()
    (tmp_path / "b/c/ünï").write_bytes(b"1")
    (tmp_path / "a\nb").write_bytes(b"")
    (tmp_path / "a\nb").chmod(0o4777)
    assert [(o.path, o.size) for o in walk(str(tmp_path))] == [("a\nb", 0), ("b/c/ünï", 1)]


def test_everything_else_is_refused_with_its_kind(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/dangling").symlink_to("/no/such")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(tmp_path, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{here}/sock")
        os.close(here)
        with pytest.raises(OutputRefused) as refused:
            walk(str(tmp_path))
    said = refused.value.error
    assert "d/dangling is a symbolic link, loop is a symbolic link, pipe is a FIFO, sock is a socket." in said
    assert str(tmp_path) not in said


def test_at_most_ten_are_named(tmp_path: Path) -> None:
    for n in range(12):
        os.mkfifo(tmp_path / f"{n:02}")
    with pytest.raises(OutputRefused, match="09 is a FIFO, and 2 more") as refused:
        walk(str(tmp_path))
    assert "10 is" not in refused.value.error


def test_hard_links(tmp_path: Path) -> None:
    inside = tmp_path / "out"
    inside.mkdir()
    (inside / "a").write_bytes(b"x")
    os.link(inside / "a", inside / "b")
    assert [o.path for o in walk(str(inside))] == ["a", "b"]
    os.link(inside / "a", tmp_path / "outside")
    with pytest.raises(OutputRefused, match="a hard link to a file outside"):
        walk(str(inside))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")).touch()
    with pytest.raises(OutputRefused, match=r"x\\xff has a name that is not UTF-8"):
        walk(str(tmp_path))


def test_file_that_changes_afterwards_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"mine")
    [output] = walk(str(tmp_path))
    with opened(str(tmp_path), output) as fd:
        assert os.read(fd, 9) == b"mine"
    (tmp_path / "d/f").write_bytes(b"longer")
    with pytest.raises(OutputRefused), opened(str(tmp_path), output):
        pass
    (tmp_path / "d/f").unlink()
    (tmp_path / "d/f").symlink_to("/etc/passwd")
    with pytest.raises(OSError), opened(str(tmp_path), output):  # noqa: PT011 - ELOOP
        pass
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").symlink_to("e")
    with pytest.raises(OSError), opened(str(tmp_path), output):  # noqa: PT011 - ENOTDIR
        pass
