"""Reference data whose staging fails: tried again, and for how long."""

from __future__ import annotations

import pytest

from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.sites.refdata import REMOVE, STAGE
from cdmtaskservice.sites.tasks import TaskStatus
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import (
    ADMIN,
    DONE,
    GOOD,
    RefdataHouse,
    S,
    failed,
    seconds,
    states,
)

pytestmark = pytest.mark.usefixtures("quiet")


PROGRESS = {"phase": "downloading", "bytes_done": 100, "bytes_total": 1000, "files_done": 2, "bytes_unpacked": 50}


async def test_a_failure_that_can_pass_is_tried_again_after_longer_and_longer_pauses(
    refdata_house: RefdataHouse,
) -> None:
    house = refdata_house
    house.nersc.outcomes[STAGE] = [failed("S3 is away", "later", f"why {n}") for n in range(10)]
    refdata_id = await house.registered("nersc")
    begun = []
    async with house.reconciling():
        for count in range(1, 4):
            why = f"S3 is away why {count - 1}"
            waiting = await house.until_true(refdata_id, "nersc", lambda s, why=why: s.waiting == why)
            assert (waiting.state, waiting.error) == (S.DOWNLOAD_SUBMITTED, None)
            assert Flow.of(waiting).failures == count
            begun.append(Flow.of(waiting).begun / 1000)
        ended = await house.until_state(refdata_id, "nersc", S.ERROR)
    assert (ended.error, ended.admin_error) == ("S3 is away", "why 3")
    assert states(ended) == [S.CREATED, S.DOWNLOAD_SUBMITTED, S.ERROR]
    assert len(house.nersc.begun) == len({n for n, _ in house.nersc.begun}) == 4  # most_failures
    assert begun[1] - begun[0] >= 5
    assert begun[2] - begun[1] >= 10


async def test_what_is_lost_without_a_word_again_and_again_ends_in_error(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes[STAGE] = [TaskStatus(lost="it is gone", crashed=True)] * 10
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        ended = await house.until_state(refdata_id, "nersc", S.ERROR)
    assert "without a word" in (ended.error or "")
    assert ended.admin_error == "it is gone"
    assert len(house.nersc.begun) == 4


async def test_after_a_failure_that_passed_nothing_is_said_of_it(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes[STAGE] = [failed("S3 is away", "later"), DONE]
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert (staged.error, staged.admin_error, staged.waiting) == (None, None, None)


async def test_a_failure_that_will_not_pass_is_an_error_at_once(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.outcomes[STAGE] = [failed("it has changed", None, "checksum mismatch")]
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        ended = await house.until_state(refdata_id, "nersc", S.ERROR)
    assert (ended.error, ended.admin_error, ended.cleaned) == ("it has changed", "checksum mismatch", False)
    assert len(house.nersc.begun) == 1


async def test_an_outage_ends_nothing(refdata_house: RefdataHouse) -> None:
    house = refdata_house
    house.nersc.down = "NERSC is being maintained"
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.failures > 5)
        assert (waiting.state, waiting.waiting) == (S.CREATED, "NERSC is being maintained")
        house.nersc.down = None
        await house.until_true(refdata_id, "nersc", lambda s: s.state is S.DOWNLOAD_SUBMITTED and not s.failures)
        house.nersc.unreachable = "no answer"
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.failures > 5)
        assert waiting.waiting == "no answer"
        house.nersc.unreachable = None
        house.nersc.end(DONE)
        staged = await house.until_state(refdata_id, "nersc", S.COMPLETE)
    assert states(staged) == GOOD
    assert len(house.nersc.begun) == 1


async def test_failures_do_not_count_while_the_file_comes_nearer(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        for count in range(1, 9):
            name = await house.until_running(house.nersc, STAGE, count)
            told = {**PROGRESS, "bytes_done": 100 * count, "time": count}
            house.nersc.tasks[name] = TaskStatus(running=True, progress=told)
            await house.until_true(refdata_id, "nersc", lambda s, c=count: s.progress and s.progress.done == 100 * c)
            house.nersc.tasks[name] = failed("S3 is away", "later")
        house.nersc.outcomes[STAGE] = [failed("S3 is away", "later")] * 9
        await house.until_state(refdata_id, "nersc", S.ERROR)
    assert len(house.nersc.begun) == 12  # the last that brought something is followed by as many as may fail


async def test_a_file_that_comes_and_goes_ends_in_error(quick_refdata: RefdataHouse) -> None:
    """As where nothing is kept from one try to the next: each brings less or more than the one before."""
    house = quick_refdata
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        for count, done in enumerate([500, 100, 400, 200], 1):
            name = await house.until_running(house.nersc, STAGE, count)
            house.nersc.tasks[name] = TaskStatus(running=True, progress={**PROGRESS, "bytes_done": done, "time": count})
            await house.until_true(refdata_id, "nersc", lambda s, d=done: s.progress and s.progress.done == d)
            house.nersc.tasks[name] = failed("it has broken off", "later")
        await house.until_state(refdata_id, "nersc", S.ERROR)
    assert len(house.nersc.begun) == 4  # most_failures


async def test_what_another_process_stages_is_waited_for_as_long_as_it_takes(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes[STAGE] = [failed("S3 is away", "later"), *[failed("another stages it", "held")] * 12, DONE]
    house.pace = 4.0
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        waiting = await house.until_true(refdata_id, "nersc", lambda s: s.waiting == "another stages it")
        assert (waiting.state, Flow.of(waiting).failures) == (S.DOWNLOAD_SUBMITTED, 1)
        assert states(await house.until_state(refdata_id, "nersc", S.COMPLETE)) == GOOD
    assert len(house.nersc.begun) == 14
    assert house.clock() >= START + seconds(12 * 20)


async def test_what_is_in_use_is_removed_once_it_is_not(quick_refdata: RefdataHouse) -> None:
    house = quick_refdata
    house.nersc.outcomes = {STAGE: [failed("no", None)], REMOVE: [*[failed("in use", "held")] * 6, DONE]}
    refdata_id = await house.registered("nersc")
    async with house.reconciling():
        await house.until_state(refdata_id, "nersc", S.ERROR)
        await house.refdata.clean(ADMIN, refdata_id, "nersc", force=False)
        await house.until_true(refdata_id, "nersc", lambda s: s.waiting == "in use")
        await house.until_true(refdata_id, "nersc", lambda s: s.cleaned and s.next_look is None)
    assert [kind for _, kind in house.nersc.begun] == [STAGE, *[REMOVE] * 7]
