"""The engine room on one database: stores, fake sites, and a job that needs no submission."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from cdmtaskservice.domain.records import ImageRecord, JobRecord, OutputFiles, Progress, Reached, Transition, Usage
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.reconciler.container_jobs import ContainerJobConfig, ContainerJobs
from cdmtaskservice.reconciler.loop import LoopConfig, Reconciler
from cdmtaskservice.sites.base import Run
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore
from test.stand_ins.clockwork import START, FakeClock, counting_ids, eventually
from test.stand_ins.fake_site import FakeSite

S = JobState
GOOD: Sequence[JobState] = (
    S.DOWNLOAD_SUBMITTED,
    S.JOB_SUBMITTING,
    S.JOB_SUBMITTED,
    S.UPLOAD_SUBMITTING,
    S.UPLOAD_SUBMITTED,
    S.COMPLETE,
)
BAD: Sequence[JobState] = (*GOOD[:3], S.ERROR_PROCESSING_SUBMITTING, S.ERROR_PROCESSING_SUBMITTED, S.ERROR)

IMAGE = ImageRecord("localhost/a/b", "sha256:" + "0" * 64, ("/run",), "admin", START, tag="1.0")

R = Run("j", 0, 1)
"""The first run of the job that `JobHouse.submitted` stores unless it is told otherwise."""


def a_job(job_id: str, containers: int = 1, **kwargs: Any) -> JobRecord:
    """A job as a submission would store it."""
    values: dict[str, Any] = {
        "id": job_id,
        "user": "ann",
        "site": "here",
        "input": {
            "cpus": 2,
            "memory": 10_000_000,
            "output_dir": "data/out/",
            "params": {
                "input_mount_point": "/input_files",
                "output_mount_point": "/output_files",
                "declobber": False,
            },
        },
        "image": IMAGE,
        "input_file_count": containers,
        "containers": containers,
        "runtime": 60.0,
        "state": S.CREATED,
        "transitions": (Transition(S.CREATED, START, f"t-{job_id}"),),
        "logpath": f"logs/{job_id}/",
    }
    return JobRecord(**(values | kwargs))


def states(job: JobRecord) -> list[JobState]:
    return [t.state for t in job.transitions]


class JobHouse:
    """Stores on a database, a clock, one fake site, and reconcilers on demand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = JobStore(database)
        self.containers = ContainerStore(database)
        self.files = FileStore(database)
        self.site = FakeSite()
        self.clock = FakeClock()
        self.reconciler: Reconciler | None = None
        self.pace = 1.0
        """Seconds that go by at every tick of `until`."""
        self._ids = counting_ids()

    def step(self, **config: Any) -> ContainerJobs:
        """A step with short times."""
        values: dict[str, Any] = {"look_delay": 5.0, "heartbeat_timeout": 60.0, "max_attempts": 3, "cancel_delay": 1.0}
        return ContainerJobs(
            self.jobs,
            self.containers,
            self.files,
            {"here": self.site},
            self.clock,
            self._ids,
            ContainerJobConfig(**(values | config)),
        )

    @contextlib.asynccontextmanager
    async def reconciling(self, owner: str = "p1", step: Any = None, **loop: Any) -> AsyncIterator[Reconciler]:
        """A reconciler that runs, and that ends well."""
        values: dict[str, Any] = {"poll_interval": 0.02, "coalesce": 0.002, "lease": 30.0, "max_backoff": 60.0}
        reconciler = Reconciler(self.jobs, step or self.step(), self.clock, owner, LoopConfig(**(values | loop)))
        self.reconciler = reconciler
        task = asyncio.create_task(reconciler.run())
        try:
            yield reconciler
        finally:
            await reconciler.stop()
            done, _ = await asyncio.wait([task], timeout=10)
            task.cancel()
            assert done, "the reconciler did not stop"
            await task

    async def submitted(self, job_id: str = "j", containers: int = 1, **kwargs: Any) -> str:
        """Store a job with its containers."""
        await self.containers.insert(job_id, containers, self.clock())
        assert await self.jobs.insert(a_job(job_id, containers, **kwargs))
        return job_id

    async def cancel(self, job_id: str = "j") -> None:
        """The owner cancels the job."""
        await self.jobs.transition(job_id, Transition(S.CANCELING, self.clock(), f"c-{job_id}"))
        if self.reconciler is not None:
            self.reconciler.hint(job_id, full=True)

    def tick(self) -> None:
        """Time goes by."""
        self.clock.advance(self.pace)

    async def until(self, check: Callable[[], Awaitable[Any]], *, ticking: bool = True, within: float = 10.0) -> Any:
        """Wait for something while the clock runs, some hundred times as fast as it should."""
        return await eventually(check, within=within, tick=self.tick if ticking else None)

    async def until_state(self, state: JobState, job_id: str = "j", **kwargs: Any) -> JobRecord:
        """Wait for a job to be in a state."""

        async def there() -> JobRecord | None:
            job = await self.jobs.get(job_id)
            assert job is not None
            if job.state.is_terminal:
                assert job.state is state, (job.state, job.error, job.admin_error)
            return job if job.state is state else None

        found: JobRecord = await self.until(there, **kwargs)
        return found

    async def until_settled(self, job_id: str = "j") -> JobRecord:
        """Wait until nothing is left to do for a job."""

        async def settled() -> JobRecord | None:
            job = await self.jobs.get(job_id)
            return job if job is not None and job.next_look is None else None

        found: JobRecord = await self.until(settled)
        return found

    async def until_run(self, run: Run) -> Run:
        """Wait for the engine to have been given a run."""

        async def given() -> bool:
            return run in self.site.runs

        await self.until(given)
        return run

    # What an executor does

    async def begin(self, run: Run, claim: str = "c") -> None:
        """The engine starts the run and its executor claims the container."""
        await self.until_run(run)
        self.site.begin(run)
        assert await self.containers.claim(run.job_id, run.container, run.attempt, claim, self.clock())

    async def beat(self, run: Run, ending: str | None = None) -> bool:
        return await self.containers.heartbeat(
            run.job_id, run.container, run.attempt, self.clock(), Progress("running", 0, 0), ending
        )

    async def report(self, run: Run, states: Sequence[JobState], *, hint: bool = True, outputs: int = 1) -> Outcome:
        """The executor reports these states; returns what came of the last."""
        outcome = Outcome.MISSING
        for state in states:
            outcome = await self.report_one(run, state, outputs=outputs)
            if hint and self.reconciler is not None:
                self.reconciler.hint(run.job_id)
        return outcome

    async def report_one(
        self, run: Run, state: JobState, *, outputs: int = 1, at: datetime.datetime | None = None
    ) -> Outcome:
        more: dict[str, Any] = {}
        if state is S.UPLOAD_SUBMITTING:
            more = {"exit_code": 0, "usage": Usage(3.0, 6.0, 1000 + run.container)}
        elif state is S.ERROR_PROCESSING_SUBMITTING:
            more = {"exit_code": 3, "usage": Usage(1.0, 1.0, 500), "error": "exit code 3"}
        elif state is S.ERROR:
            more = {"error": "it ended with exit code 3", "admin_error": "in full"}
        elif state is S.COMPLETE:
            names = [f"data/out/{run.container}-{i}" for i in range(outputs)]
            more = {"outputs": OutputFiles(names, ["AAAAAAAAAAA="] * outputs)}
        return await self.containers.report(
            run.job_id,
            run.container,
            state,
            Reached(self.clock(), at or self.clock()),
            attempt=run.attempt,
            **more,
        )

    async def finish(self, run: Run, states: Sequence[JobState] = GOOD, **kwargs: Any) -> None:
        """The executor does its work from claim to end, and the engine sees it go."""
        await self.begin(run)
        await self.report(run, states, **kwargs)
        if run in self.site.runs:
            self.site.lose(run, "exit code 0")
