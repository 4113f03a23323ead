"""Reference data that S3 does not give, that is not what it was, or for which there is no room; and removing it."""

import errno
import fcntl
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.executor import zstd
from cdmtaskservice.executor.directory_lock import Held, HeldDirectory
from cdmtaskservice.executor.failures import ContainerFailure
from cdmtaskservice.executor.http_pool import HttpPool, NetworkError
from cdmtaskservice.executor.jsonlog import Log
from cdmtaskservice.executor.remote import refdata
from cdmtaskservice.executor.remote.task import Task
from cdmtaskservice.executor.stopping import Stop

from .archive_files import directory, hard_link, member, tar_gz
from .ranged_store import Answer, RangedStore, serving_ranges
from .refdata_tasks import (
    PIECE,
    incoming,
    left,
    partly_staged,
    pieces,
    planned,
    progress,
    recorded,
    root,
    told,
)
from .remote_tasks import Plan, Tasks, crc, unused_port

LARGE = os.urandom(4 * PIECE + 1000)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as made:
        yield made


@pytest.fixture
def store() -> Iterator[RangedStore]:
    with serving_ranges(RangedStore()) as running:
        yield running


# What S3 answers


@pytest.mark.parametrize(
    ("status", "again", "words"),
    [
        (404, None, "The file b/c/data is not in S3 any more."),
        (403, "renewed", "S3 does not let the service read the file b/c/data any more (HTTP 403)."),
        (400, None, "S3 did not give the file b/c/data (HTTP 400)."),
        (503, "later", "The file b/c/data could not be downloaded: S3 did not give it for 0 s."),
        (429, "later", "could not be downloaded"),
    ],
)
def test_a_file_that_s3_does_not_give(tasks: Tasks, store: RangedStore, status: int, again: str | None, words: str):
    plan = planned(tasks, store, LARGE, connections=1, patience=0.3 if again == "later" else 30)
    partly_staged(tasks, store, plan, 2)
    store.answer = lambda first, last: (status, {}, b"<Error/>")
    result = told(tasks, plan)
    assert (result["ok"], result["again"]) == (False, again)
    assert words in result["error"]
    assert f"/b/c/data from byte 200000: {status}: <Error/>" in result["admin_error"]
    assert "secret" not in json.dumps(result)
    kept = [f".cts/incoming/id-1{p}" for p in ("", "/archive", "/lock", "/pieces.jsonl")]
    assert left(tasks) == (kept if again else [])


def test_a_fresh_url_goes_on_where_the_old_one_was_refused(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, LARGE)
    there = partly_staged(tasks, store, plan, 2)
    store.answer = lambda first, last: (403, {}, b"<Error/>")
    assert told(tasks, plan)["again"] == "renewed"
    store.answer = lambda first, last: None
    store.asked.clear()
    assert told(tasks, plan, "2")["ok"]
    assert sorted(store.asked) == [p for p in pieces(len(LARGE)) if p not in there]


def test_a_server_that_does_not_answer(tasks: Tasks, store: RangedStore):
    result = told(tasks, planned(tasks, store, LARGE, url=f"http://127.0.0.1:{unused_port()}/b/c/data"))
    assert (result["ok"], result["again"]) == (False, "later")
    assert "no answer: " in result["admin_error"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {}, LARGE), "the whole file instead of the range asked for"),
        ((206, {}, LARGE[:PIECE]), "not the range asked for: "),
        ((206, {"Content-Range": f"bytes 1-{PIECE}/{len(LARGE)}"}, LARGE[:PIECE]), "not the range asked for: bytes 1-"),
        ((206, {"Content-Range": f"bytes 0-{PIECE}/{len(LARGE)}"}, LARGE[:PIECE]), "not the range asked for: bytes 0-"),
        ((416, {"Content-Range": f"bytes */{len(LARGE)}"}, b"no"), "416: no"),
        ((206, {"Content-Range": f"bytes 0-{PIECE - 1}/*", "Content-Length": "100000"}, b""), "0: 0 of 100000"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_an_answer_that_is_none_is_asked_for_again_for_a_while(
    tasks: Tasks, store: RangedStore, answer: Answer, words: str
):
    store.answer = lambda first, last: answer if first == 0 else None
    result = told(tasks, planned(tasks, store, LARGE))
    assert (result["ok"], result["again"]) == (False, "later")
    assert words in result["admin_error"] or "EOFError: 100000 bytes of the answer are missing" in result["admin_error"]
    assert store.asked.count((0, PIECE - 1)) > 1


def test_a_server_without_ranges_may_give_a_file_that_is_one_piece(tasks: Tasks, store: RangedStore):
    store.answer = lambda first, last: (200, {}, LARGE[:PIECE])
    assert told(tasks, planned(tasks, store, LARGE[:PIECE]))["ok"]
    store.answer = lambda first, last: (200, {}, LARGE[: PIECE + 1])
    result = told(tasks, planned(tasks, store, LARGE[:PIECE], id="id-2"), "2")
    assert "has changed since it was registered" in result["error"]


def test_a_piece_that_breaks_off_goes_on_where_it_broke(tasks: Tasks, store: RangedStore):
    def answer(first: int, last: int) -> Answer | None:
        status, headers, body = store.right("/b/c/data", first, last)
        if first % PIECE < 90_000:
            return status, {**headers, "Content-Length": str(len(body))}, body[:30_000]
        return None

    store.answer = answer
    # Patience is with what does not come at all.
    plan = planned(tasks, store, LARGE[: 2 * PIECE], patience=0.6)
    assert told(tasks, plan)["ok"]
    assert (root(tasks) / "id-1/data").read_bytes() == LARGE[: 2 * PIECE]
    assert {a[0] for a in store.asked} == {n * PIECE + m for n in range(2) for m in (0, 30_000, 60_000, 90_000)}


def test_a_server_that_fails_now_and_then(tasks: Tasks, store: RangedStore):
    failed = set()

    def answer(first: int, last: int) -> Answer | None:
        if first in failed:
            return None
        failed.add(first)
        return 500, {}, b""

    store.answer = answer
    assert told(tasks, planned(tasks, store, LARGE, patience=30))["ok"]
    assert (root(tasks) / "id-1/data").read_bytes() == LARGE


# What it is not


def test_a_file_that_changed(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, LARGE, unpack="gz")
    store.files["/b/c/data"] = other = os.urandom(len(LARGE))
    result = told(tasks, plan)
    assert (result["ok"], result["again"]) == (False, None)
    assert result["error"] == (
        f"The file b/c/data has changed since it was registered: expected {len(LARGE)} bytes with CRC64NVME "
        f"{crc(LARGE)}, found CRC64NVME {crc(other)}. Register it again if the new content is the right one."
    )
    assert sorted(store.asked) == sorted(pieces(len(LARGE)) * 3)
    assert left(tasks) == []


@pytest.mark.parametrize("size", [PIECE, len(LARGE) - 1, len(LARGE) + 1])
def test_a_file_of_another_size(tasks: Tasks, store: RangedStore, size: int):
    plan = planned(tasks, store, LARGE)
    store.files["/b/c/data"] = (LARGE + b"x")[:size]
    result = told(tasks, plan)
    assert (result["ok"], result["again"]) == (False, None)
    assert f"found {size} bytes. Register it again" in result["error"]
    assert left(tasks) == []


def test_wrong_bytes_that_come_right_are_no_failure(tasks: Tasks, store: RangedStore):
    """Nor is what an archive seems to be while they are wrong."""
    data = gzip.compress(LARGE, 1)
    plan = planned(tasks, store, data, "c/data.gz", unpack="gz", patience=30)

    def answer(first: int, last: int) -> Answer | None:
        status, headers, body = store.right("/b/c/data.gz", first, last)
        return (status, headers, bytes(len(body))) if len(store.asked) <= 5 else None

    store.answer = answer
    assert told(tasks, plan)["ok"]
    assert len(store.asked) == 10
    assert progress(tasks)["bytes_done"] == len(data)
    assert (root(tasks) / "id-1/data").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("unpack", "data", "words"),
    [
        ("tar.gz", tar_gz(directory("d"), member("x", LARGE), hard_link("h", "/etc/passwd")), "has an absolute path"),
        ("tar.gz", tar_gz(member("x", LARGE))[:-1], "is not a whole .tar.gz: it ends too early"),
        ("tar.zst", LARGE, "is not a whole .tar.zst"),
        ("zip", LARGE, "is not a whole .zip"),
        ("tar.gz", tar_gz(*(member(f"{n}") for n in range(101))), "more than 100 files"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_of_an_archive_that_is_refused_nothing_is_left(
    tasks: Tasks, store: RangedStore, unpack: str, data: bytes, words: str
):
    result = told(tasks, planned(tasks, store, data, unpack=unpack))
    assert (result["ok"], result["again"]) == (False, None)
    assert result["error"].startswith("The file b/c/data ")
    assert words in result["error"]
    assert left(tasks) == []
    assert sorted(store.asked) == pieces(len(data))


def test_a_download_that_fails_ends_unpacking(tasks: Tasks, store: RangedStore):
    """Which waits for bytes that do not come: the download's failure is the one to tell."""
    store.answer = lambda first, last: (404, {}, b"") if first >= 2 * PIECE else None
    result = told(tasks, planned(tasks, store, tar_gz(member("x", LARGE)), unpack="tar.gz"))
    assert (result["again"], result["error"]) == (None, "The file b/c/data is not in S3 any more.")
    assert left(tasks) == []


def test_what_unpacking_needs_is_looked_for_before_the_download(
    tasks: Tasks, store: RangedStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zstd, "_LIBRARY", "libnothing.so.9")
    result = told(tasks, planned(tasks, store, LARGE, unpack="tar.zst"))
    assert result["again"] is None
    assert "libnothing.so.9" in result["error"]
    assert store.asked == []


# No room


def test_a_file_that_does_not_fit_is_not_begun(tasks: Tasks, store: RangedStore):
    result = told(tasks, planned(tasks, store, b"x", size=1 << 55, piece_size=1 << 50))
    assert (result["ok"], result["again"]) == (False, "later")
    assert f"There is no space left for it at the site. b/c/data has {1 << 55} bytes, and " in result["error"]
    assert str(tasks.directory) not in result["error"]
    assert f" bytes are free in {root(tasks)}: " in result["admin_error"]
    assert f"{1 << 55} bytes are still to come" in result["admin_error"]
    assert store.asked == []
    assert left(tasks) == []


@pytest.mark.parametrize(("function", "number"), [("pwrite", errno.ENOSPC), ("write", errno.EDQUOT)])
def test_nothing_is_left_where_the_disk_is_full(
    tasks: Tasks, store: RangedStore, monkeypatch: pytest.MonkeyPatch, function: str, number: int
):
    plan = planned(tasks, store, tar_gz(member("x", LARGE)), unpack="tar.gz")
    right = getattr(os, function)

    def full(fd: int, data: Any, *more: int) -> int:
        if len(data) > 10_000:
            raise OSError(number, os.strerror(number))
        return int(right(fd, data, *more))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(ContainerFailure, match=r"There is no space left for it at the site") as caught:
        in_process(tasks, plan)
    assert caught.value.again == "later"
    assert f" bytes are free in {root(tasks)}: [Errno {number}]" in (caught.value.admin_error or "")
    assert left(tasks) == []


def test_what_came_is_kept_where_the_disk_fails(tasks: Tasks, store: RangedStore, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fchmod", failing)
    with pytest.raises(OSError, match="broken"):
        in_process(tasks, planned(tasks, store, gzip.compress(LARGE), unpack="gz"))
    assert [p.rpartition("/")[2] for p in left(tasks)][1:] == ["archive", "lock", "pieces.jsonl"]
    assert len(recorded(tasks)) > 0


def in_process(tasks: Tasks, plan: Plan) -> None:
    tasks.task().mkdir(parents=True)
    refdata.work(Task(str(tasks.task()), plan, Stop(), Log(os.open(os.devnull, os.O_WRONLY))))


def test_the_file_system_holds_everything_before_it_has_its_name(
    tasks: Tasks, store: RangedStore, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def synced(path: str) -> None:
        seen.append((path, left(tasks), (incoming(tasks) / "tree/data").read_bytes() == LARGE))

    monkeypatch.setattr(refdata, "_sync_file_system", synced)
    in_process(tasks, planned(tasks, store, LARGE))
    [(path, there, whole)] = seen
    assert (path, whole) == (str(root(tasks)), True)
    assert not {"id-1", ".cts/manifests/id-1.jsonl"}.intersection(there)


def test_a_machine_without_syncfs_syncs_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = []
    monkeypatch.setattr(os, "sync", lambda: calls.append("all"))
    refdata._sync_file_system(str(tmp_path))
    assert calls == []
    monkeypatch.setattr(refdata.ctypes, "CDLL", lambda *_, **__: object())
    refdata._sync_file_system(str(tmp_path))
    assert calls == ["all"]


# The lock


def test_a_lock_that_its_holder_removed_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between opening the lock and locking it, its directory goes, and the next one makes another."""
    place = tmp_path / "held"
    first = HeldDirectory.hold(str(place), create=True)
    assert first
    right, nexts = fcntl.flock, []

    def late(fd: int, flags: int) -> None:
        monkeypatch.setattr(fcntl, "flock", right)
        first.remove()
        nexts.append(HeldDirectory.hold(str(place), create=True))
        right(fd, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(Held, match="is locked by another process"):
        HeldDirectory.hold(str(place), create=True)
    nexts[0].remove()
    assert not place.exists()
    assert HeldDirectory.hold(str(place), create=False) is None


# Connections


def test_a_body_that_breaks_off_costs_the_connection_and_not_the_next_request():
    with serving_ranges(RangedStore()) as store, HttpPool(Stop(), 10) as pool:
        store.files["/f"] = b"0123456789"
        store.answer = lambda first, last: (206, {"Content-Length": "10"}, b"012") if len(store.asked) == 1 else None
        response = pool.get(f"{store.url}/f", {"Range": "bytes=0-9"})
        assert response.read_into(memoryview(bytearray(10))) == 3
        with pytest.raises(NetworkError):
            response.read_into(memoryview(bytearray(10)))
        response.close()
        again = pool.get(f"{store.url}/f", {"Range": "bytes=0-9"})
        assert again.text() == "0123456789"
