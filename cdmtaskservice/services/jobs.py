"""What users do with their jobs after they have submitted them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.errors import (
    InvalidJobStateError,
    NoLogsError,
    NoSuchBucketError,
    NoSuchJobError,
    NoSuchS3PathError,
    NoSuchSubJobError,
    UnauthorizedError,
)
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import ContainerRecord, InputFiles, JobRecord, OutputFiles, Transition
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

LogStream = Literal["stdout", "stderr"]
FileKind = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class FilesPage:
    """Some of a job's files, as parallel columns. urls: presigned GETs. sizes: bytes, known of inputs only.
    total: of all such files of the job."""

    files: Sequence[str]
    crc64nvmes: Sequence[str]
    urls: Sequence[str]
    sizes: Sequence[int] | None
    total: int


def log_file(logpath: str, number: int, stream: LogStream) -> str:
    """Where in S3 the log of a container is; `logpath` is the job's."""
    return f"{logpath}container-{number}/{stream}.txt"


class Jobs:
    """Users' own jobs. Every method raises NoSuchJobError, and UnauthorizedError for somebody else's job."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        s3: S3Client,
        clock: Clock,
        new_id: IdSource,
        changed: Callable[[str], None],
        presign_expiry: int,
    ) -> None:
        """changed: told the ID of a job that must be looked at in full now. presign_expiry: seconds for which links to
        files are good."""
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._s3 = s3
        self._clock = clock
        self._new_id = new_id
        self._changed = changed
        self._presign_expiry = presign_expiry

    async def find(self, job_id: str, viewer: Principal | None) -> JobRecord:
        """The job, for its owner or, with no viewer, for an administrator."""
        job = await self._jobs.get(job_id)
        if job is None:
            raise NoSuchJobError(f"There is no job with the ID {job_id!r}")
        if viewer is not None and job.user != viewer.user:
            raise UnauthorizedError(f"User {viewer.user} may not see job {job_id}: it belongs to somebody else")
        return job

    async def status(self, viewer: Principal | None, job_id: str) -> JobRecord:
        """The job without its files."""
        return await self.find(job_id, viewer)

    async def get(self, viewer: Principal | None, job_id: str) -> tuple[JobRecord, InputFiles, OutputFiles]:
        """The job with its files."""
        job = await self.find(job_id, viewer)
        inputs = await self._files.inputs(job_id, stop=job.input_file_count)
        outputs = await self._files.outputs(job_id) if job.state.is_terminal else OutputFiles()
        return job, inputs, outputs

    async def list(self, viewer: Principal, wanted: JobFilter) -> Sequence[JobRecord]:
        """The viewer's own jobs, newest state change first."""
        return await self._jobs.list(replace(wanted, user=viewer.user))

    async def exit_codes(self, viewer: Principal | None, job_id: str) -> Sequence[int | None]:
        """Exit codes by container number."""
        await self.find(job_id, viewer)
        return await self._containers.exit_codes(job_id)

    async def containers(self, viewer: Principal | None, job_id: str) -> Sequence[ContainerRecord]:
        """All containers by number, without their output files."""
        await self.find(job_id, viewer)
        return await self._containers.list(job_id)

    async def container(self, viewer: Principal | None, job_id: str, number: int) -> ContainerRecord:
        """One container, without its output files. Raises: NoSuchSubJobError."""
        job = await self.find(job_id, viewer)
        self.check_number(job, number)
        container = await self._containers.get(job_id, number)
        assert container is not None  # containers are stored before their job
        return container

    async def link(self, viewer: Principal | None, job_id: str, kind: FileKind, number: int) -> str | None:
        """A link by which one of a job's files is downloaded and never shown; None where there are not so many."""
        page = await self.files(viewer, job_id, kind, number, 1)
        if not page.files:
            return None
        return self._s3.presign_get(page.files[0], self._presign_expiry, download=True)

    async def files(
        self, viewer: Principal | None, job_id: str, kind: FileKind, offset: int = 0, limit: int = 1000
    ) -> FilesPage:
        """`limit` of a job's files at most, from number `offset` on. Outputs are there once the job is over."""
        job = await self.find(job_id, viewer)
        files: InputFiles | OutputFiles
        if kind == "inputs":
            total = job.input_file_count
            files = await self._files.inputs(job_id, min(offset, total), min(offset + limit, total))
        else:
            total = job.output_file_count or 0
            stop = min(offset + limit, total)
            files = await self._files.outputs(job_id, offset, stop) if offset < stop else OutputFiles()
        urls = await self._s3.presign_gets(files.files, self._presign_expiry)
        return FilesPage(files.files, files.crc64nvmes, urls, getattr(files, "sizes", None), total)

    async def log(
        self,
        viewer: Principal | None,
        job_id: str,
        number: int,
        stream: LogStream,
        seek: int = 0,
        length: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a container's log from `seek` on, at most `length`.

        Raises before the first byte: NoSuchSubJobError, NoLogsError where there is none (yet).
        """
        job = await self.find(job_id, viewer)
        self.check_number(job, number)
        chunks = self._s3.read(log_file(job.logpath or "", number, stream), seek, length)
        try:
            first = await anext(chunks, b"")
        except (NoSuchS3PathError, NoSuchBucketError) as e:
            raise NoLogsError(
                f"There is no {stream} log of container {number} of job {job_id}: it has not run to an end"
            ) from e

        async def rest() -> AsyncGenerator[bytes, None]:
            async with aclosing(chunks):  # whoever reads may go away in the middle
                yield first
                async for chunk in chunks:
                    yield chunk

        return rest()

    async def log_size(self, viewer: Principal | None, job_id: str, number: int, stream: LogStream) -> int:
        """Bytes of the log of a container that is over. Raises as `log`."""
        job = await self.find(job_id, viewer)
        self.check_number(job, number)
        try:
            return (await self._s3.head(log_file(job.logpath or "", number, stream))).size
        except (NoSuchS3PathError, NoSuchBucketError) as e:
            raise NoLogsError(f"There is no {stream} log of container {number} of job {job_id}") from e

    @staticmethod
    def check_number(job: JobRecord, number: int) -> None:
        """Raises: NoSuchSubJobError where the job has no container of that number."""
        if not 0 <= number < job.containers:
            raise NoSuchSubJobError(f"Job {job.id} has no container {number}; they are 0 to {job.containers - 1}")

    async def cancel(self, viewer: Principal | None, job_id: str) -> None:
        """Begin to cancel a job; once more is no error. Raises: InvalidJobStateError where it is over."""
        await self.find(job_id, viewer)
        transition = Transition(JobState.CANCELING, self._clock(), self._new_id())
        outcome, job = await self._jobs.transition(job_id, transition)
        if outcome is Outcome.CONFLICT and job is not None and job.state is not JobState.CANCELED:
            raise InvalidJobStateError(f"Job {job_id} cannot be canceled: it is over, in the state {job.state.value}")
        if outcome is Outcome.CONFLICT:
            raise InvalidJobStateError(f"Job {job_id} is canceled already")
        self._changed(job_id)
