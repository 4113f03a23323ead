"""Removing reference data, and what is left of staging it, and nothing else."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.executor.jsonlog import Log
from cdmtaskservice.executor.remote import remove
from cdmtaskservice.executor.remote.task import Task
from cdmtaskservice.executor.stopping import Stop

from .ranged_store import RangedStore, serving_ranges
from .refdata_tasks import PIECE, forgotten, incoming, left, planned, root, told
from .remote_tasks import Plan, Tasks

LARGE = os.urandom(2 * PIECE + 1000)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as made:
        yield made


@pytest.fixture
def store() -> Iterator[RangedStore]:
    with serving_ranges(RangedStore()) as running:
        yield running


def manifests(tasks: Tasks) -> Path:
    return root(tasks) / ".cts/manifests"


def removal(tasks: Tasks, *, required: bool = True, name: str = "id-1") -> Plan:
    return {
        "manifests": [{"root": str(manifests(tasks)), "name": name, "required": required}],
        "trees": [
            {"root": str(root(tasks) / ".cts/incoming"), "name": name, "lock": True},
            {"root": str(root(tasks)), "name": name},
        ],
        "expired": [],
    }


def test_the_lock_goes_last(tasks: Tasks, monkeypatch: pytest.MonkeyPatch):
    place = tasks.directory / "x"
    place.mkdir()
    for name in ("lock", *map(str, range(50))):
        (place / name).touch()
    gone = []
    right = os.unlink

    def seen(path: Any, **more: Any) -> None:
        gone.append(os.path.basename(path))
        right(path, **more)

    monkeypatch.setattr(os, "unlink", seen)
    plan: Plan = {"trees": [{"root": str(tasks.directory), "name": "x", "lock": True}], "expired": []}
    assert remove.work(Task("", plan, Stop(), Log())) == {"removed": 1}
    assert (len(gone), gone[-1]) == (51, "lock")


# Data that is known


def test_what_is_staged_is_removed_and_it_is_known_that_it_was(tasks: Tasks, store: RangedStore):
    told(tasks, planned(tasks, store, LARGE))
    incoming(tasks).mkdir()
    assert tasks.run("remove", removal(tasks), "2") == {"ok": True, "removed": 2}
    assert left(tasks) == [".cts/manifests/id-1.removed"]
    assert (manifests(tasks) / "id-1.removed").read_bytes() == b""
    assert tasks.run("remove", removal(tasks), "3") == {"ok": True, "removed": 0}
    assert left(tasks) == [".cts/manifests/id-1.removed"]


def test_a_removal_that_was_broken_off_goes_on(tasks: Tasks, store: RangedStore):
    """The manifest is gone, and the data is not."""
    told(tasks, planned(tasks, store, LARGE))
    (manifests(tasks) / "id-1.removed").touch()
    assert tasks.run("remove", removal(tasks), "2") == {"ok": True, "removed": 1}
    told(tasks, planned(tasks, store, LARGE), "3")
    (manifests(tasks) / "id-1.jsonl").unlink()
    assert tasks.run("remove", removal(tasks), "4") == {"ok": True, "removed": 1}
    assert left(tasks) == [".cts/manifests/id-1.removed"]


def test_data_that_was_removed_can_be_staged_and_removed_again(tasks: Tasks, store: RangedStore):
    for n in range(2):
        assert told(tasks, planned(tasks, store, LARGE), f"a{n}")["ok"]
        assert tasks.run("remove", removal(tasks), f"b{n}") == {"ok": True, "removed": 1}


@pytest.mark.parametrize("what", ["root", "manifests"])
def test_data_is_not_gone_where_its_file_system_is_away(tasks: Tasks, store: RangedStore, what: str):
    told(tasks, planned(tasks, store, LARGE))
    away = root(tasks) if what == "root" else manifests(tasks)
    away.rename(tasks.directory / "away")
    away.mkdir()
    failed = tasks.run("remove", removal(tasks), "2")
    assert (failed["ok"], failed["again"]) == (False, "later")
    assert failed["error"].startswith("The site's file system failed.")
    assert str(tasks.directory) not in failed["error"]
    assert "knows nothing of id-1: is its file system mounted?" in failed["admin_error"]
    assert list(away.iterdir()) == [] if what == "manifests" else not (away / "id-1").exists()
    shutil.rmtree(away)
    (tasks.directory / "away").rename(away)
    assert (root(tasks) / "id-1").is_dir()
    assert tasks.run("remove", removal(tasks), "3") == {"ok": True, "removed": 1}


def test_what_was_never_complete_need_not_be_known(tasks: Tasks):
    root(tasks).mkdir(parents=True)
    assert tasks.run("remove", removal(tasks, required=False)) == {"ok": True, "removed": 0}
    incoming(tasks).mkdir(parents=True)
    assert tasks.run("remove", removal(tasks, required=False), "2") == {"ok": True, "removed": 1}
    assert left(tasks) == []


# Anything else


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", ["a/b", "/x", "../x/file"])
def test_a_manifest_is_right_below_its_root(tasks: Tasks, name: str, required: bool):
    (tasks.directory / "x").mkdir()
    (tasks.directory / "x/file.jsonl").touch()
    (tasks.directory / "y").mkdir()
    manifest = {"root": str(tasks.directory / "y"), "name": name, "required": required}
    failed = tasks.run("remove", {"manifests": [manifest], "trees": [], "expired": []})
    assert failed["ok"] is False
    assert (tasks.directory / "x/file.jsonl").exists()
    assert [p.name for p in (tasks.directory / "x").iterdir()] == ["file.jsonl"]


def test_no_manifest_is_removed_through_a_link(tasks: Tasks):
    (tasks.directory / "x").mkdir()
    (tasks.directory / "x/id-1.jsonl").touch()
    (tasks.directory / "link").symlink_to("x")
    manifest = {"root": str(tasks.directory / "link"), "name": "id-1", "required": True}
    failed = tasks.run("remove", {"manifests": [manifest], "trees": [], "expired": []})
    assert (failed["ok"], failed["again"], failed["error"]) == (False, None, "The files cannot be removed.")
    assert "is a symbolic link" in failed["admin_error"]
    assert (tasks.directory / "x/id-1.jsonl").exists()


def test_the_mark_is_not_written_through_a_link(tasks: Tasks, store: RangedStore):
    told(tasks, planned(tasks, store, LARGE))
    (manifests(tasks) / "id-1.removed").symlink_to(tasks.directory / "elsewhere")
    assert tasks.run("remove", removal(tasks), "2")["ok"] is False
    assert not (tasks.directory / "elsewhere").exists()


# Data that is in use


def test_what_is_being_staged_is_not_removed(tasks: Tasks, store: RangedStore):
    store.room = PIECE
    process = tasks.begin("refdata", planned(tasks, store, LARGE))
    store.wait_for(lambda: store.sent == PIECE)
    plan: Plan = {
        "trees": [{"root": str(incoming(tasks).parent), "name": "id-1", "lock": True}],
        "expired": [],
    }
    told = tasks.run("remove", plan, "2")
    assert (told["ok"], told["again"]) == (False, "held")
    assert "is locked by another process" in told["admin_error"]
    assert incoming(tasks).is_dir()
    process.kill()
    process.communicate()
    forgotten(store, tasks)
    assert tasks.run("remove", plan, "3") == {"ok": True, "removed": 1}
    assert left(tasks) == []
    incoming(tasks).mkdir()  # where no lock is, nobody is at work
    assert tasks.run("remove", plan, "4") == {"ok": True, "removed": 1}
    assert left(tasks) == []
