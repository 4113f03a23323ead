"""Reference data that a service brings: it comes for work, gives signs of life, and tells how it ended."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from cdmtaskservice.domain.errors import (
    IllegalParameterError,
    InvalidRefdataStateError,
    NoSuchRefdataError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.reconciler.loop import Wait
from cdmtaskservice.reconciler.refdata_errands import NOBODY
from cdmtaskservice.store.looks import Lease
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import ADMIN, CRC, FILE, GOOD, ROOT, RefdataHouse, S, seconds, states

pytestmark = pytest.mark.usefixtures("quiet")


async def bare_update(house: RefdataHouse, refdata_id: str, state: S = S.COMPLETE, **said: str) -> None:
    """The update of a service that knows no more than the contract."""
    await house.desk.update(refdata_id, "here", state, RefdataUpdate.model_validate(said))


# Work


async def test_from_created_to_complete(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "here", lambda s: s.waiting)
        assert (waiting.state, waiting.waiting) == (S.DOWNLOAD_SUBMITTED, NOBODY)
        order = await house.until_work()
        assert (order["refdata_id"], order["kind"]) == (refdata_id, "refdata")
        plan = order["plan"]
        assert (plan["root"], plan["id"], plan["file"], plan["crc64nvme"]) == (ROOT, refdata_id, FILE, CRC)
        assert plan["url"] == f"https://s3-of-here/{FILE}?expires=3600"
        assert not await house.beat(order, done=100)
        house.clock.advance(10)
        assert not await house.beat(order, done=300)
        going = await house.at(refdata_id, "here")
        assert going.progress is not None
        # Half of it is what came before, since it was begun.
        assert going.progress.rate >= (200 / 10) / 2
        assert (going.progress.done, going.state) == (300, S.DOWNLOAD_SUBMITTED)
        await house.report(order, files=7, bytes=900)
        staged = await house.until_state(refdata_id, "here", S.COMPLETE)
    assert states(staged) == GOOD
    assert (staged.files, staged.unpacked, staged.waiting, staged.cleaned) == (7, 900, None, True)
    assert await house.work() == []
    assert house.looked_for.count(f"{refdata_id}@here") >= 3  # registered, taken, over


async def test_who_has_taken_something_is_given_it_again_and_others_are_not(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    await house.registered("here")
    async with house.reconciling():
        order = await house.until_work("mine")
        assert await house.work("yours") == []
        assert await house.work("mine", room=0) == [order]
        assert await house.work("mine") == [order]
        name = f"{order['refdata_id']}@here"
        assert not await house.stagings.claim_errand(name, order["task"], "yours", house.clock())


async def test_work_is_given_as_there_is_room(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    ids = {await house.registered("here", file=f"cts-data/{n}.gz") for n in range(3)}
    async with house.reconciling():

        async def all_asked() -> bool:
            return len(await house.stagings.open_errands("here", 10)) == 3

        await house.until(all_asked)
        assert await house.work("mine", room=0) == []
        first = await house.work("mine", room=2)
        assert len(first) == 2
        [last] = await house.work("yours", room=2)
        assert {o["refdata_id"] for o in (*first, last)} == ids


async def test_what_many_come_for_at_once_is_given_to_one(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    await house.registered("here")
    async with house.reconciling():
        await house.until_true("ref-1", "here", lambda s: s.errand)
    told = await asyncio.gather(*(house.work(f"c{n}") for n in range(6)))
    assert sorted(len(orders) for orders in told) == [0] * 5 + [1]


async def test_sites_without_a_service_and_data_that_is_not_there(quick_refdata: RefdataHouse) -> None:
    desk = quick_refdata.desk
    beat = RefdataProgress(task="t", claim="c")
    for call in (
        desk.work("nersc", RefdataWorkRequest(claim="c", root="/x")),
        desk.progress("r", "nersc", beat),
        desk.update("r", "nowhere", S.COMPLETE, RefdataUpdate()),
    ):
        with pytest.raises(UnsupportedOperationError, match="no reference data service; those that have one are here"):
            await call
    with pytest.raises(NoSuchRefdataError, match="'r' at the site here"):
        await desk.update("r", "here", S.COMPLETE, RefdataUpdate())
    assert await desk.progress("r", "here", beat) == {"stop": True}
    refdata_id = await quick_refdata.registered("nersc")
    with pytest.raises(NoSuchRefdataError):
        await desk.update(refdata_id, "here", S.COMPLETE, RefdataUpdate())


# Silence


async def test_what_a_silent_service_had_is_begun_again_under_another_name(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        old = await house.until_work("old")
        again = await house.until_work("new")
        assert again["task"] != old["task"]
        assert await house.beat(old, "old")
        with pytest.raises(InvalidRefdataStateError, match="not under way"):
            await house.report(old, claim="old")
        with pytest.raises(InvalidRefdataStateError):
            await house.report(again, claim="old")
        assert (await house.at(refdata_id, "here")).state is S.DOWNLOAD_SUBMITTED
        assert not await house.beat(again, "new")
        await house.report(again, claim="new")
        assert states(await house.until_state(refdata_id, "here", S.COMPLETE)) == GOOD
    assert house.clock() > START + seconds(60)


async def test_signs_of_life_keep_a_task(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    house.pace = 5.0
    async with house.reconciling():
        order = await house.until_work()
        end = house.clock() + seconds(300)

        async def later() -> bool:
            assert not await house.beat(order)
            return house.clock() > end

        await house.until(later)
        assert [o["task"] for o in await house.work()] == [order["task"]]
        assert (await house.at(refdata_id, "here")).failures == 0


async def test_silence_counts_from_when_the_service_could_be_reached(quick_refdata: RefdataHouse) -> None:
    """After an outage of this service all reference data services have been silent for as long as it took."""
    house = quick_refdata
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
    house.reconciler = None
    house.clock.advance(1000)
    staging = await house.at(refdata_id, "here")
    step = house.step()
    told = await step.look(staging, full=True, reachable_since=house.clock() - seconds(59))
    assert isinstance(told, Wait)
    assert told.why == "the reference data service was last heard of 59 s ago"
    assert (await house.at(refdata_id, "here")).flow == staging.flow
    told = await step.look(staging, full=True, reachable_since=house.clock() - seconds(61))
    assert isinstance(told, Wait)
    assert "not heard of for 61 s" in (told.why or "")
    assert order["task"] in str(staging.errand)


async def test_a_task_that_nobody_takes_waits_for_ever(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("here")
    house.pace = 1000.0
    async with house.reconciling(lease=1e9):
        first = await house.until_true(refdata_id, "here", lambda s: s.waiting == NOBODY)
        end = house.clock() + seconds(100_000)

        async def later() -> bool:
            return house.clock() > end

        await house.until(later)
        assert (await house.at(refdata_id, "here")).errand == first.errand


# Reports


async def test_a_report_may_come_again(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
        for _ in range(3):
            await house.report(order, files=1, bytes=2)
        staged = await house.until_state(refdata_id, "here", S.COMPLETE)
        await house.report(order, files=1, bytes=2)
        assert await house.at(refdata_id, "here") == staged


async def test_a_failure_that_can_pass_is_tried_again(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
        await house.report(order, S.ERROR, error="S3 is away", admin_error="refused", again="later")
        waiting = await house.until_true(refdata_id, "here", lambda s: s.waiting == "S3 is away refused")
        assert (waiting.state, waiting.error) == (S.DOWNLOAD_SUBMITTED, None)
        again = await house.until_work()
        assert again["task"] != order["task"]
        await house.report(again)
        assert states(await house.until_state(refdata_id, "here", S.COMPLETE)) == GOOD


async def test_a_failure_that_will_not_pass_is_told_whole(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
        await house.report(order, S.ERROR, error="it has changed", admin_error="sums", traceback="Traceback …")
        ended = await house.until_state(refdata_id, "here", S.ERROR)
    assert (ended.error, ended.admin_error, ended.traceback) == ("it has changed", "sums", "Traceback …")


async def test_crashes_are_counted(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("here")
    tasks = set()
    async with house.reconciling():
        for _ in range(4):
            order = await house.until_work()
            tasks.add(order["task"])
            await house.report(order, S.ERROR, error="exit code -9", crashed=True)
        ended = await house.until_state(refdata_id, "here", S.ERROR)
    assert (len(tasks), ended.admin_error) == (4, "exit code -9")
    assert "without a word" in (ended.error or "")


@pytest.mark.parametrize("state", [S.COMPLETE, S.ERROR])
async def test_the_contracts_update_means_the_staging_under_way(refdata_house: RefdataHouse, state: S) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    with pytest.raises(InvalidRefdataStateError, match="state created"):
        await bare_update(house, refdata_id)
    async with house.reconciling():
        await house.until_true(refdata_id, "here", lambda s: s.errand and s.state is S.DOWNLOAD_SUBMITTED)
        await bare_update(house, refdata_id, S.DOWNLOAD_SUBMITTED)
        assert (await house.at(refdata_id, "here")).state is S.DOWNLOAD_SUBMITTED
        with pytest.raises(IllegalParameterError, match="state: "):
            await bare_update(house, refdata_id, S.CREATED)
        said = {"admin_error": "in full", "traceback": "Traceback …"} if state is S.ERROR else {}
        await bare_update(house, refdata_id, state, **said)
        await bare_update(house, refdata_id, state, **said)
        ended = await house.until_state(refdata_id, "here", state)
        await bare_update(house, refdata_id, state)
        with pytest.raises(InvalidRefdataStateError, match="over"):
            await bare_update(house, refdata_id, S.ERROR if state is S.COMPLETE else S.COMPLETE)
    assert states(ended) == [S.CREATED, S.DOWNLOAD_SUBMITTED, state]
    if state is S.ERROR:
        assert (ended.admin_error, ended.traceback) == ("in full", "Traceback …")
        assert "an administrator can see why" in (ended.error or "")


async def test_wrong_claims_change_nothing(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work("mine")
        before = await house.at(refdata_id, "here")
        assert await house.beat(order, "yours")
        assert await house.beat({**order, "task": "other"}, "mine")
        for wrong in ({"claim": "yours"}, {"order": {**order, "task": "other"}, "claim": "mine"}):
            with pytest.raises(InvalidRefdataStateError):
                await house.report(**{"order": order, **wrong})  # type: ignore[arg-type]
        after = await house.at(refdata_id, "here")
        assert (after.errand, after.state) == (before.errand, before.state)


# What is not wanted any more


async def test_who_does_what_is_not_wanted_any_more_is_told_to_stop(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
        await house.until_true(refdata_id, "here", lambda s: s.waiting is None)
        await house.refdata.recover(ADMIN, refdata_id, "here")
        await house.until_true(refdata_id, "here", lambda s: s.errand and s.errand.unwanted)
        assert await house.beat(order)
        assert await house.work() == []  # neither the old one, nor the next before the old one has ended
        await house.report(order, S.ERROR, error="it was stopped", again="later")
        again = await house.until_work()
        assert again["task"] not in {order["task"]}
        await house.report(again)
        ended = await house.until_state(refdata_id, "here", S.COMPLETE)
    assert states(ended) == [*GOOD[:2], *GOOD]


async def test_what_nobody_has_taken_is_withdrawn_at_once(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "here", lambda s: s.waiting == NOBODY)
        await house.refdata.recover(ADMIN, refdata_id, "here")
        await house.until_true(refdata_id, "here", lambda s: s.errand != waiting.errand and s.waiting == NOBODY)
        order = await house.until_work()
        assert waiting.errand is not None
        assert order["task"] != waiting.errand.task


async def test_a_service_that_never_says_that_it_has_stopped(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work("old")
        await house.until_true(refdata_id, "here", lambda s: s.waiting is None)
        await house.refdata.recover(ADMIN, refdata_id, "here")
        again = await house.until_work("new")
        assert again["task"] != order["task"]
    assert house.clock() > START + seconds(60)


async def test_cleaning_and_removing_are_tasks_too(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    leftovers = {"root": f"{ROOT}/.cts/incoming", "name": refdata_id, "lock": True}
    async with house.reconciling():
        await house.until_true(refdata_id, "here", lambda s: s.errand and s.state is S.DOWNLOAD_SUBMITTED)
        await house.refdata.clean(ADMIN, refdata_id, "here", force=True)
        await house.until_true(refdata_id, "here", lambda s: s.errand and s.errand.kind == "remove")
        order = await house.until_work()
        assert (order["kind"], order["plan"]) == ("remove", {"trees": [leftovers], "expired": []})
        with pytest.raises(InvalidRefdataStateError, match="not being staged"):
            await bare_update(house, refdata_id)
        await house.report(order)
        await house.until_true(refdata_id, "here", lambda s: s.cleaned and s.next_look is None)
        await house.refdata.retire(ADMIN, refdata_id)
        order = await house.until_work()
        assert order["plan"]["trees"] == [leftovers, {"root": ROOT, "name": refdata_id}]
        # It never was complete, so nothing needs to be known of it there.
        manifest = {"root": f"{ROOT}/.cts/manifests", "name": refdata_id, "required": False}
        assert order["plan"]["manifests"] == [manifest]
        await house.report(order)
        await house.until_true(refdata_id, "here", lambda s: s.removed_on and s.next_look is None)


async def test_what_passed_leaves_no_words(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("here")
    async with house.reconciling():
        order = await house.until_work()
        await house.report(order, S.ERROR, error="e", admin_error="a", traceback="Traceback …", again="later")
        await house.stagings.set_fields(f"{refdata_id}@here", {"admin_error": "a"})
        await house.report(await house.until_work())
        staged = await house.until_state(refdata_id, "here", S.COMPLETE)
    assert (staged.error, staged.admin_error, staged.traceback) == (None, None, None)


async def test_a_task_that_is_given_up_is_nobodys(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    async with house.reconciling(step=house.step(most_failures=1)):
        order = await house.until_work("slow")
        ended = await house.until_state(refdata_id, "here", S.ERROR)  # it was silent for too long
        assert await house.stagings.open_errands("here", 10) == []
        for claim in ("slow", "other"):
            assert await house.work(claim) == []
            assert await house.beat(order, claim)
        for state in (S.COMPLETE, S.ERROR):
            await house.report(order, state, claim="slow", **({"error": "e"} if state is S.ERROR else {}))
        assert await house.at(refdata_id, "here") == ended
        await house.refdata.recover(ADMIN, refdata_id, "here")
        again = await house.until_work("other")
        assert again["task"] != order["task"]


# Several processes


async def test_two_services_and_two_stagers_on_one_database(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    ids = [await house.registered("here", file=f"cts-data/{n}.gz") for n in range(4)]
    given: list[str] = []
    async with AsyncExitStack() as stack:
        for owner in ("p1", "p2"):
            await stack.enter_async_context(house.reconciling(owner, step=house.step()))

        async def all_done() -> bool:
            for claim in ("a", "b"):
                for order in await house.work(claim):
                    given.append(f"{order['refdata_id']}/{order['task']}")
                    await house.report(order, claim=claim)
            return all([(await house.at(i, "here")).state is S.COMPLETE for i in ids])

        await house.until(all_done)
    assert len(given) == len(set(given)) == 4
    for refdata_id in ids:
        assert states(await house.at(refdata_id, "here")) == GOOD


async def test_a_process_that_dies_in_a_look_leaves_it_to_another(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    refdata_id = await house.registered("here")
    lease = Lease("dead", house.clock() + seconds(30))
    assert await house.stagings.lease(f"{refdata_id}@here", lease, house.clock())
    async with house.reconciling("alive"):
        await house.until_work()
    assert house.clock() >= START + seconds(30)
