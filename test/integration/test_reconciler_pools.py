"""Engines that restart executors by themselves, hold runs, and may take a submission late."""

from __future__ import annotations

import datetime
import itertools

import pytest

from cdmtaskservice.domain.records import Usage
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.sites.base import Run, RunState, RunStatus, SiteUnreachableError
from test.stand_ins.job_house import BAD, GOOD, R

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def pool(quick):
    quick.site.submit_window = 70.0
    return quick


async def test_a_submission_is_noted_before_and_its_handle_after(pool):
    noted = []
    submit = pool.site.submit

    async def watched(requests):
        noted.append((await pool.jobs.get("j")).submitting_until)
        return await submit(requests)

    pool.site.submit = watched
    async with pool.reconciling():
        began = pool.clock()
        await pool.submitted()
        await pool.finish(R)
        job = await pool.until_state(S.COMPLETE)
    assert noted[0] >= began + datetime.timedelta(seconds=70)
    assert (job.handles, job.submitting_until) == ({"local": ("handle-1",)}, None)


async def test_a_submission_without_an_answer_is_repeated_only_when_it_cannot_come_any_more(pool):
    pool.site.lost_submits = 1
    async with pool.reconciling():
        await pool.submitted()

        async def in_doubt():
            job = await pool.jobs.get("j")
            return job if job.submitting_until and "earlier submission" in str(job.waiting) else None

        job = await pool.until(in_doubt)
        until = job.submitting_until
        await pool.until_run(R)
        assert pool.clock() >= until
        await pool.finish(R)
        await pool.until_state(S.COMPLETE)
    assert pool.site.starts[R] == 1


async def test_a_submission_whose_answer_was_lost_is_found(pool):
    pool.site.raises_after_submit = SiteUnreachableError("no answer")
    poll = pool.site.poll

    async def with_handles(runs, since=None):
        found = await poll(runs, since)
        return {r: RunStatus(s.state, handle="77") if s.state is not RunState.UNKNOWN else s for r, s in found.items()}

    pool.site.poll = with_handles
    async with pool.reconciling():
        await pool.submitted()

        async def known():
            job = await pool.jobs.get("j")
            return job.handles == {"local": ("77",)} and job.submitting_until is None

        await pool.until(known)
        await pool.finish(R)
        await pool.until_state(S.COMPLETE)
    assert pool.site.starts[R] == 1


async def test_a_refused_submission_is_in_no_doubt(pool):
    pool.site.refused = "no such account"
    async with pool.reconciling(max_backoff=2.0):
        await pool.submitted()

        async def told():
            job = await pool.jobs.get("j")
            return job if job.waiting == "no such account" else None

        job = await pool.until(told)
        assert job.submitting_until is None
        assert job.told == "it is refused"
        pool.site.refused = None
        await pool.finish(R)
        await pool.until_state(S.COMPLETE)


async def test_a_cancellation_waits_for_a_submission_in_doubt(pool):
    pool.site.lost_submits = 1
    async with pool.reconciling():
        await pool.submitted()

        async def in_doubt():
            return (await pool.jobs.get("j")).submitting_until

        until = await pool.until(in_doubt)
        await pool.cancel()
        await pool.until_state(S.CANCELED)
        assert pool.clock() >= until


async def test_an_executor_that_the_engine_starts_again_belongs_to_the_same_run(pool):
    pool.site.restarts_executors = True
    async with pool.reconciling():
        await pool.submitted()
        await pool.begin(R, "a")
        await pool.beat(R, "evicted")
        begun = await pool.containers.next_attempt("j", 0, 1, pool.clock(), "evicted", same_run=True)
        assert (begun.attempt, begun.run) == (2, 1)
        second = Run("j", 0, 2)
        assert await pool.containers.claim("j", 0, 2, "b", pool.clock())
        await pool.report(second, GOOD)
        await pool.until_state(S.COMPLETE)
    assert set(pool.site.starts) == {R}  # the engine was not asked for a second one
    [lost] = (await pool.containers.get("j", 0)).lost
    assert (lost.attempt, lost.why, lost.blameless) == (1, "evicted", False)


async def test_after_a_restart_by_the_engine_a_lost_container_gets_a_run_of_its_own(pool):
    pool.site.restarts_executors = True
    async with pool.reconciling():
        await pool.submitted()
        await pool.begin(R, "a")
        await pool.containers.next_attempt("j", 0, 1, pool.clock(), "evicted", same_run=True)
        pool.site.lose(R, "the pool gave up")
        third = Run("j", 0, 3)
        await pool.finish(third)
        await pool.until_state(S.COMPLETE)
    assert set(pool.site.starts) == {R, third}


async def test_an_attempt_that_never_began_does_not_count(pool):
    async with pool.reconciling():
        await pool.submitted()
        for attempt in range(1, 8):
            run = await pool.until_run(Run("j", 0, attempt))
            pool.site.runs[run] = RunStatus(RunState.ENDED, "the code has changed", blameless=True)
        await pool.finish(Run("j", 0, 8))
        await pool.until_state(S.COMPLETE)


async def test_attempts_that_never_begin_come_after_growing_pauses_and_fail_nothing(pool):
    async with pool.reconciling(step=pool.step(max_attempts=1)):
        await pool.submitted()
        begun = []
        for attempt in range(1, 11):
            run = await pool.until_run(Run("j", 0, attempt))
            begun.append(pool.clock())
            pool.site.runs[run] = RunStatus(RunState.ENDED, "no Python there", blameless=True)

            async def told(attempt=attempt):
                job = await pool.jobs.get("j")
                lost = (await pool.containers.get("j", 0)).lost
                return job if len(lost) == attempt and "no Python there" in (job.waiting or "") else None

            job = await pool.until(told)
            assert "its next attempt begins in" in job.waiting
            assert "through no fault of its own" in job.told
        pauses = [(b - a).total_seconds() for a, b in itertools.pairwise(begun)]
        assert all(pause >= least for pause, least in zip(pauses, (5, 10, 20, 40, 80, 160, 320, 600, 600), strict=True))
        await pool.finish(Run("j", 0, 11))
        await pool.until_state(S.COMPLETE)


async def test_a_run_that_would_fail_again_is_an_error_and_is_ended(pool):
    async with pool.reconciling():
        await pool.submitted(containers=2)
        await pool.finish(Run("j", 1, 1))
        await pool.until_run(R)
        usage = Usage(3.0, 4.0, 5)
        status = RunStatus(RunState.STUCK, "code 34", error="it used too much memory", usage=usage)
        pool.site.runs[R] = status
        job = await pool.until_state(S.ERROR)
    assert job.error == "1 of 2 containers failed; container 0: it used too much memory"
    assert job.admin_error == "container 0: code 34"
    assert (R, "code 34") in pool.site.ended
    assert (await pool.containers.get("j", 0)).usage == usage
    assert set(pool.site.starts) == {R, Run("j", 1, 1)}


async def test_a_container_that_failed_keeps_its_own_error_when_its_run_is_removed(pool):
    async with pool.reconciling():
        await pool.submitted()
        await pool.begin(R)
        await pool.report(R, BAD[:4])
        pool.site.runs[R] = RunStatus(RunState.ENDED, "removed at noon", error="somebody has removed it")
        job = await pool.until_state(S.ERROR)
    assert job.error.startswith(
        "1 of 1 containers failed; container 0: exit code 3; its worker was lost before the logs"
    )


async def test_what_the_engine_measured_of_a_canceled_job_is_kept(pool):
    async with pool.reconciling():
        await pool.submitted()
        await pool.begin(R)
        await pool.cancel()
        end = pool.site.end

        async def ended(runs, reason):
            left = await end(runs, reason)
            pool.site.runs[R] = RunStatus(RunState.ENDED, usage=Usage(3600.0, 7200.0, 10))
            return left

        pool.site.end = ended
        job = await pool.until_state(S.CANCELED)
    assert (job.cpu_hours, job.max_memory) == (1.0, 10)


async def test_what_an_executor_could_not_measure_is_what_the_engine_measured(pool):
    async with pool.reconciling():
        await pool.submitted(containers=2)
        for n in range(2):
            await pool.begin(Run("j", n, 1), f"c{n}")
        pool.site.runs[R] = RunStatus(RunState.RUNNING, usage=Usage(7200.0, 7200.0, 99))
        await pool.report(Run("j", 1, 1), GOOD)
        await pool.report(R, GOOD[:3])
        unmeasured = [S.UPLOAD_SUBMITTED, S.COMPLETE]  # the report with the usage has none
        await pool.report(R, unmeasured)
        job = await pool.until_state(S.COMPLETE)
    assert job.cpu_hours == pytest.approx((7200 + 3) / 3600)
    assert job.max_memory == 1001


async def test_why_a_job_waits_is_told_to_its_owner(pool):
    async with pool.reconciling():
        await pool.submitted(containers=3)
        for n in range(3):
            await pool.until_run(Run("j", n, 1))
        for n in (1, 2):
            pool.site.runs[Run("j", n, 1)] = RunStatus(
                RunState.QUEUED, "0 of 9 slots match", told="no machine has that"
            )

        async def told():
            job = await pool.jobs.get("j")
            return job if job.told else None

        job = await pool.until(told)
        assert job.told == "container 1: no machine has that (2 containers wait)"
        assert job.waiting == "container 1: 0 of 9 slots match (2 containers wait)"
        for n in range(3):
            await pool.finish(Run("j", n, 1))
        job = await pool.until_state(S.COMPLETE)
        assert (await pool.until_settled()).told is None


async def test_an_executor_that_was_started_again_has_time_to_come(pool):
    pool.site.restarts_executors = True
    async with pool.reconciling():
        await pool.submitted()
        await pool.begin(R, "a")
        heard = pool.clock()

        async def long_after():
            pool.site.runs[R] = RunStatus(RunState.RUNNING, age=30.0)
            return pool.clock() > heard + datetime.timedelta(minutes=5)

        await pool.until(long_after)
        assert not pool.site.ended
        pool.site.runs[R] = RunStatus(RunState.RUNNING, age=3600.0)  # the one that was heard is the one that runs
        await pool.finish(Run("j", 0, 2))
        await pool.until_state(S.COMPLETE)
    [lost] = (await pool.containers.get("j", 0)).lost
    assert "has not been heard of for 3" in lost.why
