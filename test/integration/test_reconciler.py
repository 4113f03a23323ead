"""Jobs moved by the reconciler on fake engines, with a clock in the test's hand, on every database that can be had."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import uuid
from collections import Counter

import pytest
import structlog
import structlog.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mongomock_motor import AsyncMongoMockClient

from cdmtaskservice.domain.records import JobRecord, Transition
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.reconciler.loop import Done, Next, Wait
from cdmtaskservice.sites.base import Run, RunState, RunStatus
from cdmtaskservice.store.database import Database, StoreUnavailableError
from cdmtaskservice.store.jobs import Lease
from test.stand_ins.clockwork import START
from test.stand_ins.job_house import BAD, GOOD, JobHouse

S = JobState


@pytest.fixture(autouse=True)
def quiet():
    """Exceptions are drawn at length where nobody has configured the logs: that takes longer than the tests."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(params=["mongomock", "wire"])
async def house(request):
    name = f"test-{uuid.uuid4().hex}"
    if request.param == "mongomock":
        database = Database(AsyncMongoMockClient(), name)
    else:
        database = Database.connect(request.getfixturevalue("stack").mongo_uri, name, 5)
    await database.create_indexes()
    yield JobHouse(database)
    database.close()


@pytest.fixture
async def quick():
    database = Database(AsyncMongoMockClient(), "test")
    await database.create_indexes()
    yield JobHouse(database)
    database.close()


def states(job: JobRecord) -> list[JobState]:
    return [t.state for t in job.transitions]


R = Run("j", 0, 1)


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


async def nothing() -> None:
    return None


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


# Engines


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
        quick.site.lose(R, "the node went down")
        job = await quick.until_state(S.ERROR)
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

        async def late_poll(runs):
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

    async with quick.reconciling(max_backoff=16.0):
        await quick.submitted()

        async def failed_often():
            job = await quick.jobs.get("j")
            if job.failures > len(looks):
                looks.append(quick.clock())
            return job if job.failures >= 8 else None

        job = await quick.until(failed_often)
        assert (job.state, job.waiting) == (S.CREATED, "KeyError: 'a field that nobody thought of'")
        waits = [(b - a).total_seconds() for a, b in itertools.pairwise(looks)]
        assert waits[-1] >= 7  # of 16, with jitter from the half on
        assert max(waits) <= 20
        assert waits[0] <= 4
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


# Leases, hints and several processes


class Watched:
    """A step that notes who looks at what at once, and takes its time."""

    def __init__(self, step, looking: Counter, log: list) -> None:
        self._step = step
        self._looking = looking
        self._log = log

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        self._looking[job.id] += 1
        try:
            self._log.append((job.id, full))
            assert self._looking[job.id] == 1, f"two look at {job.id} at once"
            await asyncio.sleep(0.001)
            return await self._step.look(job, full=full, reachable_since=reachable_since)
        finally:
            self._looking[job.id] -= 1


async def test_two_processes_share_the_jobs_and_never_look_at_one_at_once(house):
    looking: Counter[str] = Counter()
    log: list[tuple[str, bool]] = []
    jobs = [f"j{i}" for i in range(20)]
    house.pace = 0.01  # so that leases hold for as long as they would
    one = Watched(house.step(), looking, log)
    two = Watched(house.step(), looking, log)
    async with house.reconciling("p1", one) as first, house.reconciling("p2", two) as second:

        async def work(job_id: str) -> None:
            await house.submitted(job_id, containers=2)
            for n in range(2):
                run = Run(job_id, n, 1)
                await house.begin(run)
                for state in BAD if job_id == "j7" and n else GOOD:
                    await house.report_one(run, state)
                    first.hint(job_id)
                    second.hint(job_id)

        tasks = [asyncio.create_task(work(j)) for j in jobs]
        done = asyncio.gather(*tasks)

        async def all_over():
            if not done.done():
                return False
            found = [await house.jobs.get(j) for j in jobs]
            return all(j.next_look is None for j in found)

        await house.until(all_over, within=30)
        await done
    for job_id in jobs:
        job = await house.jobs.get(job_id)
        assert job.state is (S.ERROR if job_id == "j7" else S.COMPLETE)
        assert job.failures == 0
        assert len(states(job)) == 7
    assert set(house.site.starts.values()) == {1}


async def test_a_look_that_crashed_is_taken_over_when_its_lease_is_over(quick):
    await quick.submitted()
    gone = Lease("dead", quick.clock() + datetime.timedelta(seconds=30))
    assert await quick.jobs.lease("j", gone, quick.clock())
    async with quick.reconciling():
        quick.reconciler.hint("j", full=True)

        async def the_lease_is_over():
            if quick.clock() < gone.until - datetime.timedelta(seconds=1):
                assert quick.site.starts == {}
                return False
            return True

        await quick.until(the_lease_is_over)
        await quick.until_run(R)


class Stuck:
    """A step whose first look stands still until it is released."""

    def __init__(self, step) -> None:
        self._step = step
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.broken_off = asyncio.Event()
        self.looks = 0

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        self.looks += 1
        if self.looks == 1:
            self.entered.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.broken_off.set()
                raise
        return await self._step.look(job, full=full, reachable_since=reachable_since)


async def test_a_process_that_lost_its_lease_in_the_middle_of_a_look_does_no_harm(house):
    stuck = Stuck(house.step())
    async with house.reconciling("slow", stuck, lease=1000.0):
        await house.submitted()
        await stuck.entered.wait()
        house.clock.advance(2000)
        async with house.reconciling("quick"):
            await house.finish(R)
            done = await house.until_state(S.COMPLETE)
            done = await house.until_settled()
            stuck.go_on.set()

            async def both_looked():
                return not house.reconciler._running and stuck.looks >= 1

            await house.until(both_looked)
    job = await house.jobs.get("j")
    assert (job.state, job.next_look, states(job)) == (S.COMPLETE, None, states(done))
    assert job.transitions == done.transitions


async def test_a_look_that_lost_its_lease_is_broken_off(house):
    """It would else submit a run, say, of a job that has come to its end meanwhile."""
    stuck = Stuck(house.step())
    async with house.reconciling("slow", stuck, lease=0.1):
        await house.submitted()
        await stuck.entered.wait()
        house.clock.advance(1)
        assert await house.jobs.lease("j", Lease("other", house.clock() + datetime.timedelta(seconds=5)), house.clock())
        async with asyncio.timeout(5):
            await stuck.broken_off.wait()
        assert house.site.starts == {}
        await house.until_run(R)  # and later it is looked at again


async def test_a_long_look_keeps_its_lease(house):
    stuck = Stuck(house.step())
    async with house.reconciling("slow", stuck, lease=0.3):
        await house.submitted()
        await stuck.entered.wait()
        first = (await house.jobs._jobs.find_one({"_id": "j"}))["lease_until"]
        house.clock.advance(0.2)

        async def extended():
            return (await house.jobs._jobs.find_one({"_id": "j"}))["lease_until"] > first

        await house.until(extended, ticking=False)
        house.clock.advance(0.2)
        later = house.clock() + datetime.timedelta(seconds=1)
        assert await house.jobs.lease("j", Lease("other", later), house.clock()) is None
        stuck.go_on.set()
        await house.until_run(R)


async def test_hints_of_one_instant_share_a_look(quick):
    looking: Counter[str] = Counter()
    log: list[tuple[str, bool]] = []
    async with quick.reconciling(
        step=Watched(quick.step(), looking, log), coalesce=0.05, poll_interval=0.5
    ) as reconciler:
        await quick.submitted()
        await quick.until_run(R)
        await quick.until(_idle(reconciler), ticking=False)
        log.clear()
        for _ in range(100):
            reconciler.hint("j")
            await asyncio.sleep(0)
        reconciler.hint("j", full=True)
        reconciler.hint("j")
        polls = quick.site.polls

        async def looked():
            return quick.site.polls > polls

        await quick.until(looked, ticking=False)
        await quick.until(_idle(reconciler), ticking=False)
    assert len(log) <= 2
    assert ("j", True) in log


def _idle(reconciler):
    async def idle():
        return not reconciler._running and not reconciler._wanted

    return idle


async def test_a_hint_without_need_does_not_ask_the_engine(quick):
    async with quick.reconciling() as reconciler:
        await quick.submitted()
        await quick.begin(R)
        await quick.until(_idle(reconciler), ticking=False)
        polls = quick.site.polls
        planned = (await quick.jobs.get("j")).next_look
        await quick.report(R, GOOD[:3])
        await quick.until_state(S.JOB_SUBMITTED, ticking=False)
        await quick.until(_idle(reconciler), ticking=False)
        assert quick.site.polls == polls
        assert (await quick.jobs.get("j")).next_look == planned  # hints do not put the full look off


async def test_news_that_come_while_another_process_looks_are_not_left_lying(quick):
    """The other's look has read the containers already; ours is refused the lease."""

    class ReadsThenWaits(Stuck):
        async def look(self, job, *, full, reachable_since):
            found = await self._step.look(job, full=full, reachable_since=reachable_since)
            self.looks += 1
            if self.looks == 2:
                self.entered.set()
                await self.go_on.wait()
            return found

    stuck = ReadsThenWaits(quick.step(look_delay=1000.0))
    async with quick.reconciling("other", stuck) as other:
        await quick.submitted()
        await quick.begin(R)
        await quick.until(_idle(other), ticking=False)
        other.hint("j")
        await stuck.entered.wait()
        async with quick.reconciling("ours"):
            await quick.report(R, GOOD)  # hints ours
            await quick.until(_idle(quick.reconciler), ticking=False)
            assert (await quick.jobs.get("j")).state is S.CREATED
            stuck.go_on.set()
            await quick.until_state(S.COMPLETE, ticking=False)


class Counting:
    """A step that does nothing but be called, and asks for a look in a thousand seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.looked: list[str] = []
        self._seconds = seconds

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        await asyncio.sleep(self._seconds)
        self.looked.append(job.id)
        return Wait(job, 1000.0)


async def test_many_due_jobs_do_not_wait_for_one_poll_after_the_other(quick):
    step = Counting()
    for i in range(100):
        await quick.submitted(f"j{i}")
    # By polls alone, 16 jobs each, this would take half a minute.
    async with quick.reconciling(step=step, poll_interval=5.0, concurrency=4):

        async def all_looked_at():
            return len(step.looked) >= 100

        await quick.until(all_looked_at, ticking=False, within=8)
    assert Counter(step.looked) == {f"j{i}": 1 for i in range(100)}


async def test_more_hints_than_room_are_served_as_room_comes(quick):
    step = Counting()
    for i in range(60):
        await quick.submitted(f"j{i}", next_look=START + datetime.timedelta(seconds=500))
    async with quick.reconciling(step=step, poll_interval=30.0, concurrency=2) as reconciler:
        for i in range(60):
            reconciler.hint(f"j{i}")

        async def all_looked_at():
            return len(step.looked) >= 60

        await quick.until(all_looked_at, ticking=False, within=8)


async def test_hints_of_jobs_that_do_not_exist_are_harmless_and_bounded(quick):
    async with quick.reconciling() as reconciler:
        for i in range(20):
            reconciler.hint(f"none-{i}", full=True)
        await quick.submitted()
        await quick.until_run(R)
    for i in range(20_000):
        reconciler.hint(f"none-{i}", full=True)
    assert len(reconciler._wanted) == 10_000


async def test_a_stopped_reconciler_finishes_its_looks_and_frees_their_leases(quick):
    stuck = Stuck(quick.step())
    async with quick.reconciling("p1", stuck) as reconciler:
        await quick.submitted()
        await stuck.entered.wait()
        await reconciler.stop()
        stuck.go_on.set()
        await quick.until_run(R)
    assert await quick.jobs.lease("j", Lease("p2", quick.clock()), quick.clock()) is not None


async def test_a_reconciler_that_is_cancelled_takes_its_looks_with_it(quick):
    stuck = Stuck(quick.step())
    with contextlib.suppress(asyncio.CancelledError):
        async with quick.reconciling("p1", stuck) as reconciler:
            await quick.submitted()
            await stuck.entered.wait()
            [look] = reconciler._running.values()
            for task in asyncio.all_tasks():
                if task.get_coro().__qualname__ == "Reconciler.run":
                    task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await look
            assert stuck.broken_off.is_set()


# Reports in any order


async def test_two_containers_that_report_in_one_instant_are_both_heard(house):
    house.pace = 0.01
    async with house.reconciling():
        for i in range(20):
            await house.submitted(f"j{i}", containers=2)
            for n in range(2):
                await house.begin(Run(f"j{i}", n, 1))
        for state in GOOD:
            for i in range(20):
                outcomes = await asyncio.gather(*(house.report(Run(f"j{i}", n, 1), [state]) for n in range(2)))
                assert outcomes == [Outcome.APPLIED] * 2
        for i in range(20):
            job = await house.until_state(S.COMPLETE, f"j{i}", ticking=False)
            assert states(job) == [S.CREATED, *GOOD]
            assert (await house.files.outputs(f"j{i}")).files == ["data/out/0-0", "data/out/1-0"]


@st.composite
def stories(draw):
    """What happens to a job: per container whether it fails, and everybody's acts in an order nobody would choose."""
    containers = draw(st.integers(2, 4))
    fails = [draw(st.booleans()) for _ in range(containers)]
    lost = [draw(st.integers(0, 2)) for _ in range(containers)]
    acts: list[tuple[str, int, int, JobState | None]] = []
    for n in range(containers):
        for attempt in range(1, lost[n] + 1):
            # A lost attempt reports its start, twice, and goes on talking after it was superseded.
            acts += [("report", n, attempt, state) for state in GOOD[:5] for _ in range(2)]
            acts += [("supersede", n, attempt, None)] * 2
        path = BAD if fails[n] else GOOD
        acts += [("report", n, lost[n] + 1, state) for state in path for _ in range(draw(st.integers(1, 3)))]
    acts += [("look", 0, 0, None)] * draw(st.integers(0, 12))
    return containers, fails, lost, draw(st.permutations(acts))


@settings(max_examples=80, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_reports_may_come_twice_late_early_and_reordered(story):
    asyncio.run(_tell(*story))


async def _tell(containers: int, fails: list[bool], lost: list[int], acts: list) -> None:
    database = Database(AsyncMongoMockClient(), "test")
    house = JobHouse(database)
    step = house.step(max_attempts=5)
    await house.submitted(containers=containers)
    seen: list[JobState] = []

    async def look() -> None:
        job = await house.jobs.get("j")
        if job.next_look is None:
            return
        # The engine says that all is well: only reports and superseding move containers here.
        for c in await house.containers.live("j"):
            house.site.runs[Run("j", c.number, c.attempt)] = RunStatus(RunState.RUNNING)
        house.clock.advance(1)
        lease = Lease("p", house.clock() + datetime.timedelta(seconds=30))
        leased = await house.jobs.lease("j", lease, house.clock())
        found = await step.look(leased, full=True, reachable_since=house.clock())
        at = None if isinstance(found, Done) else house.clock()
        await house.jobs.release(found.job, "p", next_look=at)
        seen.append(found.job.state)

    async def supersede(n: int, attempt: int) -> None:
        await house.containers.next_attempt("j", n, attempt, house.clock(), "lost")

    for kind, n, attempt, state in acts:
        house.clock.advance(1)
        if kind == "look":
            await look()
        elif kind == "supersede":
            await supersede(n, attempt)
        else:
            await house.report_one(Run("j", n, attempt), state)
    # Whatever was said too early is said again by an executor that got no answer, or a refusal from before its time.
    for n in range(containers):
        for attempt in range(1, lost[n] + 1):
            await supersede(n, attempt)
        for state in BAD if fails[n] else GOOD:
            await house.report_one(Run("j", n, lost[n] + 1), state)
    await look()
    await look()

    job = await house.jobs.get("j")
    found = await house.containers.list("j")
    ends = [S.ERROR if failed else S.COMPLETE for failed in fails]
    assert [c.state for c in found] == ends
    assert [c.exit_code for c in found] == [3 if failed else 0 for failed in fails]
    assert [c.attempt for c in found] == [n + 1 for n in lost]
    assert [c.error for c in found] == ["it ended with exit code 3" if failed else None for failed in fails]
    assert job.state is (S.ERROR if any(fails) else S.COMPLETE)
    assert job.next_look is None
    outputs = [f"data/out/{n}-0" for n, failed in enumerate(fails) if not failed]
    assert (await house.files.outputs("j")).files == outputs
    assert job.output_file_count == len(outputs)
    made = states(job)
    assert len(set(made)) == len(made)
    expected = [S.CREATED, *(BAD if any(fails) else GOOD)]
    # A container that failed without our hearing of it in time may leave the job on the other branch until its end.
    assert made == expected or (any(fails) and made[:4] == expected[:4] and made[-1] is S.ERROR)
    times = [t.time for t in job.transitions]
    assert times == sorted(times)
