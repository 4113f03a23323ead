"""Tasks of remote code that fail, in a store that holds one record in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.reconciler.jaws_tasks import JawsJobConfig, JawsTasks
from cdmtaskservice.reconciler.stagings import StagingConfig, _StagingTasks
from cdmtaskservice.reconciler.tasks import Fails, Waits
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus
from test.stand_ins.clockwork import FakeClock
from test.stand_ins.refdata_house import LIMITS, FakePlace, failed


@dataclass(frozen=True)
class Record:
    """What a look is at."""

    id: str = "x"
    flow: Mapping[str, Any] = field(default_factory=dict)
    progress: None = None
    state: str = ""


class Notes:
    """A store of one record."""

    def __init__(self) -> None:
        self.record = Record()

    async def note_flow(self, record: Record, flow: Mapping[str, Any]) -> bool:
        self.record = Record(flow=flow)
        return True

    async def note_handle(self, *told: str) -> None:
        """Is not looked at."""


class Place(FakePlace):
    async def require_nersc_up(self) -> None:
        """It is."""


async def plan(record: Any) -> Plan:
    return {}


class Room:
    """Tasks of jobs, or of stagings."""

    def __init__(self, kind: str) -> None:
        self.clock, self.notes, self.place = FakeClock(), Notes(), Place()
        store: Any = self.notes
        self.tasks: Any
        if kind == "job":
            self.tasks = JawsTasks(store, SimpleNamespace(), self.clock, JawsJobConfig(5.0, 3, 60.0))  # type: ignore[arg-type]
        else:
            self.tasks = _StagingTasks(store, self.clock, StagingConfig(5.0, 3600, 4, 60.0, LIMITS))

    @property
    def flow(self) -> Flow:
        return Flow.of(self.notes.record)  # type: ignore[arg-type]

    async def look(self) -> Waits:
        """One look, that waits."""
        with pytest.raises(Waits) as caught:
            await self.tasks.result(self.notes.record, self.place, "remove", plan)
        return caught.value


@pytest.mark.parametrize("kind", ["job", "staging"])
async def test_a_failed_task_is_logged_with_its_owner(kind: str) -> None:
    room = Room(kind)
    room.place.outcomes["remove"] = [failed("no", "later", "admin")]
    await room.look()
    with capture_logs() as logs:
        await room.look()
    [entry] = logs
    assert (entry["event"], entry[kind], entry["task"]) == ("task_failed", "x", "1-remove-1")
    assert {"job", "staging"} & set(entry) == {kind}
    assert "admin" in entry["why"]


@pytest.mark.parametrize("kind", ["job", "staging"])
async def test_what_another_process_holds_is_no_failure_however_often(kind: str) -> None:
    room = Room(kind)
    failures = [TaskStatus(failure=TaskFailure("in use", "locked", "held"))] * 50
    room.place.outcomes["remove"] = [failed("no", "later"), *failures, TaskStatus(result={"ok": True})]
    with capture_logs() as logs:
        for _ in range(51):
            await room.look()
            waits = await room.look()
            assert room.flow.failures == 1
            room.clock.advance(waits.delay)
    assert (waits.delay, waits.told) == (20.0, "in use")
    assert "locked" in (waits.why or "")
    assert len(logs) == 1
    await room.look()
    _, found = await room.tasks.result(room.notes.record, room.place, "remove", plan)
    assert found == {"ok": True}
    assert len(set(room.place.begun)) == 52


async def test_what_is_held_is_asked_for_after_its_pause_and_not_before() -> None:
    room = Room("staging")
    room.place.outcomes["remove"] = [failed("in use", "held")]
    await room.look()
    await room.look()
    room.clock.advance(19.9)
    assert 0 < (await room.look()).delay < 0.2
    assert len(room.place.begun) == 1
    room.clock.advance(0.2)
    await room.look()
    assert len(room.place.begun) == 2


async def test_failures_of_stagings_end_between_which_something_was_held() -> None:
    room = Room("staging")
    room.place.outcomes["remove"] = [failed("no", "later"), failed("in use", "held")] * 4

    async def all_tries() -> None:
        while True:
            try:
                await room.tasks.result(room.notes.record, room.place, "remove", plan)
            except Waits as e:
                room.clock.advance(e.delay)

    with capture_logs(), pytest.raises(Fails, match="no"):
        await all_tries()
    assert len(room.place.begun) == 7
