"""Reports in any order: at once, twice, late, early, and of attempts that are over."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mongomock_motor import AsyncMongoMockClient

from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.reconciler.loop import Done
from cdmtaskservice.sites.base import Run, RunState, RunStatus
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.looks import Lease
from test.stand_ins.job_house import BAD, GOOD, JobHouse, states

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


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
