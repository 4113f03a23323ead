"""Reference data at several sites: brought to one place for all of them, and copied from there."""

from __future__ import annotations

import pytest

from cdmtaskservice.reconciler.loop import Wait
from cdmtaskservice.sites.refdata import COPY, REMOVE, STAGE
from cdmtaskservice.sites.tasks import TaskStatus
from test.stand_ins.clockwork import START
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


# Copied


async def test_a_copy_waits_for_the_data_at_nersc_and_follows_its_staging(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("nersc", "far")
    async with house.reconciling():
        await house.until_running(house.nersc, STAGE)
        waiting = await house.until_true(refdata_id, "far", lambda s: s.waiting)
        assert (waiting.state, waiting.waiting) == (
            S.CREATED,
            "it waits for the data at NERSC, which is staged for nersc",
        )
        assert house.far.begun == []
        house.nersc.end(DONE)
        await house.until_running(house.far, STAGE)
        house.far.end(DONE)
        name = await house.until_running(house.far, COPY)
        assert (await house.at(refdata_id, "far")).state is S.DOWNLOAD_SUBMITTED
        assert house.far.plans[name]["id"] == refdata_id
        house.far.end(TaskStatus(result={"result": "succeeded"}))
        copied = await house.until_state(refdata_id, "far", S.COMPLETE)
    assert states(copied) == GOOD
    assert (copied.files, copied.unpacked) == (5, 4000)
    assert [kind for _, kind in house.far.begun] == [STAGE, COPY]
    assert [kind for _, kind in house.nersc.begun] == [STAGE]


async def test_a_copy_does_not_wait_for_what_failed_at_nersc(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {STAGE: [failed("no", None)]}
    refdata_id = await house.registered("nersc", "far")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.until_running(house.far, STAGE)


async def test_a_copy_that_fails_is_asked_for_again_under_another_name(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.far.outcomes = {STAGE: [DONE], COPY: [failed("not copied", "later"), DONE]}
    refdata_id = await house.registered("far")
    async with house.reconciling():
        assert states(await house.until_state(refdata_id, "far", S.COMPLETE)) == GOOD
    assert [kind for _, kind in house.far.begun] == [STAGE, COPY, COPY]
    assert len({name for name, _ in house.far.begun}) == 3


async def test_a_copy_of_which_nothing_is_heard_is_asked_for_again(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.far.outcomes = {STAGE: [DONE]}
    refdata_id = await house.registered("far")
    async with house.reconciling(lease=1e9):
        await house.until_running(house.far, COPY)
        house.clock.advance(86400 - 1000)
        await house.until_true(refdata_id, "far", lambda s: s.next_look and s.next_look > house.clock())
        assert len(house.far.running()) == 1
        house.clock.advance(1001)
        second = await house.until_running(house.far, COPY, 2)
        house.far.tasks[second] = DONE
        await house.until_state(refdata_id, "far", S.COMPLETE)


async def test_a_copy_that_always_fails_ends_in_error_and_recovers(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.far.outcomes = {STAGE: [DONE] * 2, COPY: [failed("not copied", "later", "JAWS says no")] * 4}
    refdata_id = await house.registered("far")
    async with house.reconciling():
        ended = await house.until_state(refdata_id, "far", S.ERROR)
        assert (ended.error, ended.admin_error) == ("not copied", "JAWS says no")
        house.far.outcomes[COPY] = [DONE]
        await house.refdata.recover(ADMIN, refdata_id, "far")
        await house.until_state(refdata_id, "far", S.COMPLETE)


# Several sites at one place


@pytest.mark.parametrize(("first", "second"), [("nersc", "nersc2"), ("far", "far2"), ("nersc2", "far")])
async def test_of_sites_at_one_place_one_after_the_other_stages(
    refdata_house: RefdataHouse, first: str, second: str
) -> None:
    house = refdata_house
    one, two = house.places[first], house.places[second]
    refdata_id = await house.registered(second, first)
    async with house.reconciling():
        await house.until_running(one, STAGE)
        waiting = await house.until_true(refdata_id, second, lambda s: s.waiting)
        assert (waiting.state, waiting.waiting) == (
            S.CREATED,
            f"it waits for the data at NERSC, which is staged for {first}",
        )
        assert two.begun == []
        for site, place in ((first, one), (second, two)):
            await house.until_running(place, STAGE)
            place.end(DONE)
            if place.copies:
                await house.until_running(place, COPY)
                place.end(DONE)
            assert states(await house.until_state(refdata_id, site, S.COMPLETE)) == GOOD


@pytest.mark.parametrize(("first", "second"), [("nersc", "nersc2"), ("far", "far2"), ("nersc", "far")])
async def test_a_recovery_waits_for_the_other_that_has_begun(
    refdata_house: RefdataHouse, first: str, second: str
) -> None:
    """Though it would come first, if both were to begin."""
    house = refdata_house
    one, two = house.places[first], house.places[second]
    one.outcomes[STAGE] = [failed("no", None)]
    refdata_id = await house.registered(first, second)
    house.keeping += ["nersc2", "far2"]
    async with house.reconciling():
        await house.until_state(refdata_id, first, S.ERROR)
        await house.until_running(two, STAGE)
        await house.until_state(refdata_id, second, S.DOWNLOAD_SUBMITTED)
        await house.refdata.recover(ADMIN, refdata_id, first)
        waiting = await house.until_true(refdata_id, first, lambda s: s.round and s.waiting)
        assert f"staged for {second}" in (waiting.waiting or "")
        assert len(one.begun) == 1
        two.end(DONE)
        await house.until_running(one, STAGE, 2)


async def test_sites_at_two_places_do_not_wait_for_each_other(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.places["nersc2"].directory = "/elsewhere"
    await house.registered("nersc", "nersc2")
    async with house.reconciling():
        await house.until_running(house.nersc, STAGE)
        await house.until_running(house.places["nersc2"], STAGE)


async def test_nobody_waits_for_a_site_that_is_not_in_the_settings_any_more(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("nersc", "nersc2")
    del house.places["nersc"]
    async with house.reconciling():
        await house.until_running(house.places["nersc2"], STAGE)
        assert (await house.at(refdata_id, "nersc")).state is S.CREATED


async def test_a_removal_is_copied_once_the_data_is_removed_for_all(refdata_house: RefdataHouse) -> None:
    """What JAWS copies is what is there then."""
    house = refdata_house
    refdata_id = await house.staged("nersc", "nersc2", "far", "here")
    house.far.outcomes = {REMOVE: [DONE], COPY: [DONE]}
    await house.refdata.retire(ADMIN, refdata_id)
    async with house.reconciling():
        for site in ("nersc", "nersc2"):
            await house.until_running(house.places[site], REMOVE)
        for site in ("nersc", "nersc2"):
            said = f"it waits until the data is removed at NERSC, for {site}"
            await house.until_true(refdata_id, "far", lambda s, said=said: s.waiting == said)
            assert house.far.begun == []
            house.places[site].end(DONE)
        await house.until_true(refdata_id, "far", lambda s: s.removed_on)
    assert [kind for _, kind in house.far.begun] == [REMOVE, COPY]


async def test_a_removal_does_not_wait_for_another_place(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.directory = "/elsewhere"
    refdata_id = await house.staged("nersc", "far")
    await house.refdata.retire(ADMIN, refdata_id)
    async with house.reconciling():
        await house.until_running(house.far, REMOVE)


# Sites that are not in the settings any more


async def test_a_site_that_is_not_in_the_settings_any_more(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("bare")
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "bare", lambda s: s.waiting)
    assert "bare has no room for reference data in the settings any more" in (waiting.waiting or "")
    assert waiting.state is S.CREATED


@pytest.mark.parametrize("wanted", ["its data", "cleaning", "retired"])
async def test_whatever_is_wanted_there_waits_until_it_is_again(quick_refdata: RefdataHouse, wanted: str) -> None:
    house = quick_refdata
    refdata_id = await house.registered("bare")
    if wanted == "cleaning":
        assert await house.stagings.want_cleaning(await house.at(refdata_id, "bare"))
    elif wanted == "retired":
        await house.refdata.retire(ADMIN, refdata_id)
    told = await house.step().look(await house.at(refdata_id, "bare"), full=True, reachable_since=START)
    assert isinstance(told, Wait)
    assert (told.delay, told.why) == (
        300.0,
        "the site bare has no room for reference data in the settings any more",
    )
