"""A reference data service with a desk that a test has in its hand, and processes that are real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdmtaskservice.stager import stager as stager_module
from cdmtaskservice.stager.desk import DeskRefusedError, DeskUnreachableError
from cdmtaskservice.stager.stager import Stager, StagerConfig
from cdmtaskservice.stager.stores import Store
from test.stand_ins.clockwork import eventually

from .ranged_store import RangedStore, serving_ranges
from .remote_tasks import crc

PROCESS = f"""#!{sys.executable}
import json, os, signal, sys, time
def after(name):
    return sys.argv[sys.argv.index(name) + 1]
def write(path, told):
    with open(path + ".aside", "w") as file:
        json.dump(told, file)
    os.replace(path + ".aside", path)
task, result = after("--task"), os.path.join(after("--task"), "result.json")
with open(after("--plan")) as file:
    plan = json.load(file)
with open(plan["notes"], "a") as notes:
    notes.write(json.dumps([os.getpid(), after("-m"), after("cdmtaskservice.executor.remote"), task,
                            oct(os.stat(after("--plan")).st_mode & 0o777), "--watch-stdin" in sys.argv]) + "\\n")
if "progress" in plan:
    write(os.path.join(task, "progress.json"), plan["progress"])
if plan["do"] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if plan["do"] == "hang":
    while True:
        time.sleep(1000)
if plan["do"] == "wait":
    sys.stdin.read()
write(result, plan["result"])
"""
"""Stands in for the remote code: it does what its plan says, and notes that it has run."""

DONE = {"ok": True, "files": 3, "bytes": 99, "reused": False}
STOPPED = {"ok": False, "error": "It was stopped", "admin_error": None, "again": "later"}


class FakeDesk:
    """orders: by site, until they are over. told: how they ended. asked, beats: what was asked and told before.

    away, refusing, broken: whether calls are not answered, or refused, or end in what a desk does not raise, by the
    name of the method. stop: the answer to signs of life.
    """

    def __init__(self) -> None:
        self.orders: dict[str, list[dict[str, Any]]] = {"here": []}
        self.given: set[str] = set()
        self.asked: list[tuple[str, str, str, int]] = []
        self.beats: list[Mapping[str, Any]] = []
        self.told: list[tuple[str, str, str, Mapping[str, Any]]] = []
        self.tries = 0
        self.away: set[str] = set()
        self.refusing: set[str] = set()
        self.broken: set[str] = set()
        self.stop = False

    async def work(self, site: str, claim: str, root: str, room: int) -> Mapping[str, Any]:
        self.asked.append((site, claim, root, room))
        self._answer("work")
        for order in self.orders[site]:
            if room > 0 and order["task"] not in self.given:
                room -= 1
                self.given.add(order["task"])
        return {"work": [o for o in self.orders[site] if o["task"] in self.given], "report_interval": 0.02}

    async def progress(self, refdata_id: str, site: str, told: Mapping[str, Any]) -> bool:
        self._answer("progress")
        self.beats.append(told)
        return self.stop

    async def update(self, refdata_id: str, site: str, state: str, told: Mapping[str, Any]) -> None:
        self.tries += 1
        self._answer("update")
        self.orders[site] = [o for o in self.orders[site] if o["task"] != told["task"]]
        self.told.append((refdata_id, site, state, told))

    def _answer(self, method: str) -> None:
        if method in self.away:
            raise DeskUnreachableError("no answer")
        if method in self.refusing:
            raise DeskRefusedError("no")
        if method in self.broken:
            raise ValueError("a bug")


class Yard:
    """A directory with a store, its desk, and a program that stands in for Python."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.desk = FakeDesk()
        self.root = directory / "ref"
        self.root.mkdir()
        self.notes = directory / "notes"
        self.program = directory / "python"
        self.program.write_text(PROCESS)
        self.program.chmod(0o755)

    @contextlib.asynccontextmanager
    async def serving(self, *stores: Store, python: str | None = None, at_once: int = 2) -> AsyncIterator[None]:
        """A service that runs, and that ends well."""
        config = StagerConfig(poll_interval=0.01, at_once=at_once, python=python or str(self.program))
        task = asyncio.create_task(Stager(self.desk, stores or [Store("here", self.root)], config).run())
        try:
            yield
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            async with asyncio.timeout(10):
                await asyncio.gather(task, return_exceptions=True)

    def order(self, task: str = "1-refdata-1", do: str = "end", result: Any = DONE, **plan: Any) -> None:
        """Ask for a task. do: `end` at once, `wait` for the end of its input, `hang`, or `die`."""
        plan = {"notes": str(self.notes), "do": do, "result": result, **plan}
        self.desk.orders["here"].append({"refdata_id": "r1", "task": task, "kind": "refdata", "plan": plan})

    def runs(self) -> list[list[Any]]:
        """What each process has noted."""
        return [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def left(self) -> list[str]:
        """The directories of tasks."""
        return sorted(p.name for p in self.root.glob(".cts/tasks/*/*"))

    async def until_told(self, count: int = 1) -> Mapping[str, Any]:
        async def told() -> bool:
            return len(self.desk.told) >= count

        await eventually(told)
        return self.desk.told[count - 1][3]

    async def until_runs(self, count: int = 1) -> int:
        """The process ID of the count-th process."""

        async def there() -> bool:
            return len(self.runs()) >= count

        await eventually(there)
        return int(self.runs()[count - 1][0])


@pytest.fixture
def yard(tmp_path: Path) -> Any:
    with capture_logs():
        yield Yard(tmp_path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# How it ends


async def test_what_was_staged_is_told_and_nothing_is_left(yard: Yard) -> None:
    yard.order()
    async with yard.serving():
        told = await yard.until_told()

        async def cleared() -> bool:
            return not yard.left()

        await eventually(cleared)
    [(_, claim, root, room), *_] = yard.desk.asked
    assert (root, room) == (str(yard.root), 2)
    assert yard.desk.told == [("r1", "here", "complete", told)]
    assert told == {"task": "1-refdata-1", "claim": claim, "files": 3, "bytes": 99}
    [[_, module, kind, _, mode, watched]] = yard.runs()
    assert (module, kind, mode, watched) == ("cdmtaskservice.executor.remote", "refdata", "0o600", True)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            {"ok": False, "error": "e", "admin_error": "a", "again": "later"},
            {"error": "e", "admin_error": "a", "again": "later"},
        ),
        ({"ok": False, "error": "e", "admin_error": None, "again": None}, {"error": "e"}),
        ({"ok": False, "error": "e" * 20_000, "admin_error": None, "again": None}, {"error": "e" * 10_000}),
        ({"ok": True, "removed": 2}, {}),
    ],
    ids=["in full", "permanent", "endless", "removed"],
)
async def test_why_it_failed_is_told(yard: Yard, result: Any, expected: Mapping[str, Any]) -> None:
    yard.order(result=result)
    async with yard.serving():
        told = await yard.until_told()
    assert {k: v for k, v in told.items() if k not in {"task", "claim"}} == expected
    assert yard.desk.told[0][2] == ("error" if expected else "complete")


async def test_a_process_that_dies_is_told(yard: Yard) -> None:
    yard.order(do="die")
    async with yard.serving():
        told = await yard.until_told()
    assert told["crashed"] is True
    assert "exit code -9" in told["error"]
    assert "again" not in told


@pytest.mark.parametrize("linked", [False, True], ids=["plain", "link"])
async def test_real_remote_code_is_run(yard: Yard, linked: bool) -> None:
    """Also where the directory is a link: it is told where that leads, as remote code goes through none."""
    given = yard.root
    if linked:
        given = yard.directory / "link"
        given.symlink_to(yard.root)
    data = b"reference" * 1000
    with serving_ranges(RangedStore()) as store:
        store.files["/b/db.fa"] = data
        plan = {
            "root": str(yard.root),
            "id": "id-1",
            "file": "b/db.fa",
            "url": f"{store.url}/b/db.fa",
            "size": len(data),
            "crc64nvme": crc(data),
            "unpack": None,
            "connections": 2,
            "piece_size": 4096,
            "patience": 5.0,
            "max_files": 10,
            "max_bytes": 1 << 20,
        }
        order = {"refdata_id": "id-1", "task": "1-refdata-1", "kind": "refdata", "plan": plan}
        yard.desk.orders["here"].append(order)
        async with yard.serving(Store("here", given), python=sys.executable):
            told = await yard.until_told()
            assert (told.get("error"), told.get("files"), told.get("bytes")) == (None, 1, len(data))
            assert (yard.root / "id-1/db.fa").read_bytes() == data
            manifest = {"root": str(yard.root / ".cts/manifests"), "name": "id-1", "required": True}
            trees = [{"root": str(yard.root), "name": "id-1"}]
            removal = {"manifests": [manifest], "trees": trees, "expired": []}
            order = {"refdata_id": "id-1", "task": "1-remove-2", "kind": "remove", "plan": removal}
            yard.desk.orders["here"].append(order)
            await yard.until_told(2)
    assert yard.desk.told[1][2] == "complete"
    assert not (yard.root / "id-1").exists()
    assert {root for _, _, root, _ in yard.desk.asked} == {str(yard.root)}
    assert stat.S_IMODE(yard.root.stat().st_mode) & 0o005 == 0o005, "containers of any user read there"


# Meanwhile


async def test_progress_is_told(yard: Yard) -> None:
    yard.order(do="wait", progress={"phase": "downloading", "bytes_done": 1})
    async with yard.serving():

        async def told() -> bool:
            return any("progress" in beat for beat in yard.desk.beats)

        await eventually(told)
    beat = next(b for b in yard.desk.beats if "progress" in b)
    claim = yard.desk.asked[0][1]
    expected = {"phase": "downloading", "bytes_done": 1}
    assert beat == {"task": "1-refdata-1", "claim": claim, "progress": expected}


@pytest.mark.parametrize("fault", ["away", "refusing"])
async def test_signs_of_life_that_are_not_heard_stop_nothing(yard: Yard, fault: str) -> None:
    getattr(yard.desk, fault).add("progress")
    yard.order(do="wait")
    async with yard.serving():
        pid = await yard.until_runs()
        polls = len(yard.desk.asked)

        async def later() -> bool:
            return len(yard.desk.asked) > polls + 20

        await eventually(later)
        assert alive(pid)
        getattr(yard.desk, fault).clear()

        async def heard() -> bool:
            return bool(yard.desk.beats)

        await eventually(heard)
    assert len(yard.runs()) == 1


async def test_what_is_not_wanted_any_more_is_ended_and_that_is_told(yard: Yard) -> None:
    yard.order(do="wait", result=STOPPED)
    yard.desk.stop = True
    async with yard.serving():
        told = await yard.until_told()
        assert (told["error"], told["again"]) == ("It was stopped", "later")
        assert not alive(yard.runs()[0][0])
    assert (len(yard.desk.beats), len(yard.runs())) == (1, 1)


async def test_no_more_is_done_at_once_than_there_is_room_for(yard: Yard) -> None:
    for n in range(3):
        yard.order(f"1-refdata-{n}", do="wait")
    async with yard.serving(at_once=2):
        await yard.until_runs(2)
        polls = len(yard.desk.asked)

        async def later() -> bool:
            return len(yard.desk.asked) > polls + 3

        await eventually(later)
        assert len(yard.runs()) == 2
        assert {room for *_, room in yard.desk.asked[polls + 1 :]} == {0}
        os.kill(yard.runs()[0][0], signal.SIGKILL)
        await yard.until_runs(3)


async def test_a_task_that_cannot_be_begun_is_asked_for_again(yard: Yard) -> None:
    yard.order()
    yard.program.chmod(0o644)
    async with yard.serving():

        async def asked() -> bool:
            return len(yard.desk.asked) > 10

        await eventually(asked)
        assert yard.desk.told == []
        yard.program.chmod(0o755)
        await yard.until_told()


# The desk is away


@pytest.mark.parametrize("fault", ["away", "refusing", "broken"])
async def test_work_is_asked_for_until_there_is_an_answer(yard: Yard, fault: str) -> None:
    getattr(yard.desk, fault).add("work")
    yard.order()
    async with yard.serving():

        async def asked() -> bool:
            return len(yard.desk.asked) >= 3

        await eventually(asked)
        getattr(yard.desk, fault).clear()
        await yard.until_told()


async def test_an_end_is_told_for_as_long_as_it_takes(yard: Yard) -> None:
    yard.desk.away = {"update"}
    yard.order()
    async with yard.serving():

        async def tried() -> bool:
            return yard.desk.tries >= 3

        await eventually(tried)
        assert len(yard.left()) == 1
        yard.desk.away = set()
        await yard.until_told()
    assert len(yard.desk.told) == 1
    assert len(yard.runs()) == 1


async def test_an_end_that_is_refused_is_told_once(yard: Yard) -> None:
    async def not_yours(*told: Any) -> None:
        yard.desk.tries += 1
        yard.desk.orders["here"].clear()  # it is somebody else's by now
        raise DeskRefusedError("no")

    yard.desk.update = not_yours  # type: ignore[method-assign]
    yard.order()
    async with yard.serving():

        async def cleared() -> bool:
            return bool(yard.desk.tries) and not yard.left()

        await eventually(cleared)
    assert yard.desk.tries == 1
    assert len(yard.runs()) == 1


# Ends and beginnings of the service


async def test_a_task_ends_with_the_service_and_nothing_is_told(yard: Yard) -> None:
    yard.order(do="wait", result=STOPPED)
    async with yard.serving():
        pid = await yard.until_runs()
    assert not alive(pid)
    assert yard.desk.told == []
    async with yard.serving():  # what is left of a process that was stopped is no failure
        await yard.until_runs(2)
    claims = {claim for _, claim, *_ in yard.desk.asked}
    assert len(claims) == 1


@pytest.mark.parametrize("stop", [False, True])
async def test_a_task_that_does_not_end_is_killed(yard: Yard, monkeypatch: pytest.MonkeyPatch, stop: bool) -> None:
    monkeypatch.setattr(stager_module, "_GRACE", 0.1)
    yard.order(do="hang")
    yard.desk.stop = stop
    async with yard.serving():
        pid = await yard.until_runs()
        assert not stop or (await yard.until_told())["crashed"]
    assert not alive(pid)


async def test_a_result_of_the_service_before_is_not_taken_over(yard: Yard) -> None:
    yard.desk.away = {"update"}
    yard.order()
    async with yard.serving():

        async def tried() -> bool:
            return yard.desk.tries > 0

        await eventually(tried)
    yard.desk.away = set()
    async with yard.serving():
        told = await yard.until_told()
    assert (told["files"], told["bytes"]) == (3, 99)
    assert len({directory for _, _, _, directory, *_ in yard.runs()}) == 2


async def test_what_is_left_of_tasks_that_are_no_more_is_removed(yard: Yard) -> None:
    yard.order(do="wait", result=STOPPED)
    async with yard.serving():
        await yard.until_runs()
    assert len(yard.left()) == 1
    yard.desk.orders["here"].clear()
    async with yard.serving():

        async def cleared() -> bool:
            return not yard.left()

        await eventually(cleared)


async def test_a_store_that_cannot_be_used_holds_up_no_other(yard: Yard, tmp_path: Path) -> None:
    yard.desk.orders["there"] = []
    yard.order()
    async with yard.serving(Store("there", tmp_path / "away"), Store("here", yard.root)):
        await yard.until_told()
        assert not (tmp_path / "away").exists()  # it is not made: its file system may not be mounted
        (tmp_path / "away").mkdir()

        async def asked() -> bool:
            return "there" in {site for site, *_ in yard.desk.asked}

        await eventually(asked)


async def test_an_order_that_nobody_understands_holds_up_no_other(yard: Yard) -> None:
    yard.desk.orders["here"].append({"refdata_id": "r0", "task": "0-refdata-1", "kind": "refdata"})  # it has no plan
    yard.order()
    async with yard.serving():
        await yard.until_told()
        assert [refdata_id for refdata_id, *_ in yard.desk.told] == ["r1"]


async def test_answers_that_nobody_understands_end_nothing(yard: Yard) -> None:
    yard.desk.orders["here"].append({"task": "nobody's"})
    yard.order()
    async with yard.serving():

        async def asked() -> bool:
            return len(yard.desk.asked) >= 3

        await eventually(asked)
        del yard.desk.orders["here"][0]
        await yard.until_told()


async def test_a_bug_while_a_task_is_followed_ends_only_that_task(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stager_module, "_GRACE", 0.1)
    yard.desk.broken = {"progress"}
    yard.order(do="hang")
    async with yard.serving():
        pid = await yard.until_runs()
        await yard.until_runs(2)  # it is begun again
        assert not alive(pid)
        assert yard.desk.told == []
