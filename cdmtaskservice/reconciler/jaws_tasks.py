"""The tasks at NERSC of jobs that run through JAWS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.reconciler.tasks import Tasks
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.tasks import Plan
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore


@dataclass(frozen=True)
class JawsJobConfig:
    """look_delay: seconds between looks at what goes on. max_attempts: runs that JAWS itself may fail.

    submit_timeout: seconds that `jaws submit` may take, and within which it must begin. submit_window: seconds after
    which a submission that was not answered can no longer take effect.
    """

    look_delay: float
    max_attempts: int
    submit_timeout: float

    @property
    def submit_window(self) -> float:
        return 2 * self.submit_timeout + 60.0


class JawsTasks(Tasks[JobRecord, JawsSite]):
    """The tasks of jobs."""

    def __init__(self, jobs: JobStore, files: FileStore, clock: Clock, config: JawsJobConfig) -> None:
        super().__init__(jobs, clock, config.look_delay)
        self._files = files

    async def stage_plan(self, job: JobRecord, site: JawsSite) -> Plan:
        """How the job's inputs come to NERSC."""
        if Flow.of(job).refused:
            await site.check_s3()  # it may be our own keys that are not good any more
        return await site.stage_plan(await self._files.inputs(job.id, stop=job.input_file_count))

    def _detail(self, record: JobRecord, kind: str) -> str | None:
        return _DETAILS.get((kind, record.state is JobState.ERROR_PROCESSING_SUBMITTING))

    async def _require(self, place: JawsSite, kind: str) -> None:
        await (place.require_up() if kind in {"stage", "submit"} else place.require_nersc_up())


_DETAILS: Mapping[tuple[str, bool], str] = {
    ("stage", False): "nersc_download",
    ("send", False): "nersc_upload",
    ("send", True): "nersc_log_upload",
}
"""By a task's kind and whether a failure is processed, where its ID is kept for administrators."""
