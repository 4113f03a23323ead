"""Submitting a job: every check first, in a fixed order, then everything is stored, the job itself last."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from cdmtaskservice.auth.principal import Permissions, Principal, SiteKind
from cdmtaskservice.domain.arguments import PlacedFile, Rendered, check_renderable, render
from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    DependencyUnavailableError,
    IdempotencyConflictError,
    IllegalParameterError,
    MissingParameterError,
    S3PathInaccessibleError,
    UnauthorizedError,
)
from cdmtaskservice.domain.jobs import InputFile, JobInput, cpu_hours
from cdmtaskservice.domain.parameters import Parameters
from cdmtaskservice.domain.placement import place_inputs, split_files
from cdmtaskservice.domain.quantities import memory_in_words, runtime_in_words
from cdmtaskservice.domain.records import ImageRecord, InputFiles, JobRecord, Transition
from cdmtaskservice.domain.s3_paths import is_under
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.images import Images
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.sites.base import SiteInfo
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

_log = structlog.get_logger(__name__)

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Checked:
    """A job that holds good. places: of the input files below the input mount point, found: what S3 says of them, both
    in the order of the request. warnings: what is allowed and may not be meant, a sentence each, in a dry run."""

    site: SiteInfo
    image: ImageRecord
    places: Sequence[str]
    found: Sequence[S3Object]
    warnings: Sequence[str] = ()

    def first_container(self, job: JobInput) -> tuple[Rendered, Sequence[str]]:
        """What container 0 of the job is started with, and the places of its input files."""
        share = split_files(len(self.places), job.num_containers)[0]
        files = _placed(job, self.places)[share.start : share.stop]
        return render(job.params, 0, files), self.places[share.start : share.stop]


@dataclass(frozen=True)
class SubmissionConfig:
    """max_cpu_hours: the most CPU hours that a job may ask for. log_path: S3 prefix of all container logs."""

    max_cpu_hours: float
    log_path: str


class Submission:
    """The use case behind `POST /jobs`."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        images: Images,
        refdata: Refdata,
        sites: Sites,
        s3: S3Client,
        authentication: Authentication,
        permissions: Permissions,
        clock: Clock,
        new_id: IdSource,
        accepted: Callable[[str], None],
        config: SubmissionConfig,
    ) -> None:
        """accepted: told the ID of every job that was stored."""
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._images = images
        self._refdata = refdata
        self._sites = sites
        self._s3 = s3
        self._authentication = authentication
        self._permissions = permissions
        self._clock = clock
        self._new_id = new_id
        self._accepted = accepted
        self._config = config

    async def submit(self, user: Principal, job: JobInput, idempotency_key: str | None = None) -> str:
        """Accept a job and return its ID, or raise the first thing that is wrong and leave nothing behind.

        idempotency_key: the same user, key and request give the same job; IdempotencyConflictError for another
            request with that key.
        """
        key = None
        if idempotency_key is not None:
            key = (f"{user.user}/{idempotency_key}", hashlib.sha256(job.model_dump_json().encode()).hexdigest())
            if found := await self._find_same(key):
                return found
        return await self._store(user, job, await self._check(user, job), key)

    async def dry_run(self, user: Principal, job: JobInput) -> Checked:
        """Make every check of a submission, and look for what to warn of. Raises the first thing that is wrong; stores
        nothing."""
        return replace(await self._check(user, job), warnings=await self._warnings(job))

    async def _check(self, user: Principal, job: JobInput) -> Checked:
        places = place_inputs(job.files, job.input_roots or ())
        check_renderable(job.params, _placed(job, places), job.num_containers)
        site = self._sites.info(job.cluster)
        self._check_roles(user, site)
        _, image = await in_order(self._sites.check_open(job.cluster), self._find_image(job, site))
        allowed = self._authentication.allowed_paths(user)
        self._check_allowed("output_dir", [job.output_dir], allowed)
        _, found_files = await in_order(self._s3.check_writable(job.output_dir), self._look_at_inputs(job, allowed))
        return Checked(site, image, places, found_files)

    async def _warnings(self, job: JobInput) -> Sequence[str]:
        directory = f"{job.output_dir}0/" if job.params.declobber else job.output_dir
        try:
            there = await self._s3.first_below(directory)
        except CTSError as e:
            # Nobody may be refused for want of a warning: the service may be allowed to write there, and not to list.
            _log.info("output_dir_not_listed", error=e.message)
            return ()
        if there is None:
            return ()
        return (
            f"output_dir: {directory!r} holds files already, such as {there!r}: outputs of the same name will "
            "replace them. Name a directory of its own to keep both",
        )

    async def _find_same(self, key: tuple[str, str]) -> str | None:
        found = await self._jobs.find_idempotent(key[0])
        if found is None:
            return None
        job_id, request_hash = found
        if request_hash != key[1]:
            raise IdempotencyConflictError(
                f"The Idempotency-Key was used for another request, which made job {job_id}; use a new key"
            )
        return job_id

    async def _find_image(self, job: JobInput, site: SiteInfo) -> ImageRecord:
        check_limits(job, site)
        self._check_cpu_hours(job)
        image = await self._images.get(job.image)
        if image.refdata_id is not None:
            check_refdata_mount(job, image)
            await self._refdata.require_staged(image.refdata_id, site.name)
        return image

    async def _look_at_inputs(self, job: JobInput, allowed: Sequence[str]) -> Sequence[S3Object]:
        self._check_allowed("input_files", job.files, allowed)
        found = await self._s3.head_many(job.files)
        check_checksums(job.input_files, found)
        return found

    def _check_roles(self, user: Principal, site: SiteInfo) -> None:
        kind: SiteKind = site.kind  # type: ignore[assignment]
        if not self._permissions.may_submit(user, kind):
            roles = " and ".join(sorted(self._permissions.roles_to_submit(kind)))
            raise UnauthorizedError(
                f"User {user.user} may not submit jobs to the site {site.name}: that takes the roles {roles}"
            )

    def _check_cpu_hours(self, job: JobInput) -> None:
        hours = cpu_hours(job)
        if hours > self._config.max_cpu_hours:
            raise IllegalParameterError(
                f"The job asks for {hours:g} CPU hours (cpus × num_containers × runtime), more than the limit of "
                f"{self._config.max_cpu_hours:g}; ask for less or split it into several jobs"
            )

    @staticmethod
    def _check_allowed(field: str, paths: Sequence[str], allowed: Sequence[str]) -> None:
        for path in paths:
            if not any(is_under(path, prefix) for prefix in allowed):
                raise S3PathInaccessibleError(
                    f"{field}: {path!r} is not under a path that you may use; these are {', '.join(allowed)}"
                )

    async def _store(
        self,
        user: Principal,
        job: JobInput,
        checked: Checked,
        key: tuple[str, str] | None,
    ) -> str:
        site, image, found = checked.site, checked.image, checked.found
        now = self._clock()
        job_id = self._new_id()
        with_ids = job.input_files[0].data_id is not None
        inputs = InputFiles(
            files=job.files,
            crc64nvmes=[o.crc64nvme or "" for o in found],
            sizes=[o.size for o in found],
            places=checked.places,
            data_ids=[f.data_id or "" for f in job.input_files] if with_ids else None,
        )
        record = JobRecord(
            id=job_id,
            user=user.user,
            site=site.name,
            input=job.preview().model_dump(mode="json", exclude_none=True),
            image=image,
            input_file_count=len(inputs),
            containers=job.num_containers,
            runtime=job.runtime.total_seconds(),
            state=JobState.CREATED,
            transitions=(Transition(JobState.CREATED, now, self._new_id()),),
            logpath=f"{self._config.log_path}{job_id}/",
            disk=max(sum(inputs.sizes[n] for n in share) for share in split_files(len(inputs), job.num_containers)),
        )
        await self._jobs.announce(job_id, now, image.refdata_id)
        try:
            if image.refdata_id is not None:
                # Whoever retired the data meanwhile may not have seen the announcement; whoever begins to now will.
                await self._refdata.require_staged(image.refdata_id, site.name)
            await self._files.insert_inputs(job_id, inputs)
            await self._containers.insert(job_id, job.num_containers, now)
            stored = await self._jobs.insert(record, key)
        except Exception as e:
            # Where it is not known whether the job itself was stored, nothing may be removed: the cleaner finds out.
            # So it is after a cancellation too, which does not stop a write that is under way.
            if not isinstance(e, DependencyUnavailableError) and not await self._jobs.existing([job_id]):
                await self._forget(job_id)
            raise
        if not stored:  # the same key came twice in one instant, and the other one was first
            await self._forget(job_id)
            assert key is not None
            return await self._find_same(key) or job_id
        await self._settle(job_id)
        _log.info("job_accepted", job=job_id, user=user.user, site=site.name, files=len(inputs))
        self._accepted(job_id)
        return job_id

    async def _settle(self, job_id: str) -> None:
        try:
            await self._jobs.settle(job_id)
        except CTSError:
            _log.info("announcement_left_to_cleaner", job=job_id)

    async def _forget(self, job_id: str) -> None:
        await self._files.delete(job_id)
        await self._containers.delete(job_id)
        await self._jobs.settle(job_id)


def _placed(job: JobInput, places: Sequence[str]) -> list[PlacedFile]:
    return [PlacedFile(place, file.data_id) for place, file in zip(places, job.input_files, strict=True)]


async def in_order(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """What both give, looked up at once.

    Faults are as if `second` had come after `first`: that of `first` is raised, at once, whatever becomes of `second`.
    """
    ahead = asyncio.create_task(second)
    try:
        return await first, await ahead
    finally:
        if not ahead.done():
            ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)


def check_limits(job: JobInput, site: SiteInfo) -> None:
    """Raises: IllegalParameterError where one container asks for more than the site has."""
    limits: Sequence[tuple[str, float, float, Callable[[float], str]]] = (
        ("cpus", job.cpus, site.cpus_per_node, str),
        ("memory", job.memory, site.memory_per_node, memory_in_words),
        ("runtime", job.runtime.total_seconds(), site.max_runtime, runtime_in_words),
        ("gpus", job.gpus, site.gpus_per_node, str),
    )
    for field, asked, most, words in limits:
        if asked > most:
            raise IllegalParameterError(
                f"{field}: {words(asked)} per container is more than the {words(most)} that the site {site.name} allows"
            )


def check_refdata_mount(job: JobInput, image: ImageRecord) -> None:
    """Raises: MissingParameterError where nobody says where the image's reference data is to be,
    IllegalParameterError where it cannot be there."""
    if job.params.refdata_mount_point is not None:
        return  # it was checked with the other parameters
    default = image.default_refdata_mount_point
    if default is None:
        raise MissingParameterError(
            f"params.refdata_mount_point: the image {image.name} needs reference data and names no place for it; say "
            "where its program looks for it"
        )
    try:
        Parameters(
            input_mount_point=job.params.input_mount_point,
            output_mount_point=job.params.output_mount_point,
            refdata_mount_point=default,
        )
    except ValidationError as e:
        raise IllegalParameterError(
            f"params: the image {image.name} has its reference data at {default} unless params.refdata_mount_point "
            f"says otherwise, and {e.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from None


def check_checksums(files: Sequence[InputFile], found: Sequence[S3Object]) -> None:
    """Raises: ChecksumMismatchError for the first file without a CRC64NVME, or with another one than was given."""
    for wanted, object_ in zip(files, found, strict=True):
        if object_.crc64nvme is None:
            raise ChecksumMismatchError(
                f"The input file {wanted.file!r} has no CRC64NVME checksum; upload it again with one"
            )
        if wanted.crc64nvme is not None and wanted.crc64nvme != object_.crc64nvme:
            raise ChecksumMismatchError(
                f"The input file {wanted.file!r} has the CRC64NVME checksum {object_.crc64nvme} in S3, but the "
                f"request expects {wanted.crc64nvme}; the file has changed, or the request is wrong"
            )
