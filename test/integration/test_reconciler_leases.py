"""Leases, hints and several processes: who looks at which job, and when."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections import Counter

import pytest

from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.loop import LoopConfig, Next, Reconciler, Wait
from cdmtaskservice.sites.base import Run
from cdmtaskservice.store.codec import to_millis
from cdmtaskservice.store.looks import Lease
from test.stand_ins.clockwork import START
from test.stand_ins.job_house import BAD, GOOD, R, states

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


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


@contextlib.asynccontextmanager
async def cut_off(house, step, **loop):
    """A reconciler that is cancelled in the middle of what it does, as at the end of its time."""
    values = {"poll_interval": 0.02, "coalesce": 0.002, "lease": 1000.0}
    reconciler = Reconciler(house.jobs, step, house.clock, "ends", LoopConfig(**(values | loop)))
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler
    finally:
        await reconciler.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def held(house, job_id="j"):
    """Who holds the job's lease, and from when on nobody does, as the database has it."""
    document = await house.jobs._jobs.find_one({"_id": job_id})
    return document["lease_owner"], document["lease_until"]


async def test_a_look_that_is_cut_off_is_taken_over_at_once(house):
    stuck = Stuck(house.step())
    async with cut_off(house, stuck):
        await house.submitted()
        await stuck.entered.wait()
        owner, until = await held(house)
        assert owner == "ends"
        assert until > to_millis(house.clock())
    assert stuck.broken_off.is_set()
    assert await held(house) == ("", 0)
    # The clock stands still, so no lease can run out.
    async with house.reconciling("other"):

        async def given():
            return R in house.site.runs

        await house.until(given, ticking=False)
    assert house.site.starts == {R: 1}


async def test_news_that_a_cut_off_look_was_to_see_are_looked_at_at_once(house):
    """The next look was long off: only a hint has led to the one that is cut off."""
    stuck = Stuck(house.step(look_delay=1000.0))
    await house.submitted(next_look=START + datetime.timedelta(seconds=1000))
    async with cut_off(house, stuck) as reconciler:
        reconciler.hint("j", full=True)
        await stuck.entered.wait()
    assert (await house.jobs.get("j")).next_look == START


async def test_a_lease_that_is_being_taken_is_given_back(quick):
    """What the database was asked for it does, though nobody waits for the answer any more."""
    taking, go_on = asyncio.Event(), asyncio.Event()
    real = quick.jobs.lease

    async def slowly(*arguments):
        taking.set()
        await go_on.wait()
        return await real(*arguments)

    quick.jobs.lease = slowly
    await quick.submitted()
    async with cut_off(quick, quick.step()):
        await taking.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert await held(quick) == ("", 0)
    assert quick.site.starts == {}


async def test_a_lease_that_another_process_has_by_then_is_left_to_it(quick):
    stuck = Stuck(quick.step())
    async with cut_off(quick, stuck, lease=30.0):
        await quick.submitted()
        await stuck.entered.wait()
        quick.clock.advance(60)
        other = Lease("other", quick.clock() + datetime.timedelta(seconds=30))
        assert await quick.jobs.lease("j", other, quick.clock())
    assert await held(quick) == ("other", to_millis(other.until))


async def test_hints_that_were_not_followed_are_passed_on(quick):
    """Of many jobs only one can be looked at at once; the others' hints must not wait for their next looks."""
    stuck = Stuck(quick.step())
    later = START + datetime.timedelta(seconds=1000)
    for job_id in ("j", "k", "l"):
        await quick.submitted(job_id, next_look=later)
    async with cut_off(quick, stuck, concurrency=1) as reconciler:
        for job_id in ("j", "k", "l"):
            reconciler.hint(job_id)
        await stuck.entered.wait()
    assert stuck.looks == 1
    assert {(await quick.jobs.get(job_id)).next_look for job_id in ("j", "k", "l")} == {START}


async def test_news_that_come_after_the_end_are_passed_on(quick):
    """The server answers executors for a while after the last look."""
    await quick.submitted(next_look=START + datetime.timedelta(seconds=1000))
    async with quick.reconciling() as reconciler:
        await reconciler.stop()
    reconciler.hint("j")
    await reconciler.pass_on()
    assert (await quick.jobs.get("j")).next_look == START


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
