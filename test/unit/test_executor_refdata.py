"""Staging reference data in processes of their own: what is there at the end, however often they are killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .archive_files import member, symlink, tar, tar_gz, zipped, zstd
from .ranged_store import RangedStore, serving_ranges
from .refdata_tasks import (
    PIECE,
    forgotten,
    incoming,
    left,
    manifest,
    partly_staged,
    pieces,
    planned,
    progress,
    recorded,
    root,
    told,
    until,
)
from .remote_tasks import Plan, Tasks, crc, mode


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as made:
        yield made


@pytest.fixture
def store() -> Iterator[RangedStore]:
    with serving_ranges(RangedStore()) as running:
        yield running


STAGED = [".cts/manifests/id-1.jsonl", "id-1"]
LARGE = os.urandom(5 * PIECE + 1000)
MEMBERS = (member("d/large", LARGE), member("run", b"#!", mode=0o755), symlink("link", "d/large"))


def test_a_file_is_staged(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, LARGE, "c/é.fa")
    begun = int(time.time())
    assert tasks.run("refdata", plan) == {"ok": True, "files": 1, "bytes": len(LARGE), "reused": False}
    assert sorted(store.asked) == pieces(len(LARGE))
    assert left(tasks) == STAGED
    assert [p.name for p in (root(tasks) / "id-1").iterdir()] == ["é.fa"]
    assert (root(tasks) / "id-1/é.fa").read_bytes() == LARGE
    assert (root(tasks) / "id-1/é.fa").stat().st_nlink == 1
    header = {"id": "id-1", "file": "b/c/é.fa", "crc64nvme": crc(LARGE), "size": len(LARGE), "unpack": None}
    assert manifest(tasks) == [
        {**header, "files": 1, "bytes": len(LARGE)},
        {"path": "é.fa", "size": len(LARGE), "crc64nvme": crc(LARGE)},
    ]
    shown = progress(tasks)
    assert begun <= shown.pop("time") <= time.time()
    assert shown == {
        "phase": "finishing",
        "bytes_done": len(LARGE),
        "bytes_total": len(LARGE),
        "files_done": 1,
        "bytes_unpacked": len(LARGE),
    }


def test_everyone_may_read_what_is_staged(tasks: Tasks, store: RangedStore):
    tasks.run("refdata", planned(tasks, store, LARGE))
    directories = [root(tasks).parent, root(tasks), *(p for p in root(tasks).rglob("*") if p.is_dir())]
    assert len(directories) == 6
    assert {mode(p) for p in directories} == {0o755}
    assert {mode(p) for p in root(tasks).rglob("*") if p.is_file()} == {0o644}


@pytest.mark.parametrize(
    ("unpack", "pack", "files"),
    [
        ("tar.gz", lambda: tar_gz(*MEMBERS), 2),
        ("tar.zst", lambda: zstd(tar(*MEMBERS)), 2),
        ("gz", lambda: gzip.compress(LARGE), 1),
        ("zip", lambda: zipped(("d/large", LARGE), ("run", b"#!")), 2),
    ],
)
def test_an_archive_is_unpacked(tasks: Tasks, store: RangedStore, unpack: str, pack: Callable[[], bytes], files: int):
    plan = planned(tasks, store, pack(), f"c/large.{unpack}", unpack=unpack)
    told = tasks.run("refdata", plan)
    size = len(LARGE) + 2 * (files - 1)
    assert told == {"ok": True, "files": files, "bytes": size, "reused": False}
    assert left(tasks) == STAGED
    assert (root(tasks) / "id-1" / ("large" if unpack == "gz" else "d/large")).read_bytes() == LARGE
    assert manifest(tasks)[0]["unpack"] == unpack
    large = {"path": "large" if unpack == "gz" else "d/large", "size": len(LARGE), "crc64nvme": crc(LARGE)}
    link, run = {"path": "link", "link": "d/large"}, {"path": "run", "size": 2, "crc64nvme": crc(b"#!")}
    assert manifest(tasks)[1:] == [large, *([link] if "tar" in unpack else []), *([run] if unpack != "gz" else [])]
    shown = progress(tasks)
    assert (shown["files_done"], shown["bytes_unpacked"], shown["phase"]) == (files, size, "finishing")


def test_an_archive_is_unpacked_while_it_comes(tasks: Tasks, store: RangedStore):
    members = [member(f"{n}", os.urandom(PIECE)) for n in range(5)]
    store.room = 4 * PIECE
    process = tasks.begin("refdata", planned(tasks, store, tar_gz(*members), unpack="tar.gz"))
    until(lambda: (incoming(tasks) / "tree/2").exists())
    assert not (root(tasks) / "id-1").exists()
    until(lambda: (tasks.task() / "progress.json").exists() and progress(tasks)["files_done"])
    shown = progress(tasks)
    assert (shown["phase"], shown["bytes_done"]) == ("downloading", 4 * PIECE)
    assert shown["bytes_unpacked"] >= 2 * PIECE
    store.released.set()
    assert process.wait(30) == 0
    assert tasks.result()["files"] == 5


def test_an_empty_file(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, b"")
    assert told(tasks, plan) == {"ok": True, "files": 1, "bytes": 0, "reused": False}
    assert (root(tasks) / "id-1/data").read_bytes() == b""
    result = told(tasks, {**plan, "id": "id-2", "crc64nvme": crc(b"x")}, "2")
    assert "has changed since it was registered" in result["error"]


def test_data_that_is_there_is_used_again(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, tar_gz(*MEMBERS), unpack="tar.gz")
    told(tasks, plan)
    store.asked.clear()
    # As where a process was killed between giving the data its place and removing what it came from.
    incoming(tasks).mkdir()
    (incoming(tasks) / "archive").touch()
    result = told(tasks, {**plan, "url": "http://127.0.0.1:1/", "piece_size": 7}, "2")
    assert result == {"ok": True, "files": 2, "bytes": len(LARGE) + 2, "reused": True}
    assert store.asked == []
    assert left(tasks) == STAGED


@pytest.mark.parametrize("other", ["file", "crc64nvme", "size", "unpack", "manifest", "nonsense", "link"])
def test_other_data_by_the_same_id_is_not_touched(tasks: Tasks, store: RangedStore, other: str):
    plan = dict(planned(tasks, store, b"data"))
    told(tasks, plan)
    said = root(tasks) / ".cts/manifests/id-1.jsonl"
    if other == "manifest":
        said.unlink()
    elif other == "nonsense":
        said.write_text('{"id": "id-1"')
    elif other == "link":
        (root(tasks) / "id-1").rename(tasks.directory / "elsewhere")
        (root(tasks) / "id-1").symlink_to("nowhere")
    else:
        plan[other] = {"file": "b/other", "crc64nvme": crc(b"other"), "size": 5, "unpack": "gz"}[other]
    result = told(tasks, plan, "2")
    assert (result["ok"], result["again"]) == (False, None)
    assert f"A directory id-1 is there already, and is not known to be {plan['file']}" in result["error"]
    assert str(tasks.directory) not in result["error"]
    assert result["admin_error"].startswith(f"{root(tasks)}/id-1: the manifest says ")
    if other != "link":
        assert (root(tasks) / "id-1/data").read_bytes() == b"data"
    assert not incoming(tasks).exists()


def test_only_one_process_stages_the_same_data(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, LARGE)
    store.room = PIECE
    first = tasks.begin("refdata", plan)
    store.wait_for(lambda: store.sent == PIECE)
    told = tasks.run("refdata", plan, "2")
    assert (told["ok"], told["again"]) == (False, "held")
    assert told["error"] == "Another process stages the reference data id-1 already."
    assert tasks.run("refdata", {**plan, "id": "id-2", "size": 0, "crc64nvme": crc(b"")}, "3")["ok"]
    store.released.set()
    assert first.wait(30) == 0
    assert tasks.result()["ok"]
    assert left(tasks) == [*STAGED[:1], ".cts/manifests/id-2.jsonl", "id-1", "id-2", "id-2/data"]


@pytest.mark.parametrize("wrong", [{"id": "../x"}, {"id": ""}, {"id": "a" * 65}, {"root": "here"}, {"unpack": "rar"}])
def test_a_plan_that_is_none(tasks: Tasks, store: RangedStore, wrong: dict[str, str]):
    result = told(tasks, planned(tasks, store, LARGE, **wrong))
    assert (result["ok"], result["again"]) == (False, None)
    assert not root(tasks).exists()
    assert store.asked == []


@pytest.mark.parametrize("name", ["c/", "c/..", "c/" + "x" * 256])
def test_a_key_that_can_be_no_name(tasks: Tasks, store: RangedStore, name: str):
    result = told(tasks, planned(tasks, store, b"x", name))
    assert (result["ok"], result["again"]) == (False, None)
    assert f"b/{name}" in result["error"]
    assert left(tasks) == []


# Killed, and begun again


@pytest.mark.parametrize(
    ("room", "unpack"),
    [(0, None), (PIECE // 2, "gz"), (PIECE, None), (3 * PIECE + 1, "gz"), (len(LARGE), None), (len(LARGE), "gz")],
)
def test_what_had_come_when_a_process_was_killed_is_not_fetched_again(
    tasks: Tasks, store: RangedStore, room: int, unpack: str | None
):
    data = LARGE if unpack is None else gzip.compress(os.urandom(len(LARGE) - 2000), 1)
    plan = planned(tasks, store, data, unpack=unpack)
    room = min(room, len(data) - 1)
    store.room = room
    process = tasks.begin("refdata", plan)
    store.wait_for(lambda: store.hanging == 2 or len(store.asked) == len(pieces(len(data))))
    # Of two pieces that come at a time, these must be whole.
    until(lambda: len(recorded(tasks)) >= room // PIECE - 1)
    process.kill()
    process.communicate()
    there = forgotten(store, tasks)
    told = tasks.run("refdata", None)
    assert (told["ok"], told["reused"]) == (True, False)
    assert sorted(store.asked) == [p for p in pieces(len(data)) if p not in there]
    staged = (root(tasks) / "id-1/data").read_bytes()
    assert staged == (data if unpack is None else gzip.decompress(data))
    assert left(tasks) == STAGED
    assert progress(tasks)["bytes_done"] == len(data)


@pytest.mark.parametrize("unpack", [None, "tar.gz"])
def test_a_process_that_was_killed_before_the_data_had_its_place(tasks: Tasks, store: RangedStore, unpack: str | None):
    plan = planned(tasks, store, tar_gz(*MEMBERS) if unpack else LARGE, unpack=unpack)
    there = partly_staged(tasks, store, plan, 3)
    # All that comes before the last step, done by hand.
    (incoming(tasks) / "tree/d").mkdir(parents=True, exist_ok=True)
    (incoming(tasks) / "tree/d/large").write_bytes(b"half of it")
    (incoming(tasks) / "manifest").write_text("{")
    (root(tasks) / ".cts/manifests/id-1.jsonl").write_text("{}")
    assert told(tasks, plan, "2")["ok"]
    assert sorted(store.asked) == [p for p in pieces(plan["size"]) if p not in there]
    assert left(tasks) == STAGED
    assert manifest(tasks)[0]["size"] == plan["size"]
    if unpack:
        assert (root(tasks) / "id-1/d/large").read_bytes() == LARGE


def spoil(tasks: Tasks, how: str) -> None:
    archive, record = incoming(tasks) / "archive", incoming(tasks) / "pieces.jsonl"
    if how == "a byte":
        with archive.open("r+b") as file:
            file.seek(PIECE + 5)
            byte = file.read(1)
            file.seek(PIECE + 5)
            file.write(bytes([byte[0] ^ 1]))
    elif how == "cut":
        os.truncate(archive, 2 * PIECE - 1)
    elif how == "torn":
        with record.open("a") as file:
            file.write('{"offset": 300000, "length"')
    elif how == "nonsense":
        with record.open("a") as file:
            file.write('[]\n{"offset": 1, "length": 2, "crc": 3}\n{"offset": 400000, "length": 100000, "crc": "x"}\n')
    elif how == "other file":
        record.write_text(record.read_text().replace("b/c/data", "b/c/beta"))
    elif how == "no record":
        record.unlink()


@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ("a byte", {1}),
        ("cut", {1, 2}),
        ("torn", set()),
        ("nonsense", set()),
        ("other file", {0, 1, 2}),
        ("no record", {0, 1, 2}),
    ],
)
def test_what_is_on_the_disk_is_not_trusted(tasks: Tasks, store: RangedStore, how: str, lost: set[int]):
    plan = planned(tasks, store, LARGE, connections=1, patience=0.1)
    partly_staged(tasks, store, plan, 3)
    spoil(tasks, how)
    ranges = pieces(len(LARGE))
    store.answer = lambda first, last: (503, {}, b"") if first >= 4 * PIECE else None
    assert told(tasks, plan)["again"] == "later"
    assert [a for a in store.asked if a[0] < 4 * PIECE] == [ranges[n] for n in sorted(lost | {3})]
    store.asked.clear()
    store.answer = lambda first, last: None
    # What was added to a record that was torn can be read, too.
    assert told(tasks, plan, "2")["ok"]
    assert store.asked == ranges[4:]
    assert (root(tasks) / "id-1/data").read_bytes() == LARGE


def test_pieces_of_another_size_are_fetched_anew(tasks: Tasks, store: RangedStore):
    plan = planned(tasks, store, LARGE)
    partly_staged(tasks, store, plan, 2)
    assert told(tasks, {**plan, "piece_size": 300_000}, "2")["ok"]
    assert sorted(store.asked) == [(0, 299_999), (300_000, len(LARGE) - 1)]
    assert (root(tasks) / "id-1/data").read_bytes() == LARGE


# Stopped


def watched(tasks: Tasks, plan: Plan) -> subprocess.Popen[bytes]:
    file = tasks.directory / "plan-1.json"
    file.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "cdmtaskservice.executor.remote", "refdata", "--watch-stdin"]
    process = subprocess.Popen([*command, "--plan", str(file), "--task", str(tasks.task())], stdin=subprocess.PIPE)
    tasks.processes.append(process)
    return process


@pytest.mark.parametrize("how", ["SIGTERM", "stdin"])
@pytest.mark.parametrize("unpack", [None, "tar.gz"])
def test_a_stop_keeps_the_pieces_and_nothing_else(tasks: Tasks, store: RangedStore, how: str, unpack: str | None):
    plan: Any = planned(tasks, store, tar_gz(*MEMBERS) if unpack else LARGE, unpack=unpack, patience=600)
    store.room = 3 * PIECE
    process = watched(tasks, plan)
    assert process.stdin
    process.stdin.write(b"what comes is not looked at\n")
    process.stdin.flush()
    store.wait_for(lambda: store.hanging == 2)
    if unpack:
        until(lambda: (incoming(tasks) / "tree/d/large").exists())
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    assert process.wait(30) == 0
    told = tasks.result()
    assert (told["ok"], told["again"]) == (False, "later")
    assert told["error"].startswith("It was stopped: ")
    assert sorted(p.name for p in incoming(tasks).iterdir()) == ["archive", "lock", "pieces.jsonl"]
    there = forgotten(store, tasks)
    assert tasks.run("refdata", plan, "2")["ok"]
    assert sorted(store.asked) == [p for p in pieces(plan["size"]) if p not in there]


def test_stdin_counts_only_where_it_is_asked_for(tasks: Tasks, store: RangedStore):
    assert tasks.run("refdata", planned(tasks, store, LARGE))["ok"]  # whose stdin is at its end
