"""How long one look of the reconciler takes, by the number of a job's files and of its containers.

Measured in this process, on the database of the stack, at a site that answers at once: everything is waiting there.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from benchmarks.figures import Effort, Figure, median
from benchmarks.load import timed
from benchmarks.stage import Stage
from cdmtaskservice.domain.records import ImageRecord, InputFiles, JobRecord, Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.container_jobs import ContainerJobConfig, ContainerJobs
from cdmtaskservice.sites.base import Run, RunRequest, RunState, RunStatus, SiteHealth, SiteInfo
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_SHAPES = ((1, 1), (10_000, 1), (1000, 1000), (10_000, 1000))


class WaitingSite:
    """A site at which every run waits for ever."""

    info = SiteInfo("local", "local", 1, 1, 10**9, 3600.0)
    submit_window = 0.0
    restarts_executors = False

    async def start(self) -> None:
        """Nothing is to be started."""

    async def stop(self) -> None:
        """Nothing is to be stopped."""

    async def health(self) -> SiteHealth:
        """All is well."""
        return SiteHealth(True)

    async def submit(self, requests: Sequence[RunRequest]) -> Sequence[str]:
        """They wait."""
        return ()

    async def poll(self, runs: Collection[Run], since: datetime.datetime | None = None) -> Mapping[Run, RunStatus]:
        """They all wait."""
        return dict.fromkeys(runs, RunStatus(RunState.QUEUED))

    async def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        """They are over at once."""
        return ()

    async def release(self, job_id: str) -> None:
        """Nothing is kept."""

    async def clean(self, job_id: str) -> None:
        """Nothing is kept."""

    async def runner_status(self, run: Run) -> Mapping[str, object]:
        """There is nothing to tell."""
        return {}


async def looks(stage: Stage, effort: Effort) -> list[Figure]:
    """A full look, which asks the site, and one that only takes in what containers have reported."""
    database = Database.connect(stage.stack.mongo_uri, "bench-looks", 30.0)
    try:
        await database.create_indexes()
        jobs, containers, files = JobStore(database), ContainerStore(database), FileStore(database)
        step = ContainerJobs(
            jobs,
            containers,
            files,
            {"local": WaitingSite()},
            lambda: _NOW,
            lambda: str(uuid.uuid4()),
            ContainerJobConfig(look_delay=5.0, heartbeat_timeout=120.0, max_attempts=3),
        )
        prepared = [_job(*shape) for shape in _SHAPES]
        for job in prepared:
            await files.insert_inputs(job.id, _inputs(job.input_file_count))
            await containers.insert(job.id, job.containers, _NOW)
            await jobs.insert(job)
        samples: dict[tuple[int, int, bool], list[float]] = {}
        # In turns, so that what else this machine does meets all alike.
        for _ in range(effort.times(25, 7)):
            for job in prepared:
                for full in (True, False):

                    async def look(job: JobRecord = job, full: bool = full) -> None:
                        await step.look(job, full=full, reachable_since=_NOW)

                    samples.setdefault((job.input_file_count, job.containers, full), []).extend(await timed(look, 1))
    finally:
        database.close()
    took = {which: median(seconds) * 1000 for which, seconds in samples.items()}
    return [
        Figure("look.one", "a look at a job of one file, one container", took[1, 1, True], "ms"),
        Figure("look.hint_1000", "a look after a report, 1,000 containers", took[10_000, 1000, False], "ms"),
        Figure("look.full_1000", "a look that asks the site, 1,000 containers", took[10_000, 1000, True], "ms"),
        Figure(
            "flat.look",
            "a look at 10,000 files ÷ at one file, one container",
            took[10_000, 1, True] / took[1, 1, True],
            "×",
            note="1 is flat",
        ),
        Figure(
            "flat.look_1000",
            "a look at 10,000 files ÷ at 1,000, 1,000 containers",
            took[10_000, 1000, True] / took[1000, 1000, True],
            "×",
            note="1 is flat",
        ),
    ]


def _job(files: int, containers: int) -> JobRecord:
    settings: dict[str, Any] = {"cpus": 1, "memory": 10_000_000, "params": {"output_mount_point": "/output_files"}}
    return JobRecord(
        id=str(uuid.uuid4()),
        user="ann",
        site="local",
        input=settings,
        image=ImageRecord("registry/tool", f"sha256:{'0' * 64}", ("/tool",), "admin", _NOW),
        input_file_count=files,
        containers=containers,
        runtime=60.0,
        state=JobState.CREATED,
        transitions=(Transition(JobState.CREATED, _NOW, str(uuid.uuid4())),),
    )


def _inputs(count: int) -> InputFiles:
    places = [f"part-{n // 1000:03}/reads-{n:05}.fastq.gz" for n in range(count)]
    return InputFiles([f"cts-data/ann/in/{p}" for p in places], ["AAAAAAAAAAA="] * count, [1] * count, places)
