"""What executors on workers ask and report. The wire is described in docs/executor-protocol.md."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from cdmtaskservice.auth.container_token import ContainerClaim, ContainerTokens
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.arguments import PlacedFile, render
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    IllegalParameterError,
    InvalidJobStateError,
    NoSuchBucketError,
    NoSuchJobError,
    NoSuchS3PathError,
    NoSuchSubJobError,
    UnauthorizedError,
)
from cdmtaskservice.domain.parameters import Parameters
from cdmtaskservice.domain.placement import split_files
from cdmtaskservice.domain.records import ContainerRecord, InputFiles, JobRecord, OutputFiles, Progress, Reached, Usage
from cdmtaskservice.domain.refdata import refdata_of
from cdmtaskservice.domain.s3_paths import check_output_path, check_s3_path, is_under
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.domain.worker_calls import (
    ContainerUpdate,
    Heartbeat,
    InputsRequest,
    UploadsComplete,
    UploadsRequest,
    WorkRequest,
)
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import PartSpec
from cdmtaskservice.services.jobs import log_file
from cdmtaskservice.services.live_logs import LiveLogs
from cdmtaskservice.sites.base import Site
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import INLINE_OUTPUTS, FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

_REMEMBERED = 512
"""Jobs whose unchanging parts are kept in memory."""


@dataclass(frozen=True)
class WorkerConfig:
    """Times in seconds, sizes in bytes.

    heartbeat_interval: how often an executor must be heard. presign_expiry: how long a presigned request is good.
    token_lifetime: how long a container token is good beyond the container's own time limit.
    part_size: larger files are uploaded in parts of this size. upload_batch: files in one call for uploads.
    max_attempts: attempts at one container. pids: processes in one container.
    silence_limit: how long an executor that is not answered may go on writing to S3; by then it has not been lost.
    """

    heartbeat_interval: float
    presign_expiry: int
    token_lifetime: float
    part_size: int
    upload_batch: int
    max_attempts: int
    silence_limit: float
    pids: int = 4096


class Workers:
    """The calls of the executor protocol.

    `caller` is an external executor, or the container itself: then it must be this one, else UnauthorizedError. Every
    method raises NoSuchJobError or NoSuchSubJobError, and InvalidJobStateError where the caller's attempt is over.
    """

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        s3: S3Client,
        sites: Mapping[str, Site],
        tokens: ContainerTokens,
        live_logs: LiveLogs,
        clock: Clock,
        changed: Callable[[str, bool], None],
        config: WorkerConfig,
        meter: Meter = UNMETERED,
    ) -> None:
        """changed: told a job's ID, and whether its engine should be asked as well, where there is news."""
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._s3 = s3
        self._sites = sites
        self._tokens = tokens
        self._live_logs = live_logs
        self._clock = clock
        self._changed = changed
        self._config = config
        self._meter = meter
        self._remembered: dict[str, JobRecord] = {}

    async def work(self, job_id: str, number: int, request: WorkRequest) -> dict[str, Any]:
        """Claim a container and return its work order."""
        job = await self._open_job(job_id)
        claimed = await self._claim(job, number, request)
        self._meter.reported(job.site, "claim")
        # A cancellation that came between the look at the job and the claim may have missed this executor.
        await self._open_job(job_id)
        return await self._order(job, claimed)

    async def heartbeat(
        self, caller: Principal | ContainerClaim, job_id: str, number: int, beat: Heartbeat
    ) -> dict[str, Any]:
        """Record a sign of life and tell the executor whether to stop."""
        claim = self._own(caller, job_id, number)
        job = await self._job(job_id)
        progress = Progress(beat.phase, beat.bytes_done, beat.bytes_total)
        self._meter.reported(job.site, "heartbeat")
        current = await self._containers.heartbeat(job_id, number, claim.attempt, self._clock(), progress, beat.ending)
        if beat.ending is not None and current:
            self._changed(job_id, True)
        if job.state is JobState.CANCELING or job.state.is_terminal:
            return {"stop": True, "reason": f"the job is {job.state.value}"}
        if not current:
            return {"stop": True, "reason": "this attempt is over"}
        return {"stop": False, "reason": None, "logs": await self._wanted_logs(claim, beat)}

    async def _wanted_logs(self, claim: ContainerClaim, beat: Heartbeat) -> Mapping[str, int] | None:
        """Readers must not harm the job that they read: without their logs the heartbeat still counts."""
        try:
            return await self._live_logs.take(claim.job_id, claim.container_number, claim.attempt, beat.logs)
        except Exception:
            _log.exception("live_logs_failed", job=claim.job_id, container=claim.container_number)
            return None

    async def inputs(
        self, caller: Principal | ContainerClaim, job_id: str, number: int, request: InputsRequest
    ) -> dict[str, Any]:
        """Fresh presigned GETs for inputs of this container."""
        claim = self._own(caller, job_id, number)
        job = await self._open_job(job_id)
        await self._current(job, number, claim.attempt)
        own = set((await self._inputs(job, number)).files)
        for file in request.files:
            if file not in own:
                raise IllegalParameterError(f"files: {file!r} is not an input of container {number} of job {job_id}")
        urls = await self._s3.presign_gets(request.files, self._config.presign_expiry, internal=self._internal(job))
        return {"inputs": [{"file": f, "url": u} for f, u in zip(request.files, urls, strict=True)]}

    async def uploads(
        self, caller: Principal | ContainerClaim, job_id: str, number: int, request: UploadsRequest
    ) -> dict[str, Any]:
        """Presigned uploads for outputs and logs. Raises: IllegalS3PathError, IllegalParameterError for a collision."""
        claim = self._own(caller, job_id, number)
        job = await self._open_job(job_id)
        await self._current(job, number, claim.attempt)
        paths = [check_output_path(f.path) for f in request.files]
        targets = [check_s3_path(_output_dir(job, number) + path) for path in paths]
        await self._claim_outputs(job, number, paths)
        files = [
            {"path": f.path, **await self._presign(job, target, f.size, f.crc64nvme, f.parts)}
            for f, target in zip(request.files, targets, strict=True)
        ]
        logs = [
            {
                "stream": entry.stream,
                **await self._presign(
                    job, log_file(job.logpath or "", number, entry.stream), entry.size, entry.crc64nvme, entry.parts
                ),
            }
            for entry in request.logs
        ]
        return {"files": files, "logs": logs}

    async def complete_uploads(
        self, caller: Principal | ContainerClaim, job_id: str, number: int, request: UploadsComplete
    ) -> None:
        """Make objects of uploads in parts. Raises: ChecksumMismatchError."""
        claim = self._own(caller, job_id, number)
        job = await self._open_job(job_id)
        await self._current(job, number, claim.attempt)
        targets = [check_s3_path(_output_dir(job, number) + check_output_path(f.path)) for f in request.files]
        targets += [log_file(job.logpath or "", number, entry.stream) for entry in request.logs]
        for target, upload in zip(targets, [*request.files, *request.logs], strict=True):
            try:
                await self._s3.complete_multipart(target, upload.upload_id, upload.etags, upload.crc64nvme)
            except NoSuchS3PathError as e:
                raise IllegalParameterError(f"upload_id: there is no such upload of {target!r}") from e

    async def update(
        self,
        caller: Principal | ContainerClaim,
        job_id: str,
        number: int,
        state: JobState,
        update: ContainerUpdate,
    ) -> None:
        """Take in the report that a container has reached a state.

        Outputs are believed once S3 says the same. Raises: ChecksumMismatchError, IllegalParameterError for outputs
        that are not there or not this container's to write.
        """
        attempt = self._own(caller, job_id, number).attempt if isinstance(caller, ContainerClaim) else None
        if state in {JobState.CREATED, JobState.CANCELING, JobState.CANCELED}:
            raise InvalidJobStateError(f"A container cannot report the state {state.value}")
        outputs = None
        if state is JobState.COMPLETE:
            outputs = await self._verified(await self._immutable(job_id), number, update)
            if attempt is None:
                await self._claim_reported(job_id, number, outputs)
            if len(outputs) > INLINE_OUTPUTS:
                outputs = await self._store_outputs(job_id, number, attempt, outputs)
        now = self._clock()
        usage = update.usage
        outcome = await self._containers.report(
            job_id,
            number,
            state,
            Reached(update.time.astimezone(datetime.UTC), now),
            attempt=attempt,
            exit_code=update.exit_code,
            error=update.error,
            admin_error=update.admin_error,
            traceback=update.traceback,
            usage=Usage(usage.cpu_seconds, usage.wall_seconds, usage.max_memory) if usage else None,
            outputs=outputs,
        )
        if outcome is Outcome.APPLIED:
            self._changed(job_id, False)
            self._meter.reported((await self._immutable(job_id)).site, state.value)
        elif outcome is Outcome.MISSING:
            await self._missing(job_id, number)
        elif outcome is Outcome.CONFLICT:
            raise InvalidJobStateError(
                f"Container {number} of job {job_id} cannot enter the state {state.value}: this attempt is over"
            )

    # Claims

    async def _claim(self, job: JobRecord, number: int, request: WorkRequest) -> ContainerRecord:
        container = await self._containers.get(job.id, number)
        if container is None:
            raise NoSuchSubJobError(f"Job {job.id} has no container {number}; they are 0 to {job.containers - 1}")
        if request.attempt is not None and request.attempt != container.attempt:
            raise InvalidJobStateError(
                f"Container {number} of job {job.id} is at attempt {container.attempt}, not {request.attempt}"
            )
        if request.run is not None and request.run != container.run:
            raise InvalidJobStateError(
                f"Container {number} of job {job.id} is at run {container.run}, not {request.run}"
            )
        now = self._clock()
        claimed = await self._containers.claim(job.id, number, container.attempt, request.claim, now)
        if claimed is not None:
            return claimed
        if request.attempt is None and container.counted_attempts < self._config.max_attempts:
            # The engine has started the executor again by itself: this process supersedes the one before it.
            why = container.ending or "its executor was started again by the site"
            begun = await self._containers.next_attempt(job.id, number, container.attempt, now, why, same_run=True)
            if begun is not None:
                claimed = await self._containers.claim(job.id, number, begun.attempt, request.claim, now)
        if claimed is None:
            raise InvalidJobStateError(
                f"Attempt {container.attempt} of container {number} of job {job.id} is over or has another executor"
            )
        return claimed

    async def _order(self, job: JobRecord, container: ContainerRecord) -> dict[str, Any]:
        number = container.number
        params = Parameters.model_validate(job.input["params"])
        inputs = await self._inputs(job, number)
        ids: Sequence[str | None] = inputs.data_ids or [None] * len(inputs)
        placed = [PlacedFile(place, data_id) for place, data_id in zip(inputs.places, ids, strict=True)]
        rendered = render(params, number, placed)
        urls = await self._s3.presign_gets(inputs.files, self._config.presign_expiry, internal=self._internal(job))
        expires = self._clock() + datetime.timedelta(seconds=job.runtime + self._config.token_lifetime)
        site = self._sites.get(job.site)
        manifest = rendered.manifest
        refdata = refdata_of(job)
        return {
            "job_id": job.id,
            "container_number": number,
            "attempt": container.attempt,
            "token": self._tokens.mint(job.id, number, container.attempt, expires),
            "token_expires": expires.isoformat().replace("+00:00", "Z"),
            "image": f"{job.image.name}@{job.image.digest}",
            "args": list(rendered.args),
            "environment": dict(rendered.environment),
            "input_mount_point": params.input_mount_point,
            "output_mount_point": params.output_mount_point,
            "refdata": {"id": refdata.id, "mount_point": refdata.mount_point} if refdata else None,
            "limits": {
                "cpus": job.input["cpus"],
                "memory": job.input["memory"],
                "runtime": job.runtime,
                "gpus": job.input.get("gpus") or 0,
                "pids": self._config.pids,
            },
            "network": bool(site and site.info.network),
            "inputs": [
                {"file": f, "path": p, "url": u, "size": s, "crc64nvme": c}
                for f, p, u, s, c in zip(
                    inputs.files, inputs.places, urls, inputs.sizes, inputs.crc64nvmes, strict=True
                )
            ],
            "manifest": {"path": manifest.path, "content": manifest.content} if manifest else None,
            "upload": {"part_size": self._config.part_size, "batch": self._config.upload_batch},
            "heartbeat_interval": self._config.heartbeat_interval,
            "silence_limit": self._config.silence_limit,
        }

    # Uploads and outputs

    async def _claim_reported(self, job_id: str, number: int, outputs: OutputFiles) -> None:
        """An external executor may have written outputs without asking for uploads, where they would be claimed."""
        job = await self._job(job_id)
        if not job.state.is_terminal:  # else claims are of no use any more, and nobody would release them
            directory = _output_dir(job, number)
            await self._claim_outputs(job, number, [file.removeprefix(directory) for file in outputs.files])

    async def _claim_outputs(self, job: JobRecord, number: int, paths: Sequence[str]) -> None:
        if job.containers == 1 or job.input["params"]["declobber"]:
            return
        taken = await self._files.claim_outputs(job.id, number, paths)
        if taken is not None:
            path, other = taken
            raise IllegalParameterError(
                f"Containers {min(number, other)} and {max(number, other)} both write the output file {path!r}; give "
                "their outputs different names, or submit the job with declobber"
            )

    def _internal(self, job: JobRecord) -> bool:
        site = self._sites.get(job.site)
        return site is not None and site.info.internal_s3

    async def _presign(
        self, job: JobRecord, target: str, size: int, crc64nvme: str, parts: Sequence[Any] | None
    ) -> dict[str, Any]:
        expiry, internal = self._config.presign_expiry, self._internal(job)
        if parts is None:
            put = self._s3.presign_put(target, size, crc64nvme, expiry, internal=internal)
            return {"file": target, "url": put.url, "headers": dict(put.headers), "upload_id": None, "parts": None}
        specs = [PartSpec(p.size, p.crc64nvme) for p in parts]
        upload_id, puts = await self._s3.start_multipart(target, specs, expiry, internal=internal)
        return {
            "file": target,
            "url": None,
            "headers": {},
            "upload_id": upload_id,
            "parts": [{"url": p.url, "headers": dict(p.headers)} for p in puts],
        }

    async def _verified(self, job: JobRecord, number: int, update: ContainerUpdate) -> OutputFiles:
        """The reported outputs, once a HEAD of each has said the same."""
        reported = update.outputs or ()
        directory = _output_dir(job, number)
        for output in reported:
            if not is_under(check_s3_path(output.file), directory):
                raise IllegalParameterError(
                    f"outputs: {output.file!r} is not below {directory!r}, the output directory of container {number}"
                )
        try:
            found = await self._s3.head_many([o.file for o in reported])
        except (NoSuchS3PathError, NoSuchBucketError) as e:
            raise IllegalParameterError(f"outputs: {e.message}") from e
        for output, there in zip(reported, found, strict=True):
            if there.crc64nvme != output.crc64nvme:
                raise ChecksumMismatchError(
                    f"The output file {output.file!r} has the CRC64NVME checksum {there.crc64nvme} in S3, but "
                    f"container {number} of job {job.id} reported {output.crc64nvme}: it changed on the way"
                )
        return OutputFiles([o.file for o in reported], [o.crc64nvme for o in reported])

    async def _store_outputs(
        self, job_id: str, number: int, attempt: int | None, outputs: OutputFiles
    ) -> OutputFiles | None:
        """Keep outputs that are too many for the container's own document, unless it is over: then others stand."""
        container = await self._containers.get(job_id, number)
        if container is not None and attempt in {None, container.attempt} and not container.state.is_terminal:
            await self._files.put_outputs(job_id, outputs, container=number, attempt=container.attempt)
        return None

    # Looking things up

    def _own(self, caller: Principal | ContainerClaim, job_id: str, number: int) -> ContainerClaim:
        if not isinstance(caller, ContainerClaim):
            raise UnauthorizedError("This call takes the container token of a work order")
        if (caller.job_id, caller.container_number) != (job_id, number):
            raise UnauthorizedError("The container token was given for another container")
        return caller

    async def _job(self, job_id: str) -> JobRecord:
        job = await self._jobs.get(job_id)
        if job is None:
            raise NoSuchJobError(f"There is no job with the ID {job_id!r}")
        return job

    async def _open_job(self, job_id: str) -> JobRecord:
        job = await self._job(job_id)
        if job.state is JobState.CANCELING or job.state.is_terminal:
            raise InvalidJobStateError(f"Job {job_id} takes no more work: it is {job.state.value}")
        return job

    async def _immutable(self, job_id: str) -> JobRecord:
        """A job of which only what never changes may be used: it may be a remembered one."""
        job = self._remembered.get(job_id)
        if job is None:
            job = await self._job(job_id)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[job_id] = job
        return job

    async def _current(self, job: JobRecord, number: int, attempt: int) -> None:
        container = await self._containers.get(job.id, number)
        if container is None or container.attempt != attempt or container.state.is_terminal:
            raise InvalidJobStateError(f"Attempt {attempt} of container {number} of job {job.id} is over")

    async def _missing(self, job_id: str, number: int) -> None:
        job = await self._job(job_id)
        raise NoSuchSubJobError(f"Job {job_id} has no container {number}; they are 0 to {job.containers - 1}")

    async def _inputs(self, job: JobRecord, number: int) -> InputFiles:
        share = split_files(job.input_file_count, job.containers)[number]
        return await self._files.inputs(job.id, share.start, share.stop)


def _output_dir(job: JobRecord, number: int) -> str:
    directory: str = job.input["output_dir"]
    return f"{directory}{number}/" if job.input["params"]["declobber"] else directory
