"""Reference data at sites: what is left of a staging is cleaned up, and what is retired is removed."""

from __future__ import annotations

import pytest

from cdmtaskservice.sites.refdata import COPY, REMOVE, STAGE
from test.stand_ins.refdata_house import (
    ADMIN,
    DONE,
    GOOD,
    RefdataHouse,
    S,
    failed,
    states,
)

pytestmark = pytest.mark.usefixtures("quiet")


# Cleaned


async def test_cleaning_after_an_error_removes_leftovers_only(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes = {STAGE: [failed("no", None)], REMOVE: [DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
        cleaned = await house.until_true(refdata_id, "nersc", lambda s: s.cleaned and s.next_look is None)
    assert (cleaned.state, cleaned.cleaning, cleaned.error) == (S.ERROR, False, "no")
    assert [kind for _, kind in house.nersc.begun] == [STAGE, REMOVE]
    assert house.nersc.plans[house.nersc.begun[1][0]] == {
        "trees": [{"root": "/dtn/ref/cts/.cts/incoming", "name": refdata_id, "lock": True}],
        "expired": [],
    }
    before = len(house.nersc.begun)
    await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
    assert (await house.at(refdata_id, "nersc")).cleaning is False
    assert len(house.nersc.begun) == before


async def test_forced_cleaning_stops_the_staging(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes = {REMOVE: [DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        await house.until_state(refdata_id, "nersc", S.DOWNLOAD_SUBMITTED)
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=True)
        cleaned = await house.until_true(refdata_id, "nersc", lambda s: s.cleaned and s.next_look is None)
        assert (cleaned.state, cleaned.error) == (S.ERROR, "an administrator has stopped it, to clean up")
        assert house.nersc.stopped == [name]
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        await house.until_running(house.nersc, STAGE, 2)
        assert (await house.at(refdata_id, "nersc")).cleaned is False


async def test_cleaning_that_fails_is_tried_again_and_says_why(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {STAGE: [failed("no", None)], REMOVE: [failed("not mine", None, "it is a link"), DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.waiting == "it is a link")
        assert (waiting.state, waiting.error, waiting.cleaned) == (S.ERROR, "no", False)
        cleaned = await house.until_true(refdata_id, "nersc", lambda s: s.cleaned and s.next_look is None)
    assert states(cleaned) == [S.CREATED, S.DOWNLOAD_SUBMITTED, S.ERROR]


async def test_a_recovery_while_it_is_cleaned_goes_before(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {STAGE: [failed("no", None)]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
        removing = await house.until_running(house.nersc, REMOVE)
        await house.refdata.recover(ADMIN, refdata_id, "nersc")
        await house.until_running(house.nersc, STAGE, 2)
        assert house.nersc.stopped == [removing]


# Removed


async def test_what_is_retired_is_removed_everywhere(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    for place in (house.nersc, house.far):
        place.outcomes = {STAGE: [DONE], COPY: [DONE, DONE], REMOVE: [DONE]}
    refdata_id = await house.registered("nersc", "far")
    async with house.reconciling():
        for site in ("nersc", "far"):
            await house.until_state(refdata_id, site, S.COMPLETE)
        await house.refdata.retire(ADMIN, refdata_id)
        for site in ("nersc", "far"):
            gone = await house.until_true(refdata_id, site, lambda s: s.removed_on and s.next_look is None)
            assert (states(gone), gone.cleaned) == (GOOD, True)
    assert [kind for _, kind in house.nersc.begun] == [STAGE, REMOVE]
    assert [kind for _, kind in house.far.begun] == [STAGE, COPY, REMOVE, COPY]
    plan = house.nersc.plans[house.nersc.begun[1][0]]
    assert plan["trees"][1] == {"root": "/dtn/ref/cts", "name": refdata_id}
    assert plan["manifests"] == [{"root": "/dtn/ref/cts/.cts/manifests", "name": refdata_id, "required": True}]


async def test_retiring_stops_what_is_still_being_staged(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes = {REMOVE: [DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        name = await house.until_running(house.nersc, STAGE)
        await house.refdata.retire(ADMIN, refdata_id)
        gone = await house.until_true(refdata_id, "nersc", lambda s: s.removed_on and s.next_look is None)
    assert house.nersc.stopped == [name]
    assert (gone.state, gone.error) == (S.ERROR, "it was retired before it was staged")


async def test_a_removal_that_jaws_does_not_copy_is_told_to_administrators(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.far.outcomes = {STAGE: [DONE], COPY: [DONE, failed("no", None, "there is no such directory")], REMOVE: [DONE]}
    refdata_id = await house.registered("far")
    async with house.reconciling():
        await house.until_state(refdata_id, "far", S.COMPLETE)
        await house.refdata.retire(ADMIN, refdata_id)
        gone = await house.until_true(refdata_id, "far", lambda s: s.removed_on)
    assert gone.state is S.COMPLETE
    assert "there is no such directory" in (gone.admin_error or "")


async def test_a_removal_that_fails_is_tried_again(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {STAGE: [DONE], REMOVE: [failed("no", None, "it is a link"), DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.COMPLETE)
        await house.refdata.retire(ADMIN, refdata_id)
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.waiting)
        assert (waiting.waiting, waiting.removed_on, waiting.state) == ("it is a link", None, S.COMPLETE)
        await house.until_true(refdata_id, "nersc", lambda s: s.removed_on)
