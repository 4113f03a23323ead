"""Jobs on their ways, and cancelled on them, on fake engines, with a clock in the test's hand."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.reconciler.loop import Done
from cdmtaskservice.sites.base import Run
from cdmtaskservice.store.looks import Lease
from test.stand_ins.clockwork import START
from test.stand_ins.fake_site import nothing
from test.stand_ins.job_house import BAD, GOOD, JobHouse, R, states

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


async def test_a_job_goes_all_the_way(house):
    async with house.reconciling():
        await house.submitted(containers=3)
        await asyncio.gather(*(house.finish(Run("j", n, 1)) for n in range(3)))
        job = await house.until_state(S.COMPLETE)
        await house.until_settled()
    assert states(job) == [S.CREATED, *GOOD]
    assert [t.time for t in job.transitions] == sorted(t.time for t in job.transitions)
    assert len({t.trans_id for t in job.transitions}) == len(job.transitions)
    assert (job.output_file_count, job.error, job.waiting) == (3, None, None)
    assert job.cpu_hours == pytest.approx(9 / 3600)
    assert job.cpu_factor == pytest.approx(9 / (2 * 18))
    assert job.max_memory == 1002
    assert (await house.files.outputs("j")).files == ["data/out/0-0", "data/out/1-0", "data/out/2-0"]
    assert set(house.site.starts.values()) == {1}
    assert house.site.released == ["j"]
    request = house.site.requests[Run("j", 1, 1)]
    assert (request.user, request.cpus, request.memory, request.runtime, request.gpus) == (
        "ann",
        2,
        10_000_000,
        60.0,
        0,
    )


async def test_without_a_single_hint_the_looks_come_by_themselves(quick):
    async with quick.reconciling():
        await quick.submitted()
        await quick.finish(R, hint=False)
        await quick.until_state(S.COMPLETE)


async def test_one_failed_container_takes_the_job_down_the_error_branch(house):
    async with house.reconciling():
        await house.submitted(containers=2)
        await house.finish(Run("j", 0, 1))
        await house.finish(Run("j", 1, 1), BAD)
        job = await house.until_state(S.ERROR)
    assert states(job) == [S.CREATED, *BAD]
    assert job.error == "1 of 2 containers failed; container 1: it ended with exit code 3"
    assert job.admin_error == "container 1: in full"
    assert job.output_file_count == 1  # what the other one made is there
    assert await house.containers.exit_codes("j") == [0, 3]


async def test_all_containers_failing_at_the_download_end_the_job(quick):
    async with quick.reconciling():
        await quick.submitted(containers=3)
        for n in range(3):
            await quick.finish(Run("j", n, 1), [S.DOWNLOAD_SUBMITTED, S.ERROR])
        job = await quick.until_state(S.ERROR)
    assert job.error.startswith("3 of 3 containers failed; container 0: ")
    assert states(job)[:2] == [S.CREATED, S.DOWNLOAD_SUBMITTED]
    assert states(job)[-1] is S.ERROR


async def test_a_job_without_outputs_is_an_error_that_says_so(quick):
    async with quick.reconciling():
        await quick.submitted(containers=2)
        for n in range(2):
            await quick.finish(Run("j", n, 1), outputs=0)
        job = await quick.until_state(S.ERROR)
    assert "No container wrote an output file below /output_files" in job.error
    assert states(job)[-2:] == [S.UPLOAD_SUBMITTED, S.ERROR]
    assert job.output_file_count == 0


# Cancelling


async def cancel(house: JobHouse, job_id: str = "j") -> None:
    outcome, _ = await house.jobs.transition(job_id, Transition(S.CANCELING, house.clock(), f"c-{job_id}"))
    assert outcome is Outcome.APPLIED
    house.reconciler.hint(job_id, full=True)


async def test_cancelling_a_queued_job(quick):
    async with quick.reconciling():
        await quick.submitted(containers=2)
        await quick.until_run(Run("j", 1, 1))
        await cancel(quick)
        job = await quick.until_state(S.CANCELED)
        await quick.until_settled()
    assert states(job) == [S.CREATED, S.CANCELING, S.CANCELED]
    assert quick.site.live() == []
    assert quick.site.released == ["j"]


@pytest.mark.parametrize("came", [GOOD[:2], GOOD[:3], GOOD[:5], BAD[:4]])
async def test_cancelling_with_an_engine_that_is_slow_to_end(house, came):
    async with house.reconciling():
        await house.submitted(containers=2)
        for n in range(2):
            run = Run("j", n, 1)
            await house.begin(run)
            await house.report(run, came)
        house.site.slow_end = 3
        await cancel(house)

        async def waits():
            job = await house.jobs.get("j")
            return job if job.waiting else None

        job = await house.until(waits, ticking=False)
        assert job.state is S.CANCELING
        assert job.waiting == "2 containers are still being stopped"
        # Late reports and the death of the executors change nothing.
        await house.report(Run("j", 0, 1), [S.ERROR])
        job = await house.until_state(S.CANCELED)
        await house.until_settled()
    assert states(job)[-2:] == [S.CANCELING, S.CANCELED]
    assert house.site.slow_end == 0
    assert house.site.live() == []
    assert {reason for _, reason in house.site.ended} == {"the job was canceled"}


async def test_cancelling_while_the_engine_is_away(quick):
    async with quick.reconciling(max_backoff=5.0):
        await quick.submitted()
        await quick.begin(R)
        quick.site.unreachable = "no route to the engine"
        await cancel(quick)

        async def waits():
            job = await quick.jobs.get("j")
            assert job.state is S.CANCELING
            return job.failures >= 5

        await quick.until(waits)
        quick.site.unreachable = None
        job = await quick.until_state(S.CANCELED)
    assert quick.site.live() == []
    assert states(job) == [S.CREATED, S.CANCELING, S.CANCELED]


async def test_a_cancellation_that_lands_during_a_look_is_taken_up_at_once(house):
    async def lands():
        house.site.during_poll = nothing
        await cancel(house)

    async with house.reconciling():
        house.site.during_poll = lands
        await house.submitted()
        job = await house.until_state(S.CANCELED, ticking=False)
    # The look that it fell into submitted the run; the next one ended it.
    assert states(job) == [S.CREATED, S.CANCELING, S.CANCELED]
    assert house.site.live() == []


async def test_a_cancellation_that_lands_in_a_look_that_fails_does_not_wait_for_the_backoff(quick):
    async def lands():
        quick.site.during_poll = nothing
        await quick.jobs.transition("j", Transition(S.CANCELING, quick.clock(), "c"))  # by another process: no hint
        raise RuntimeError("not your day")

    async with quick.reconciling():
        quick.site.during_poll = lands
        await quick.submitted()
        await quick.until_state(S.CANCELED, ticking=False)


async def test_a_transition_that_is_refused_stops_the_look_from_going_on(quick):
    """The containers have gone far, but somebody cancels between their reports and the job's following."""
    await quick.submitted()
    await quick.report(R, GOOD[:5], hint=False)
    tally = quick.containers.tally

    async def tally_and_cancel(job_id):
        found = await tally(job_id)
        await quick.jobs.transition("j", Transition(S.CANCELING, quick.clock(), "c"))
        return found

    quick.containers.tally = tally_and_cancel
    step = quick.step()
    lease = Lease("p", quick.clock() + datetime.timedelta(seconds=30))
    job = await quick.jobs.lease("j", lease, quick.clock())
    found = await step.look(job, full=True, reachable_since=START)
    assert isinstance(found, Done)
    assert states(found.job) == [S.CREATED, S.CANCELING, S.CANCELED]
    assert not quick.site.starts  # it was not submitted on the way
