"""What is asked for at the instant at which a look, or somebody else, writes something down."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from cdmtaskservice.domain.errors import InvalidRefdataStateError
from cdmtaskservice.domain.refdata import Errand, StagingRecord, StagingTransition
from cdmtaskservice.reconciler.loop import Wait
from cdmtaskservice.sites.refdata import REMOVE, STAGE
from cdmtaskservice.store.looks import Lease
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import (
    ADMIN,
    DONE,
    GOOD,
    RefdataHouse,
    S,
    seconds,
    states,
)

pytestmark = pytest.mark.usefixtures("quiet")


NEVER_YET = datetime.datetime.fromtimestamp(0, datetime.UTC)


def before_call(target: Any, name: str, meanwhile: Any, *, times: int = 1) -> None:
    """Let something happen just before a call of a store."""
    real = getattr(target, name)
    left = [times]

    async def call(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            await meanwhile()
        return await real(*args, **kwargs)

    setattr(target, name, call)


async def in_error(house: RefdataHouse) -> str:
    """Data whose staging at `nersc` has failed."""
    refdata_id = await house.registered("nersc")
    await house.stagings.set_fields(f"{refdata_id}@nersc", {"state": "error", "error": "no"})
    return refdata_id


# Looks


async def test_what_is_asked_for_during_a_look_is_not_overwritten(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc")
    name = f"{refdata_id}@nersc"
    step = house.step()

    async def look() -> Wait[StagingRecord]:
        leased = await house.stagings.lease(name, Lease("me", house.clock() + seconds(30)), house.clock())
        assert leased is not None
        told = await step.look(leased, full=True, reachable_since=START)
        assert isinstance(told, Wait)
        return told

    first = await look()
    assert await house.stagings.release(first.job, "me", next_look=START + seconds(5))
    going = await look()
    assert await house.stagings.want_cleaning(going.job)
    assert not await house.stagings.release(going.job, "me", next_look=START + seconds(60))
    assert (await house.at(refdata_id, "nersc")).next_look == NEVER_YET


@pytest.mark.parametrize("wish", ["clean", "wake", "claim_errand", "end_errand"])
async def test_what_is_asked_for_while_a_look_ends_is_still_due(refdata_house: RefdataHouse, wish: str) -> None:
    """The look was due at once, and so is what is asked for: only counting tells them apart."""
    house = refdata_house
    name = f"{await in_error(house)}@nersc"
    await house.stagings.put_errand(name, Errand("t", "refdata", START), None)  # type: ignore[arg-type]
    if wish == "end_errand":
        assert await house.stagings.claim_errand(name, "t", "c", START)
    leased = await house.stagings.lease(name, Lease("me", START + seconds(30)), START)
    assert leased is not None
    assert leased.next_look == NEVER_YET
    if wish == "clean":
        await house.refdata.clean(ADMIN, leased.refdata_id, "nersc", force=False)
    elif wish == "wake":
        await house.stagings.wake(name)
    elif wish == "claim_errand":
        assert await house.stagings.claim_errand(name, "t", "c", START)
    else:
        assert await house.stagings.end_errand(name, "t", "c", {"ok": 1})
    assert not await house.stagings.release(leased, "me", next_look=None)
    assert await house.stagings.due(START, 10) == [name]
    again = await house.stagings.lease(name, Lease("other", START + seconds(30)), START)
    assert again is not None
    assert await house.stagings.release(again, "other", next_look=None)
    assert await house.stagings.due(START, 10) == []


async def test_cleaning_that_is_asked_for_while_a_look_ends_is_done(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {REMOVE: [DONE]}
    refdata_id = await in_error(house)

    async def clean() -> None:
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)

    before_call(house.stagings, "release", clean)
    async with house.reconciling():
        await house.until_true(refdata_id, "nersc", lambda s: s.cleaned and s.next_look is None)
    assert [kind for _, kind in house.nersc.begun] == [REMOVE]


async def test_of_two_ends_that_are_told_in_one_instant_the_second_leaves_nothing(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()

    async def complete() -> None:
        await house.report(order, files=1, bytes=2)

    before_call(house.stagings, "end_errand", complete)
    await house.report(order, S.ERROR, error="no", traceback="Traceback …")
    staging = await house.at(refdata_id, "here")
    assert staging.errand is not None
    assert (staging.errand.outcome, staging.traceback) == ({"ok": 1, "files": 1, "bytes": 2}, None)


async def test_of_two_that_move_a_staging_one_does(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc")
    read = await house.at(refdata_id, "nersc")
    to = StagingTransition(S.DOWNLOAD_SUBMITTED, START - seconds(100))
    moved = await asyncio.gather(*(house.stagings.transition(read, to) for _ in range(5)))
    [one] = [m for m in moved if m is not None]
    assert [t.time for t in one.transitions] == [START, START]  # never backwards
    assert states(await house.at(refdata_id, "nersc")) == GOOD[:2]


async def test_nobody_is_asked_for_a_task_that_has_been_overtaken(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    name = f"{refdata_id}@here"
    await house.stagings.set_fields(name, {"flow": {"version": 1, "number": 3}})
    await house.stagings.put_errand(name, Errand("1-refdata-2", "refdata", START), 2)
    assert (await house.at(refdata_id, "here")).errand is None
    await house.stagings.put_errand(name, Errand("1-refdata-3", "refdata", START), 3)
    await house.stagings.put_errand(name, Errand("1-refdata-2", "refdata", START), 2)
    errand = (await house.at(refdata_id, "here")).errand
    assert errand is not None
    assert errand.task == "1-refdata-3"


# Cleaned and recovered at once


async def test_cleaning_without_force_never_stops_what_was_recovered_meanwhile(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await in_error(house)

    async def recover() -> None:
        await house.refdata.recover(ADMIN, refdata_id, "nersc")

    before_call(house.stagings, "want_cleaning", recover)
    with pytest.raises(InvalidRefdataStateError, match="is created at nersc"):
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
    staging = await house.at(refdata_id, "nersc")
    assert (staging.state, staging.round, staging.cleaning) == (S.CREATED, 1, False)
    async with house.reconciling():
        await house.until_running(house.nersc, STAGE)
        house.nersc.end(DONE)
        await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert house.nersc.stopped == []


async def test_a_recovery_goes_before_cleaning_that_is_asked_for_meanwhile(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await in_error(house)

    async def clean() -> None:
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)

    before_call(house.stagings, "transition", clean)
    await house.refdata.recover(ADMIN, refdata_id, "nersc")
    staging = await house.at(refdata_id, "nersc")
    assert (staging.state, staging.round, staging.cleaning, staging.cleaned) == (S.CREATED, 1, False, False)


async def test_what_was_recovered_meanwhile_does_not_count_as_cleaned(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes = {REMOVE: [DONE]}
    refdata_id = await in_error(house)
    await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)

    async def recover() -> None:
        await house.refdata.recover(ADMIN, refdata_id, "nersc")

    before_call(house.stagings, "cleaned", recover)
    async with house.reconciling():
        await house.until_running(house.nersc, STAGE)
        going = await house.until_state(refdata_id, "nersc", S.DOWNLOAD_SUBMITTED)
    assert (going.round, going.cleaning, going.cleaned) == (1, False, False)


@pytest.mark.parametrize(("moves", "recovered"), [(2, True), (3, False)])
async def test_a_recovery_is_tried_three_times(quick_refdata: RefdataHouse, moves: int, recovered: bool) -> None:
    house = quick_refdata
    refdata_id = await in_error(house)
    real = house.stagings.transition

    async def move() -> None:
        await real(await house.at(refdata_id, "nersc"), StagingTransition(S.DOWNLOAD_SUBMITTED, START))

    before_call(house.stagings, "transition", move, times=moves)
    if recovered:
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
    else:
        with pytest.raises(InvalidRefdataStateError, match="has just changed at nersc"):
            await house.refdata.recover(ADMIN, refdata_id, "nersc")
    staging = await house.at(refdata_id, "nersc")
    assert (staging.state is S.CREATED, staging.round) == (recovered, int(recovered))
