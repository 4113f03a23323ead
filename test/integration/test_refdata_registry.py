"""Reference data as administrators see it: registered, recovered, cleaned and retired."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    IllegalParameterError,
    IllegalS3PathError,
    InvalidRefdataStateError,
    NoSuchRefdataError,
    NoSuchS3PathError,
    RefdataExistsError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.refdata import StagingRecord, StagingTransition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.store.database import StoreUnavailableError
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import ADMIN, CRC, DONE, FILE, RefdataHouse, S, seconds

from .refdata_room import TOOL, RefdataRoom

pytestmark = pytest.mark.usefixtures("quiet")


# Registered


async def test_a_registration(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    view = await house.refdata.register(ADMIN, f" {FILE}", CRC, unpack=True)
    record = view.refdata
    assert (record.file, record.crc64nvme, record.size, record.unpack) == (FILE, CRC, 1000, True)
    assert (record.registered_by, record.registered_on) == ("adam", START)
    found = await house.refdata.get(record.id)
    assert found.refdata == record
    assert [(s.site, s.state) for s in found.stagings] == [(n, S.CREATED) for n in ("far", "here", "nersc")]
    assert sorted(house.looked_for) == [f"{record.id}@{n}" for n in ("far", "here", "nersc")]
    assert await house.stagings.due(START, 10) != []


async def test_lists_are_the_newest_first_and_by_file(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    ids = []
    for n, file in enumerate(["cts-data/a.gz", FILE, "cts-data/b.gz"]):
        house.clock.advance(1)
        ids.append(await house.registered("here", "nersc", file=file))
        assert n or (await house.refdata.list())[0].refdata.id == ids[0]
    listed = await house.refdata.list()
    assert [v.refdata.id for v in listed] == ids[::-1]
    assert all([s.site for s in v.stagings] == ["here", "nersc"] for v in listed)
    assert all(s.refdata_id == v.refdata.id for v in listed for s in v.stagings)
    assert [v.refdata.id for v in await house.refdata.list(FILE)] == [ids[1]]
    assert await house.refdata.list("cts-data/none") == []
    with pytest.raises(IllegalS3PathError):
        await house.refdata.list("cts-data")
    with pytest.raises(NoSuchRefdataError, match="'none'"):
        await house.refdata.get("none")


@pytest.mark.parametrize(
    ("file", "crc", "unpack", "error", "match"),
    [
        ("x", None, False, IllegalS3PathError, "'x'"),
        ("cts-data/../x", None, False, IllegalS3PathError, "cts-data/../x"),
        ("cts-data/db.fasta", None, True, IllegalParameterError, "no archive"),
        ("cts-data/none.gz", None, True, NoSuchS3PathError, "none.gz"),
        (FILE, "AAAAAAAAAAE=", True, ChecksumMismatchError, "AAAAAAAAAAA= in S3, but the request expects AAAAAAAAAAE="),
        ("cts-data/bare.gz", None, False, ChecksumMismatchError, "no CRC64NVME"),
    ],
)
async def test_registrations_that_are_refused_leave_nothing(
    quick_refdata: RefdataHouse, file: str, crc: str | None, unpack: bool, error: type[Exception], match: str
) -> None:
    house = quick_refdata
    house.s3.objects |= {"cts-data/bare.gz": None, "cts-data/db.fasta": CRC}
    with pytest.raises(error, match=match):
        await house.refdata.register(ADMIN, file, crc, unpack=unpack)
    assert await house.refdata.list() == []
    assert await house.stagings.due(START, 10) == []


async def test_the_same_file_is_registered_once(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    results = await asyncio.gather(
        *(house.refdata.register(ADMIN, FILE, None, unpack=True) for _ in range(4)), return_exceptions=True
    )
    [view] = [r for r in results if not isinstance(r, BaseException)]
    refused = [r for r in results if isinstance(r, RefdataExistsError)]
    assert len(refused) == 3
    assert all(view.refdata.id in r.message for r in refused)
    assert len(await house.stagings.due(START, 10)) == 3
    house.s3.objects[FILE] = "AAAAAAAAAAE="
    other = await house.refdata.register(ADMIN, FILE, None, unpack=True)
    assert other.refdata.id != view.refdata.id


async def test_a_registration_that_is_broken_off_is_none(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata

    async def away(*args: object) -> None:
        raise StoreUnavailableError("away")

    house.refdata_store.insert = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await house.refdata.register(ADMIN, FILE, None, unpack=True)
    del house.refdata_store.insert  # type: ignore[attr-defined]
    assert await house.refdata.list() == []
    assert (await house.refdata.register(ADMIN, FILE, None, unpack=True)).refdata.file == FILE


# Recovered and cleaned: what is refused


async def test_recoveries_that_are_refused(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.staged("here")
    for site, error, match in (
        ("moon", IllegalParameterError, "no site 'moon'"),
        ("bare", UnsupportedOperationError, "refdata_dir"),
        ("here", InvalidRefdataStateError, "staged at here already"),
    ):
        with pytest.raises(error, match=match):
            await house.refdata.recover(ADMIN, refdata_id, site)
    with pytest.raises(NoSuchRefdataError):
        await house.refdata.recover(ADMIN, "none", "here")
    await house.refdata.retire(ADMIN, refdata_id)
    for site in ("here", "nersc"):
        with pytest.raises(InvalidRefdataStateError, match="retired"):
            await house.refdata.recover(ADMIN, refdata_id, site)
    assert await house.stagings.get(f"{refdata_id}@nersc") is None


async def test_a_recovery_of_what_has_just_changed_says_so(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("here")
    real = house.stagings.transition

    async def moved_before(staging: StagingRecord, *args: Any) -> Any:
        await real(staging, StagingTransition(S.DOWNLOAD_SUBMITTED, START))
        return await real(staging, *args)

    house.stagings.transition = moved_before  # type: ignore[method-assign]
    with pytest.raises(InvalidRefdataStateError, match="just changed at here"):
        await house.refdata.recover(ADMIN, refdata_id, "here")


async def test_cleaning_that_is_refused_and_that_is_nothing(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    with pytest.raises(InvalidRefdataStateError, match="created at here"):
        await house.refdata.clean(ADMIN, refdata_id, "here", force=False)
    with pytest.raises(UnsupportedOperationError):
        await house.refdata.clean(ADMIN, refdata_id, "bare", force=True)
    with pytest.raises(IllegalParameterError):
        await house.refdata.clean(ADMIN, refdata_id, "moon", force=True)
    with pytest.raises(NoSuchRefdataError):
        await house.refdata.clean(ADMIN, "none", "here", force=True)
    await house.refdata.clean(ADMIN, refdata_id, "nersc", force=True)  # there is nothing there
    staging = await house.at(refdata_id, "here")
    assert not staging.cleaning
    await house.stagings.set_fields(staging.id, {"state": "complete", "cleaned": 1})
    house.looked_for.clear()
    await house.refdata.clean(ADMIN, refdata_id, "here", force=True)
    assert house.looked_for == []


# Retired


async def test_data_that_nothing_needs_is_retired_and_its_record_stays(refdata_room: RefdataRoom) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    house.clock.advance(5)
    house.looked_for.clear()
    await house.refdata.retire(ADMIN, refdata_id)
    record = await house.record(refdata_id)
    assert (record.retired_by, record.retired_on, record.is_current) == ("adam", START + seconds(5), False)
    assert house.looked_for == [f"{refdata_id}@here"]
    assert await house.stagings.due(house.clock(), 10) == [f"{refdata_id}@here"]
    house.clock.advance(5)
    await house.refdata.retire(ADMIN, refdata_id)  # once more is no error
    assert await house.record(refdata_id) == record
    with pytest.raises(NoSuchRefdataError):
        await house.refdata.retire(ADMIN, "none")
    again = await house.registered("here")
    assert again != refdata_id
    assert len(await house.refdata.list(FILE)) == 2


async def test_an_image_that_names_it_is_named(refdata_room: RefdataRoom) -> None:
    refdata_id = await refdata_room.house.staged("here")
    await refdata_room.approve("1", refdata_id)
    with pytest.raises(InvalidRefdataStateError, match=f"images {TOOL}@sha256:0+1; withdraw"):
        await refdata_room.house.refdata.retire(ADMIN, refdata_id)
    record = await refdata_room.house.record(refdata_id)
    assert (record.is_current, record.retiring) == (True, None)
    await refdata_room.images.delete(f"{TOOL}:1")
    await refdata_room.house.refdata.retire(ADMIN, refdata_id)


async def test_a_job_that_needs_it_is_named_until_it_is_over(refdata_room: RefdataRoom) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    await refdata_room.approve("1", refdata_id)
    job_id = await refdata_room.submit()
    await refdata_room.images.delete(f"{TOOL}:1")
    for state in (None, JobState.DOWNLOAD_SUBMITTED, JobState.CANCELING):
        if state is not None:
            await house.jobs.transition(job_id, Transition(state, START, f"t-{state.value}"))
        with pytest.raises(InvalidRefdataStateError, match=f"jobs {job_id}"):
            await house.refdata.retire(ADMIN, refdata_id)
        assert (await house.record(refdata_id)).is_current
    await house.jobs.transition(job_id, Transition(JobState.CANCELED, START, "t-end"))
    await house.refdata.retire(ADMIN, refdata_id)


async def test_a_job_that_is_only_announced_keeps_it(refdata_room: RefdataRoom) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    await house.jobs.announce("other", START, "other-data")
    await house.jobs.announce("plain", START)
    await house.jobs.announce("j9", START, refdata_id)
    assert await house.jobs.using_refdata(refdata_id, 5) == []
    assert await house.jobs.announced_with_refdata(refdata_id, 5) == ["j9"]
    with pytest.raises(InvalidRefdataStateError, match=r"just being submitted, or whose .*reconciler\.orphan_age"):
        await house.refdata.retire(ADMIN, refdata_id)
    assert (await house.record(refdata_id)).is_current
    await house.jobs.settle("j9")
    await house.refdata.retire(ADMIN, refdata_id)


async def test_of_two_that_retire_the_later_one_counts(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.staged("here")
    assert await house.refdata_store.begin_retiring(refdata_id, "one", START)
    assert await house.refdata_store.begin_retiring(refdata_id, "two", START)
    assert not await house.refdata_store.retire(refdata_id, "one", "adam", START)
    await house.refdata_store.stop_retiring(refdata_id, "one")
    assert (await house.record(refdata_id)).retiring == "two"
    assert await house.refdata_store.retire(refdata_id, "two", "eve", START)
    assert await house.refdata_store.begin_retiring(refdata_id, "three", START) is None


async def test_whoever_is_overtaken_while_retiring_is_told(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.staged("here")
    real = house.refdata_store.retire

    async def undone(*args: Any) -> bool:
        await house.refdata_store.stop_retiring(refdata_id, args[1])
        return await real(*args)

    house.refdata_store.retire = undone  # type: ignore[method-assign]
    with pytest.raises(InvalidRefdataStateError, match="Somebody else"):
        await house.refdata.retire(ADMIN, refdata_id)
    assert (await house.record(refdata_id)).is_current


# The keeper


async def test_a_retirement_that_was_broken_off_is_undone(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.staged("here")
    await house.refdata_store.begin_retiring(refdata_id, "request", house.clock())
    house.clock.advance(60)
    await house.keeper.keep()
    assert (await house.record(refdata_id)).retiring == "request"  # it may be under way
    house.clock.advance(1)
    await house.keeper.keep()
    record = await house.record(refdata_id)
    assert (record.retiring, record.is_current) == (None, True)
    assert not await house.refdata_store.retire(refdata_id, "request", "adam", house.clock())


async def test_a_retirement_is_finished_whoever_died(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.staged("here", "nersc")
    for site in ("here", "nersc"):
        await house.database.db.stagings.update_one({"_id": f"{refdata_id}@{site}"}, {"$unset": {"next_look": ""}})
    await house.refdata_store.begin_retiring(refdata_id, "request", house.clock())
    assert await house.refdata_store.retire(refdata_id, "request", "adam", house.clock())
    house.looked_for.clear()
    await house.keeper.keep()
    assert sorted(house.looked_for) == [f"{refdata_id}@{site}" for site in ("here", "nersc")]
    assert sorted(await house.stagings.due(house.clock(), 10)) == house.looked_for
    await house.keeper.keep()
    assert len(house.looked_for) == 2  # they will be looked at
    await house.stagings.set_fields(f"{refdata_id}@here", {"removed_on": 1})
    await house.keeper.keep()
    assert [r.id for r in await house.refdata_store.removing()] == [refdata_id]
    assert await house.refdata_store.broken_off(house.clock() + seconds(1000), 10) == []
    await house.stagings.set_fields(f"{refdata_id}@nersc", {"removed_on": 1})
    await house.keeper.keep()
    assert await house.refdata_store.removing() == []
    record = await house.record(refdata_id)
    assert (record.retiring, record.retired_by, record.is_current) == (None, "adam", False)


async def test_the_keeper_goes_on_after_faults(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.staged("here")
    await house.refdata_store.begin_retiring(refdata_id, "request", house.clock())
    house.clock.advance(100)
    real = house.refdata_store.broken_off
    faults: list[Exception] = [StoreUnavailableError("away"), RuntimeError("a bug")]

    async def faulty(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return await real(*args)

    house.refdata_store.broken_off = faulty  # type: ignore[method-assign]
    house.keeper._interval = 0.005
    task = asyncio.create_task(house.keeper.run())
    try:

        async def undone() -> bool:
            return (await house.record(refdata_id)).is_current

        await house.until(undone)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert faults == []


async def test_a_job_keeps_the_data_even_where_it_was_retired(quick_refdata_room: RefdataRoom) -> None:
    """As by a service of another version, which checks nothing."""
    house = quick_refdata_room.house
    refdata_id = await house.staged("here", "nersc")
    await quick_refdata_room.approve("1", refdata_id)
    job_id = await quick_refdata_room.submit()
    await house.refdata_store.begin_retiring(refdata_id, "request", START)
    assert await house.refdata_store.retire(refdata_id, "request", "adam", START)
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.waiting)
        assert waiting.waiting == f"it is needed by the jobs {job_id}"
        assert house.nersc.begun == []
        house.nersc.outcomes["remove"] = [DONE]
        for state in (JobState.CANCELING, JobState.CANCELED):
            await house.jobs.transition(job_id, Transition(state, START, f"t-{state.value}"))
        house.pace = 10.0
        await house.until_true(refdata_id, "nersc", lambda s: s.removed_on)


async def test_many_that_are_being_removed_hold_up_no_retirement_that_was_broken_off(
    quick_refdata: RefdataHouse,
) -> None:
    house = quick_refdata
    removing = []
    for n in range(3):
        removing.append(await house.registered("here", file=f"cts-data/{n}.gz"))
        await house.refdata.retire(ADMIN, removing[-1])
    broken = await house.registered("here")
    await house.refdata_store.begin_retiring(broken, "request", house.clock())
    house.clock.advance(61)
    found = await house.refdata_store.broken_off(house.clock() - seconds(60), 1)
    assert [r.id for r in found] == [broken]
    assert {r.id for r in await house.refdata_store.removing()} == set(removing)
    await house.keeper.keep()
    assert (await house.record(broken)).is_current
