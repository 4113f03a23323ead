"""Jobs that an engine holds up say why, for as long as it does."""

from __future__ import annotations

import pytest

from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.sites.base import RunState, RunStatus
from test.stand_ins.job_house import JobHouse, R

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING])
async def test_what_the_engine_says_of_a_held_run_stands_on_the_job(quick: JobHouse, state: RunState) -> None:
    async def is_said(words: str | None) -> JobRecord | None:
        job = await quick.jobs.get("j")
        assert job is not None
        return job if job.waiting == words else None

    async with quick.reconciling() as reconciler:
        await quick.submitted()
        await quick.until_run(R)
        quick.site.runs[R] = RunStatus(state, "its disk is full")
        await quick.until(lambda: is_said("container 0: its disk is full"))
        reconciler.hint("j")  # a look that does not ask the engine knows nothing better
        await quick.until(lambda: is_said("container 0: its disk is full"))
        quick.site.runs[R] = RunStatus(RunState.QUEUED)
        await quick.until(lambda: is_said(None))
