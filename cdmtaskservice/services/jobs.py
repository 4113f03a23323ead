"""What users do with their jobs after they have submitted them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    InvalidJobStateError,
    NoLogsError,
    NoSuchBucketError,
    NoSuchJobError,
    NoSuchS3PathError,
    NoSuchSubJobError,
    UnauthorizedError,
)
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import (
    ContainerRecord,
    InputFiles,
    JobRecord,
    OutputFiles,
    Reached,
    Transition,
)
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
        """All containers by number, without their output files. Those that a canceled job has stopped are canceled."""
        job = await self.find(job_id, viewer)
        return [_as_it_ended(job, c) for c in await self._containers.list(job_id)]

    async def container(self, viewer: Principal | None, job_id: str, number: int) -> ContainerRecord:
        """One container, as `containers` gives it. Raises: NoSuchSubJobError."""
        job = await self.find(job_id, viewer)
        self.check_number(job, number)
        container = await self._containers.get(job_id, number)
        assert container is not None  # containers are stored before their job
        return _as_it_ended(job, container)

    async def link(self, viewer: Principal | None, job_id: str, kind: FileKind, number: int) -> str | None:
        """A link by which one of a job's files is downloaded and never shown; None where there are not so many.

        Raises: ChecksumMismatchError where the file has other bytes now, NoSuchS3PathError where it is gone.
        """
        files, _ = await self._some_files(viewer, job_id, kind, number, 1)
        if not files.files:
            return None
        file = files.files[0]
        try:
            found = await self._s3.head(file)
        except (NoSuchS3PathError, NoSuchBucketError) as e:
            raise NoSuchS3PathError(f"{file} is not in S3 any more: it was removed or moved") from e
        if found.crc64nvme != files.crc64nvmes[0]:
            if kind == "inputs":
                raise ChecksumMismatchError(f"{file} was replaced since job {job_id} was submitted with it")
            raise ChecksumMismatchError(
                f"{file} was replaced since job {job_id} made it; another job probably wrote to the same output "
                "directory"
            )
        return self._s3.presign_get(file, self._presign_expiry, download=True)

    async def files(
        self, viewer: Principal | None, job_id: str, kind: FileKind, offset: int = 0, limit: int = 1000
    ) -> FilesPage:
        """`limit` of a job's files at most, from number `offset` on. Outputs are there once the job is over."""
        files, total = await self._some_files(viewer, job_id, kind, offset, limit)
        urls = await self._s3.presign_gets(files.files, self._presign_expiry)
        return FilesPage(files.files, files.crc64nvmes, urls, getattr(files, "sizes", None), total)

    async def _some_files(
        self, viewer: Principal | None, job_id: str, kind: FileKind, offset: int, limit: int
    ) -> tuple[InputFiles | OutputFiles, int]:
        """These files, and how many there are in all."""
        job = await self.find(job_id, viewer)
        if kind == "inputs":
            total = job.input_file_count
            return await self._files.inputs(job_id, min(offset, total), min(offset + limit, total)), total
        total = job.output_file_count or 0
        stop = min(offset + limit, total)
        return await self._files.outputs(job_id, offset, stop) if offset < stop else OutputFiles(), total

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
            raise await self._no_log(job, number, stream) from e

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
            raise await self._no_log(job, number, stream) from e

    async def _no_log(self, job: JobRecord, number: int, stream: LogStream) -> NoLogsError:
        """What to say where S3 has no log of the container."""
        container = await self._containers.get(job.id, number)
        ended = container is not None and container.state.is_terminal
        if job.state is JobState.CANCELED and not ended:
            why = "it was canceled, and the log of a canceled container is not kept"
        elif ended or job.state.is_terminal:
            why = "it has ended without one"
        else:
            why = (
                "it has not run to an end; with follow=true it can be read as it is written, at all sites but those of "
                "JAWS"
            )
        return NoLogsError(f"There is no {stream} log of container {number} of job {job.id}: {why}")

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


def _as_it_ended(job: JobRecord, container: ContainerRecord) -> ContainerRecord:
    """The container; canceled where its job is and it came to no end before. Containers are not stored so."""
    if job.state is not JobState.CANCELED or container.state.is_terminal:
        return container
    reached = {**container.reached, JobState.CANCELED: Reached(job.updated, job.updated)}
    return replace(container, state=JobState.CANCELED, reached=reached)
