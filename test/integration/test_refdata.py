"""Reference data at sites: staged, copied, tried again and recovered."""

from __future__ import annotations

import datetime
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from cdmtaskservice.domain.errors import InvalidRefdataStateError
from cdmtaskservice.domain.refdata import StagingRecord, StagingTransition
from cdmtaskservice.sites.refdata import STAGE
from cdmtaskservice.sites.tasks import TaskStatus
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import (
    ADMIN,
    DONE,
    FILE,
    GOOD,
    LIMITS,
    RefdataHouse,
    S,
    failed,
    seconds,
    states,
)

pytestmark = pytest.mark.usefixtures("quiet")

PROGRESS = {"phase": "downloading", "bytes_done": 100, "bytes_total": 1000, "files_done": 2, "bytes_unpacked": 50}


# Staged


async def test_from_created_to_complete(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc")
    assert states(await house.at(refdata_id, "nersc")) == [S.CREATED]
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        going = await house.until_state(refdata_id, "nersc", S.DOWNLOAD_SUBMITTED)
        assert (going.files, going.cleaned) == (None, False)
        house.nersc.end(DONE)
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert states(staged) == GOOD
    assert (staged.files, staged.unpacked, staged.cleaned, staged.error) == (5, 4000, True, None)
    assert staged.handles == {"nersc_download": ("h-" + name.partition("/")[2],)}
    assert house.nersc.begun == [(name, STAGE)]
    plan = house.nersc.plans[name]
    assert (plan["root"], plan["id"], plan["unpack"], plan["piece_size"]) == (
        "/dtn/ref/cts",
        refdata_id,
        "tar.gz",
        LIMITS.piece_size,
    )
    assert plan["url"] == f"https://s3-of-nersc/{FILE}?expires=3600"


async def test_a_url_is_good_for_as_long_as_a_try_may_take(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    record = await house.record(await house.registered("nersc"))
    step = house.step()
    assert step.presigned(replace(record, size=5_000_000 * 10_000), "x").endswith("expires=50120")
    assert step.presigned(replace(record, size=10**15), "x").endswith(f"expires={7 * 86400}")


async def test_progress_is_noted_with_its_rate(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        at = house.clock().timestamp()
        for done, passed in ((100, 0), (300, 10)):
            told = {**PROGRESS, "bytes_done": done, "time": at + passed}
            house.nersc.tasks[name] = TaskStatus(running=True, progress=told)
            going = await house.until_true(
                refdata_id, "nersc", lambda s, done=done: s.progress is not None and s.progress.done == done
            )
        assert going.progress is not None
        assert (going.progress.rate, going.progress.percent, going.progress.files) == (20.0, 30.0, 2)
        assert going.progress.at == datetime.datetime.fromtimestamp(at + 10, datetime.UTC)


@pytest.mark.parametrize("told", [{}, {**PROGRESS, "bytes_done": "x"}, {**PROGRESS, "time": 1e300}, {"phase": None}])
async def test_progress_that_nobody_can_read_holds_nothing_up(quick_refdata: RefdataHouse, told: dict) -> None:
    house = quick_refdata
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        house.nersc.tasks[name] = TaskStatus(running=True, progress=told, why="seen")
        going = await house.until_true(refdata_id, "nersc", lambda s: s.waiting == "seen")
    assert (going.progress, going.failures) == (None, 0)


async def test_a_file_that_is_no_archive_is_staged_as_it_is(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes[STAGE] = [TaskStatus(result={"ok": True})]  # it does not say how much it was
    refdata_id = await house.registered("nersc", unpack=False)
    async with house.reconciling():
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert (staged.files, staged.unpacked) == (None, None)
    [plan] = house.nersc.plans.values()
    assert plan["unpack"] is None


async def test_of_two_services_one_stages_each(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    ids = [await house.registered("nersc", file=f"cts-data/{n}.gz") for n in range(4)]
    async with AsyncExitStack() as stack:
        for owner in ("p1", "p2"):
            await stack.enter_async_context(house.reconciling(owner))
        for count in range(1, 5):
            await house.until_running(house.nersc, STAGE, count)
        assert {task.partition("/")[0] for task in house.nersc.running()} == {f"{i}@nersc" for i in ids}
        for task in house.nersc.running():
            house.nersc.tasks[task] = DONE
        for refdata_id in ids:
            assert states(await house.until_state(refdata_id, "nersc", S.COMPLETE)) == GOOD
    assert len(house.nersc.begun) == 4


# Recovered


async def test_recovery_from_an_error(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes[STAGE] = [failed("it has changed", None)]
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        again = await house.until_running(house.nersc, STAGE, 2)
        going = await house.until_state(refdata_id, "nersc", S.DOWNLOAD_SUBMITTED)
        assert (going.error, going.admin_error, going.round) == (None, None, 1)
        house.nersc.end(DONE)
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert states(staged) == [S.CREATED, S.DOWNLOAD_SUBMITTED, S.ERROR, *GOOD]
    assert again.startswith(f"{refdata_id}@nersc/2-")
    assert house.nersc.stopped == []


async def test_recovery_of_what_goes_on_stops_that_first(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        await house.until_state(refdata_id, "nersc", S.DOWNLOAD_SUBMITTED)
        house.nersc.slow_stop = 3
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.round == 1 and s.waiting)
        assert "still being stopped" in (waiting.waiting or "")
        assert len(house.nersc.begun) == 1
        await house.until_running(house.nersc, STAGE, 2)
        assert house.nersc.stopped == [name]
        assert len(house.nersc.running()) == 1
        house.nersc.end(DONE)
        await house.until_state(refdata_id, "nersc", S.COMPLETE)


async def test_a_recovery_does_not_wait_for_the_pause_after_failed_looks(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("nersc")
    house.nersc.unreachable = "no answer"
    house.pace = 0.0
    async with house.reconciling():
        await house.until_true(refdata_id, "nersc", lambda s: s.failures)
        house.nersc.unreachable = None
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        await house.until_running(house.nersc, STAGE)


async def test_a_recovery_while_a_look_ends_in_error_is_not_lost(quick_refdata: RefdataHouse) -> None:
    """The look has read what came of the old task, and is about to write it down."""
    house = quick_refdata
    house.nersc.outcomes[STAGE] = [failed("it has changed", None)]
    refdata_id = await house.registered("nersc")
    real = house.nersc.task_status
    recovered = False

    async def recovered_meanwhile(*args, **kwargs):
        nonlocal recovered
        told = await real(*args, **kwargs)
        if not recovered:
            recovered = True
            await house.refdata.recover(ADMIN, refdata_id, "nersc")
        return told

    house.nersc.task_status = recovered_meanwhile  # type: ignore[method-assign]
    async with house.reconciling():
        await house.until_running(house.nersc, STAGE, 2)
        house.nersc.end(DONE)
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert S.ERROR not in states(staged)


async def test_what_is_complete_is_staged_again_only_by_force(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes[STAGE] = [DONE] * 2
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
        with pytest.raises(InvalidRefdataStateError, match="staged at nersc already"):
            await house.refdata.recover(ADMIN, refdata_id, "nersc")
        assert await house.at(refdata_id, "nersc") == staged
        await house.refdata.recover(ADMIN, refdata_id, "nersc", force=True)
        again = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert states(again) == [*GOOD, *GOOD]
    assert len(house.nersc.begun) == 2


async def test_recovery_where_there_was_no_staging(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    house.nersc.outcomes[STAGE] = [DONE]
    async with house.reconciling():
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        assert states(await house.until_state(refdata_id, "nersc", S.COMPLETE)) == GOOD


# Registrations that were broken off


async def test_a_staging_whose_data_was_never_registered_is_forgotten(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    created = (StagingTransition(S.CREATED, START),)
    await house.stagings.insert(StagingRecord("none", "nersc", S.CREATED, created))
    async with house.reconciling():
        waiting = await house.until_true("none", "nersc", lambda s: s.waiting)
        assert waiting.waiting == "its registration is not complete"

        async def gone() -> bool:
            return await house.stagings.get("none@nersc") is None

        house.pace = 30.0
        await house.until(gone)
    assert house.clock() >= START + seconds(600)
    assert house.nersc.begun == []
