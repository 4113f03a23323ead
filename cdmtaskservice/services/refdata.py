"""Reference data: registered once, staged at every site that has room for it, and retired when nothing needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.clock import Clock, IdSource
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    InvalidRefdataStateError,
    NoSuchRefdataError,
    RefdataExistsError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.refdata import RefdataRecord, StagingRecord, StagingTransition, archive_format, staging_id
from cdmtaskservice.domain.s3_paths import check_s3_path
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.stagings import StagingStore

_log = structlog.get_logger(__name__)

MAX_LISTED = 1000
_TRIES = 3
"""To change what somebody else changes in the same instant."""
_OF_A_ROUND = ("error", "admin_error", "traceback", "progress", "waiting", "files", "unpacked")
"""What is known of a staging that does not outlive a recovery."""
_NAMED = 5
"""Images or jobs that are named where they stand in the way."""


@dataclass(frozen=True)
class RefdataView:
    """Reference data with what there is of it at sites, by their names."""

    refdata: RefdataRecord
    stagings: Sequence[StagingRecord] = field(default_factory=tuple)


class Refdata:
    """The use cases of reference data. Every method that names some raises NoSuchRefdataError."""

    def __init__(
        self,
        store: RefdataStore,
        stagings: StagingStore,
        images: ImageStore,
        jobs: JobStore,
        s3: S3Client,
        sites: Sites,
        keeping: Collection[str],
        clock: Clock,
        new_id: IdSource,
        look: Callable[[str], None],
    ) -> None:
        """keeping: the names of the sites that have room for reference data. look: told the ID of a staging to look
        at."""
        self._store = store
        self._stagings = stagings
        self._images = images
        self._jobs = jobs
        self._s3 = s3
        self._sites = sites
        self._keeping = keeping
        self._clock = clock
        self._new_id = new_id
        self._look = look

    # Reading

    async def get(self, refdata_id: str) -> RefdataView:
        """One."""
        return (await self._with_stagings([await self._find(refdata_id)]))[0]

    async def list(self, file: str | None = None) -> Sequence[RefdataView]:
        """All, or those of a file in S3; the newest first, at most 1000. Raises: IllegalS3PathError."""
        path = None if file is None else check_s3_path(file)
        return await self._with_stagings(await self._store.list(MAX_LISTED, path))

    # Administrators

    async def register(self, admin: Principal, file: str, crc64nvme: str | None, *, unpack: bool) -> RefdataView:
        """Register a file, and begin to stage it at every site that has room.

        crc64nvme: what its checksum must be, in base64. Raises: IllegalS3PathError, IllegalParameterError for what
        cannot be unpacked, NoSuchBucketError, NoSuchS3PathError, S3PathInaccessibleError, ChecksumMismatchError,
        RefdataExistsError.
        """
        path = check_s3_path(file)
        if unpack:
            archive_format(path)
        found = await self._s3.head(path)
        if found.crc64nvme is None:
            raise ChecksumMismatchError(f"The file {path!r} has no CRC64NVME checksum; upload it again with one")
        if crc64nvme is not None and crc64nvme != found.crc64nvme:
            raise ChecksumMismatchError(
                f"The file {path!r} has the CRC64NVME checksum {found.crc64nvme} in S3, but the request expects "
                f"{crc64nvme}; the file has changed, or the request is wrong"
            )
        now = self._clock()
        refdata = RefdataRecord(self._new_id(), path, found.crc64nvme, found.size, unpack, admin.user, now)
        stagings = [self._new_staging(refdata.id, site) for site in self._keeping]
        for staging in stagings:
            await self._stagings.insert(staging)
        # What it is comes last: until then it is not registered.
        same = await self._store.insert(refdata)
        if same is not None:
            for staging in stagings:
                await self._stagings.delete(staging.id)
            raise RefdataExistsError(
                f"The file {path!r} with the CRC64NVME checksum {found.crc64nvme} is registered already, as {same.id}; "
                "use that, or retire it first"
            )
        _log.info("refdata_registered", refdata=refdata.id, file=path, size=found.size, by=admin.user)
        for staging in stagings:
            self._look(staging.id)
        return RefdataView(refdata, stagings)

    async def recover(self, admin: Principal, refdata_id: str, site: str, *, force: bool = False) -> None:
        """Begin to stage it at a site anew: where that failed or does not go on, or where it was never begun.

        force: even where it is complete, as when a disk was lost. What lies there is used if it is whole.

        Raises: IllegalParameterError for an unknown site, UnsupportedOperationError for one without room,
        InvalidRefdataStateError where it is staged, or retired.
        """
        refdata = await self._find(refdata_id)
        self._check_keeps(site)
        if not refdata.is_current:
            raise InvalidRefdataStateError(f"The reference data {refdata_id} is retired; register the file again")
        for _ in range(_TRIES):
            if await self._begin_anew(refdata_id, site, force=force):
                _log.info("refdata_recovered", refdata=refdata_id, site=site, by=admin.user)
                self._look(staging_id(refdata_id, site))
                return
        raise _just_changed(refdata_id, site)

    async def _begin_anew(self, refdata_id: str, site: str, *, force: bool) -> bool:
        """False where it has changed in this instant."""
        staging = await self._stagings.get(staging_id(refdata_id, site))
        if staging is None:
            return await self._stagings.insert(self._new_staging(refdata_id, site))
        if staging.state is RefdataState.COMPLETE and not force:
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is staged at {site} already; force=true stages it again"
            )
        fields: dict[str, Any] = dict.fromkeys(_OF_A_ROUND)
        fields.update(round=staging.round + 1, cleaning=0, cleaned=0, failures=0)
        created = StagingTransition(RefdataState.CREATED, self._clock())
        return await self._stagings.transition(staging, created, fields) is not None

    async def clean(self, admin: Principal, refdata_id: str, site: str, *, force: bool) -> None:
        """Have removed what staging has left at a site, and not the data; once more is no error.

        Raises: IllegalParameterError for an unknown site, UnsupportedOperationError for one without room,
        InvalidRefdataStateError where it is being staged, unless forced: then that is stopped.
        """
        await self._find(refdata_id)
        self._check_keeps(site)
        for _ in range(_TRIES):
            staging = await self._stagings.get(staging_id(refdata_id, site))
            if staging is None or staging.removed_on is not None or (staging.is_over and staging.cleaned):
                return
            if not staging.is_over and not force:
                raise InvalidRefdataStateError(
                    f"The reference data {refdata_id} is {staging.state.value} at {site}; only where it is complete or "
                    "in error can it be cleaned up without force, which stops the staging"
                )
            if await self._stagings.want_cleaning(staging):
                _log.info("refdata_cleaning", refdata=refdata_id, site=site, by=admin.user)
                self._look(staging.id)
                return
        raise _just_changed(refdata_id, site)

    async def retire(self, admin: Principal, refdata_id: str) -> None:
        """Have it removed at every site. What was known of it stays. Once more is no error.

        Raises: InvalidRefdataStateError where an image names it, or a job that is not over needs it.
        """
        if (await self._find(refdata_id)).retired_on is not None:
            return
        request = self._new_id()
        # From here on nothing new can come to need it, so what is found then is all that there is.
        if await self._store.begin_retiring(refdata_id, request, self._clock()) is None:
            return
        try:
            await self._check_unused(refdata_id)
        except InvalidRefdataStateError:
            await self._store.stop_retiring(refdata_id, request)
            raise
        if not await self._store.retire(refdata_id, request, admin.user, self._clock()):
            raise InvalidRefdataStateError(f"Somebody else is retiring the reference data {refdata_id}; look at it")
        _log.info("refdata_retired", refdata=refdata_id, by=admin.user)
        for staging in await self._stagings.of([refdata_id]):
            await self._stagings.wake(staging.id)
            self._look(staging.id)

    # For images and jobs

    async def require_current(self, refdata_id: str) -> RefdataRecord:
        """It must be there and not retired. Raises: InvalidRefdataStateError."""
        refdata = await self._find(refdata_id)
        if not refdata.is_current:
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is retired, or is about to be; an administrator can register it again"
            )
        return refdata

    async def require_staged(self, refdata_id: str, site: str) -> None:
        """It must be there for jobs at that site. Raises: InvalidRefdataStateError."""
        await self.require_current(refdata_id)
        staging = await self._stagings.get(staging_id(refdata_id, site))
        if staging is None:
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id}, which the image needs, is not at the site {site}; use another site, "
                "or ask an administrator to stage it there"
            )
        if staging.state is not RefdataState.COMPLETE:
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id}, which the image needs, is in the state {staging.state.value} at the "
                f"site {site}, and must be complete; use another site, or try again later"
            )

    # Parts

    async def _find(self, refdata_id: str) -> RefdataRecord:
        found = await self._store.get(refdata_id)
        if found is None:
            raise NoSuchRefdataError(f"There is no reference data with the ID {refdata_id!r}")
        return found

    async def _with_stagings(self, found: Sequence[RefdataRecord]) -> Sequence[RefdataView]:
        by_id: Mapping[str, list[StagingRecord]] = {r.id: [] for r in found}
        for staging in await self._stagings.of(list(by_id)) if by_id else ():
            by_id[staging.refdata_id].append(staging)
        return [RefdataView(r, sorted(by_id[r.id], key=lambda s: s.site)) for r in found]

    async def _check_unused(self, refdata_id: str) -> None:
        if images := await self._images.using_refdata(refdata_id, _NAMED):
            named = ", ".join(f"{i.name}@{i.digest}" for i in images)
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is named by the images {named}; withdraw these first"
            )
        if await self._jobs.announced_with_refdata(refdata_id, 1):
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is needed by a job that is just being submitted, or whose submission "
                "was broken off; try again, at the latest after reconciler.orphan_age"
            )
        if jobs := await self._jobs.using_refdata(refdata_id, _NAMED):
            raise InvalidRefdataStateError(
                f"The reference data {refdata_id} is needed by the jobs {', '.join(jobs)}; wait until they are over, "
                "or cancel them"
            )

    def _check_keeps(self, site: str) -> None:
        self._sites.info(site)
        if site not in self._keeping:
            raise UnsupportedOperationError(
                f"The site {site} has no room for reference data; its setting refdata_dir gives it some"
            )

    def _new_staging(self, refdata_id: str, site: str) -> StagingRecord:
        created = StagingTransition(RefdataState.CREATED, self._clock())
        return StagingRecord(refdata_id, site, RefdataState.CREATED, (created,))


def _just_changed(refdata_id: str, site: str) -> InvalidRefdataStateError:
    return InvalidRefdataStateError(
        f"The reference data {refdata_id} has just changed at {site}; look at it, and try again if need be"
    )
