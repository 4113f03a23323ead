"""Engines that are away, lose runs, forget them or fail: what the reconciler makes of it, time in the test's hand."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter

import pytest
from structlog.testing import capture_logs

from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.sites.base import Run, RunState, RunStatus
from cdmtaskservice.store.database import StoreUnavailableError
from test.stand_ins.fake_site import nothing
from test.stand_ins.job_house import BAD, GOOD, R, states

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


async def test_an_engine_that_is_away_for_long_fails_nothing(quick):
    async with quick.reconciling(max_backoff=30.0):
        await quick.submitted("queued")
        await quick.until_run(Run("queued", 0, 1))
        await quick.submitted()
        await quick.begin(R)
        quick.site.unreachable = "connection refused by the engine at its port"
        await quick.submitted("new")
        came = quick.clock()

        async def a_day_has_gone_by():
            await quick.beat(R)
            quick.clock.advance(20)
            jobs = [await quick.jobs.get(j) for j in ("queued", "j", "new")]
            assert not any(j.state.is_terminal for j in jobs)
            return (quick.clock() - came).total_seconds() > 7200 and all(j.failures > 3 for j in jobs)

        await quick.until(a_day_has_gone_by, within=20)
        for job_id in ("queued", "j", "new"):
            job = await quick.jobs.get(job_id)
            assert job.waiting == "connection refused by the engine at its port"
            assert job.next_look <= quick.clock() + datetime.timedelta(seconds=30)
        quick.site.unreachable = None
        await quick.report(R, GOOD)
        await quick.finish(Run("queued", 0, 1))
        await quick.finish(Run("new", 0, 1))
        for job_id in ("queued", "j", "new"):
            job = await quick.until_state(S.COMPLETE, job_id)
            job = await quick.until_settled(job_id)
            assert (job.waiting, job.failures) == (None, 0)
    assert set(quick.site.starts.values()) == {1}


async def test_a_lost_run_is_tried_again_up_to_the_limit(quick):
    async with quick.reconciling():
        await quick.submitted(containers=2)
        await quick.finish(Run("j", 1, 1))
        for attempt in (1, 2, 3):
            run = Run("j", 0, attempt)
            await quick.begin(run, f"claim-{attempt}")
            await quick.report(run, GOOD[:3])
            quick.site.lose(run, f"the node went down {attempt} times")
        job = await quick.until_state(S.ERROR)
    assert job.error == (
        "1 of 2 containers failed; container 0: its worker was lost 3 times, the last time because its worker ended "
        "without a result: the node went down 3 times"
    )
    assert "Attempt 3 of 3 was lost: " in job.admin_error
    assert Counter(r.container for r in quick.site.starts.elements()) == {0: 3, 1: 1}
    assert set(quick.site.starts.values()) == {1}


async def test_the_end_of_the_last_attempt_is_followed_at_once(quick):
    async with quick.reconciling(step=quick.step(max_attempts=1, look_delay=1000.0)):
        await quick.submitted()
        await quick.begin(R)
        quick.site.lose(R, "oops")
        quick.reconciler.hint("j", full=True)
        await quick.until_state(S.ERROR, ticking=False)
    async with quick.reconciling("p2", step=quick.step(max_attempts=1, look_delay=1000.0)):
        await quick.submitted("k")
        await quick.until_run(Run("k", 0, 1))
        quick.site.begin(Run("k", 0, 1))
        await quick.containers.claim("k", 0, 1, "c", quick.clock())
        quick.site.lose(Run("k", 0, 1))
        quick.clock.advance(1000)  # it is due by itself
        await quick.until_state(S.ERROR, "k", ticking=False)


async def test_a_retried_container_succeeds(quick):
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R, "a")
        await quick.report(R, GOOD[:3])
        await quick.beat(R, "evicted by the engine")
        quick.site.lose(R)
        second = Run("j", 0, 2)
        await quick.begin(second, "b")
        assert await quick.report(R, [S.UPLOAD_SUBMITTING]) is Outcome.CONFLICT  # the first one is not heard any more
        await quick.report(second, GOOD)
        job = await quick.until_state(S.COMPLETE)
    assert states(job) == [S.CREATED, *GOOD]


async def test_an_executor_that_says_it_is_ending_is_ended(quick):
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        await quick.beat(R, "told to end by SIGTERM")
        await quick.until_run(Run("j", 0, 2))
    assert (R, "told to end by SIGTERM") in quick.site.ended


@pytest.mark.parametrize("came", [BAD[:4], BAD[:5]])
async def test_a_container_that_failed_is_not_run_again_because_its_logs_were_lost(quick, came):
    """Its job may have taken the error branch with it, and there is no way back: it would end in error anyhow."""
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        await quick.report(R, came)
        await quick.until_state(came[-1])
        with capture_logs() as logs:
            quick.site.lose(R, "the node went down")
            job = await quick.until_state(S.ERROR)
    [told] = [log["why"] for log in logs if log["event"] == "container_lost"]
    assert "the node went down" in told
    assert "exit code 3" not in told  # the owner's words may be the program's own
    assert states(job) == [S.CREATED, *BAD]
    assert job.error == (
        "1 of 1 containers failed; container 0: exit code 3; its worker was lost before the logs were "
        "kept, because its worker ended without a result: the node went down"
    )
    assert set(quick.site.starts) == {R}
    assert await quick.containers.exit_codes("j") == [3]


async def test_a_silent_executor_is_ended_and_the_container_tried_again(quick):
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        began = quick.clock()

        async def beats_for_long():
            await quick.beat(R)
            return (quick.clock() - began).total_seconds() > 200

        await quick.until(beats_for_long)
        assert quick.site.live() == [R]
        second = await quick.until_run(Run("j", 0, 2))
        [(run, why)] = quick.site.ended
        assert run == R
        assert why.startswith("its worker has not been heard of for 6")
        await quick.finish(second)
        await quick.until_state(S.COMPLETE)


async def test_the_time_in_which_the_service_was_away_is_no_silence(quick):
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
    quick.clock.advance(100_000)
    async with quick.reconciling("p2"):
        polls = quick.site.polls

        async def looked_at():
            return quick.site.polls > polls + 3 and quick.clock().second % 2 == 0

        await quick.until(looked_at)
        assert quick.site.ended == []
        # Now that the service is there, the silence counts.
        await quick.until_run(Run("j", 0, 2))


async def test_the_time_in_which_the_database_was_away_is_no_silence(quick):
    due = quick.jobs.due

    async def away(*_):
        quick.clock.advance(10)
        raise StoreUnavailableError("away")

    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        gone = quick.clock()
        quick.jobs.due = away

        async def long_gone():
            return (quick.clock() - gone).total_seconds() > 600

        await quick.until(long_gone)
        quick.jobs.due = due
        polls = quick.site.polls

        async def looked_at():
            return quick.site.polls > polls

        await quick.until(looked_at)
        assert quick.site.ended == []


async def test_the_time_in_which_the_process_stood_still_is_no_silence(quick):
    """Suspended with its machine, say: nobody could speak to it, and nothing raised."""
    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        polls = quick.site.polls
        quick.clock.advance(10_000)

        async def looked_at():
            return quick.site.polls > polls + 2

        await quick.until(looked_at)
        assert quick.site.ended == []
        await quick.until_run(Run("j", 0, 2))


async def test_a_run_that_the_engine_forgot(quick):
    async with quick.reconciling():
        await quick.submitted("claimed")
        await quick.submitted("waiting")
        claimed, waiting = Run("claimed", 0, 1), Run("waiting", 0, 1)
        await quick.begin(claimed)
        await quick.until_run(waiting)
        quick.site.forget(claimed)
        quick.site.forget(waiting)
        await quick.until_run(Run("claimed", 0, 2))  # somebody had it: that attempt is over
        await quick.until_run(waiting)  # nobody had: the same again
    assert Run("waiting", 0, 2) not in quick.site.starts


@pytest.mark.parametrize("error", [RuntimeError("boom"), StoreUnavailableError("away"), TimeoutError()])
async def test_a_submit_that_raises_after_it_took_effect_makes_one_run(house, error):
    house.site.raises_after_submit = error
    async with house.reconciling():
        await house.submitted(containers=3)
        await house.until_run(R)
        for n in range(3):
            await house.finish(Run("j", n, 1))
        await house.until_state(S.COMPLETE)
    assert house.site.starts == {Run("j", n, 1): 1 for n in range(3)}


async def test_a_run_that_reports_its_end_while_the_engine_is_asked_is_not_lost(quick):
    async def ends():
        quick.site.during_poll = nothing
        await quick.report(R, GOOD)
        quick.site.lose(R)

    async with quick.reconciling():
        await quick.submitted()
        await quick.begin(R)
        await quick.report(R, GOOD[:3])
        # What the engine says was true when it was asked: over. The report is there before the answer is read.
        poll = quick.site.poll

        async def late_poll(runs, since=None):
            await ends()
            return (
                {run: RunStatus(RunState.ENDED, "exit code 0") for run in runs} if quick.site.runs else await poll(runs)
            )

        quick.site.poll = late_poll
        await quick.until_state(S.COMPLETE)
    assert set(quick.site.starts) == {R}


# Faults


async def test_an_unexpected_exception_is_repeated_with_backoff_and_fails_nothing(quick):
    quick.site.bug = KeyError("a field that nobody thought of")
    looks: list[datetime.datetime] = []
    planned: list[datetime.timedelta] = []

    async with quick.reconciling(max_backoff=16.0):
        await quick.submitted()

        async def failed_often():
            job = await quick.jobs.get("j")
            if job.failures > len(looks):
                looks.append(quick.clock())
                planned.append(job.next_look - quick.clock())
            return job if job.failures >= 8 else None

        job = await quick.until(failed_often)
        assert (job.state, job.waiting) == (S.CREATED, "KeyError: 'a field that nobody thought of'")
        waits = [(b - a).total_seconds() for a, b in itertools.pairwise(looks)]
        assert waits[-1] >= 7  # of 16, with jitter from the half on
        assert max(planned) <= datetime.timedelta(seconds=16)  # how long it took is the machine's
        assert waits[0] <= waits[-1]  # a busy machine may see two of the first failures as one
        quick.site.bug = None
        await quick.finish(R)
        job = await quick.until_state(S.COMPLETE)
        job = await quick.until_settled()
    assert (job.failures, job.waiting) == (0, None)


async def test_a_site_that_is_not_in_the_settings_any_more_delays(quick):
    async with quick.reconciling():
        await quick.submitted(site="gone")

        async def waits():
            job = await quick.jobs.get("j")
            assert job.state is S.CREATED
            return job.waiting

        assert await quick.until(waits) == "The site gone is not in the settings any more"
