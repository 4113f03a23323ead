"""Reference data at JAWS sites: who is asked to do what, and how what came of a copy is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.refdata import JawsRefdata
from cdmtaskservice.sites.refdata import COPY, STAGE
from cdmtaskservice.sites.tasks import TaskStatus

from .test_jaws_plans import config

LOG = "/ref/log/cts_team_id-1-nersc-site-2_changes.txt_nersc-site.complete"
OWNER = "id-1@nersc"


class Nersc:
    """files: what lies there, by machine and path."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], str] = {}

    async def upload(self, machine: str, path: str, content: bytes) -> None:
        self.files[machine, path] = content.decode()

    async def download(self, machine: str, path: str) -> str | None:
        return self.files.get((machine, path))


class Site:
    """The part of a JAWS site that is asked. asked: what was. status: what is said of every task."""

    def __init__(self, *, copy: bool) -> None:
        self.config = replace(config(), copy_refdata=copy)
        self.asked: list[tuple[Any, ...]] = []
        self.status = TaskStatus(running=True)
        self.down: str | None = None

    async def require_nersc_up(self) -> None:
        if self.down is not None:
            raise SiteUnreachableError(self.down)

    async def begin_task(self, *arguments: Any) -> str:
        self.asked.append(("begin", *arguments))
        return "77"

    async def task_status(self, *arguments: Any) -> TaskStatus:
        self.asked.append(("status", *arguments))
        return self.status

    async def stop_task(self, *arguments: Any) -> bool:
        self.asked.append(("stop", *arguments))
        return False

    async def progress(self, *arguments: Any) -> Mapping[str, Any]:
        self.asked.append(("progress", *arguments))
        return {"phase": "x"}


class Room:
    def __init__(self, *, copy: bool = True) -> None:
        self.site, self.nersc = Site(copy=copy), Nersc()
        jaws = replace(self.site.config.jaws, refdata_dir="/ref")
        platform = SimpleNamespace(nersc=self.nersc, jaws_config=jaws, nersc_config=self.site.config.nersc)
        self.place = JawsRefdata(self.site, platform)  # type: ignore[arg-type]
        self.machine = self.site.config.nersc.transfer_machine


@pytest.mark.parametrize("copy", [True, False])
async def test_what_is_staged_lies_in_the_services_own_part_of_jawss_directory(copy: bool) -> None:
    room = Room(copy=copy)
    assert (room.place.root(), room.place.copies) == ("/ref/cts", copy)
    await room.place.require_up()
    room.site.down = "maintenance"
    with pytest.raises(SiteUnreachableError, match="maintenance"):
        await room.place.require_up()


async def test_tasks_are_done_at_nersc_with_progress_while_they_run() -> None:
    room = Room()
    assert await room.place.begin_task(OWNER, "1-refdata-1", STAGE, {"id": "id-1"}) == "77"
    told = await room.place.task_status(OWNER, "1-refdata-1", "77", 5.0)
    assert (told.running, told.progress) == (True, {"phase": "x"})
    assert not await room.place.stop_task(OWNER, "1-refdata-1", "77", 5.0)
    assert room.site.asked == [
        ("begin", OWNER, "1-refdata-1", STAGE, {"id": "id-1"}),
        ("status", OWNER, "1-refdata-1", "77", 5.0),
        ("progress", OWNER, "1-refdata-1"),
        ("stop", OWNER, "1-refdata-1", "77", 5.0),
    ]
    room.site.asked.clear()
    assert (await room.place.task_status(OWNER, "1-remove-2", "77", 5.0)).progress is None
    room.site.status = TaskStatus(result={"ok": True})
    assert (await room.place.task_status(OWNER, "1-refdata-1", "77", 5.0)).result == {"ok": True}
    assert [what for what, *_ in room.site.asked] == ["status", "status"]


async def test_jaws_is_asked_to_copy_by_a_file_for_each_try() -> None:
    room = Room()
    names = [await room.place.begin_task(OWNER, f"1-copy-{n}", COPY, {"id": "id-1"}) for n in (2, 3)]
    assert names == ["cts_team_id-1-nersc-site-2_changes.txt", "cts_team_id-1-nersc-site-3_changes.txt"]
    assert room.nersc.files == {(room.machine, f"/ref/{name}"): "cts/id-1\n" for name in names}
    assert room.site.asked == []


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (None, TaskStatus(running=True, why="JAWS has not copied the data to the site yet")),
        ({"result": "succeeded", "n": 1}, TaskStatus(result={"result": "succeeded", "n": 1})),
    ],
)
async def test_what_came_of_a_copy(log: Any, expected: TaskStatus) -> None:
    room = Room()
    if log is not None:
        room.nersc.files[room.machine, LOG] = json.dumps(log)
    assert await room.place.task_status(OWNER, "1-copy-2", "file") == expected
    assert (await room.place.task_status(OWNER, "1-copy-3", "file")).running, "another try has another answer"


@pytest.mark.parametrize("log", [{"result": "failed", "error": "no room"}, {}, [], "succeeded", None])
async def test_a_copy_that_did_not_succeed_may_be_asked_for_again(log: Any) -> None:
    room = Room()
    room.nersc.files[room.machine, LOG] = json.dumps(log)
    failure = (await room.place.task_status(OWNER, "1-copy-2", "file")).failure
    assert failure is not None
    assert failure.again == "later"
    assert json.dumps(log) in (failure.admin_error or "")
    assert "/ref" not in failure.error


async def test_an_answer_that_is_still_being_written_is_none() -> None:
    room = Room()
    room.nersc.files[room.machine, LOG] = '{"resu'
    with pytest.raises(SiteUnreachableError, match="is no JSON"):
        await room.place.task_status(OWNER, "1-copy-2", "file")


async def test_a_copy_of_which_it_is_not_known_whether_it_was_asked_for() -> None:
    room = Room()
    assert (await room.place.task_status(OWNER, "1-copy-2", None)).lost
    room.nersc.files[room.machine, LOG] = '{"result": "succeeded"}'
    assert (await room.place.task_status(OWNER, "1-copy-2", None)).result
    assert await room.place.stop_task(OWNER, "1-copy-2", None, 1.0)
    assert room.site.asked == []


async def test_two_sites_do_not_take_each_others_answers() -> None:
    """Both may be at a try of the same number, and JAWS answers each request for all sites that it copies to."""
    rooms = [Room(), Room()]
    rooms[1].site.config = replace(rooms[1].site.config, jaws_site="far_away_")
    names = [await r.place.begin_task("id-1@x", "1-copy-4", COPY, {"id": "id-1"}) for r in rooms]
    assert names == ["cts_team_id-1-nersc-site-4_changes.txt", "cts_team_id-1-far-away--4_changes.txt"]
    for room in rooms:
        room.nersc.files[room.machine, f"/ref/log/{names[0]}_far_away_.complete"] = '{"result": "succeeded"}'
        assert (await room.place.task_status("id-1@x", "1-copy-4", "file")).running
    # JAWS parts the name of the file at the first two of these.
    assert all(name.removesuffix("_changes.txt").count("_") == 2 for name in names)
    log = f"/ref/log/{names[1]}_far_away_.complete"
    rooms[1].nersc.files[rooms[1].machine, log] = '{"result": "succeeded"}'
    assert (await rooms[1].place.task_status("id-1@x", "1-copy-4", "file")).result
