"""Approved images: only they may be run."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import (
    InvalidRefdataStateError,
    MissingParameterError,
    NoSuchImageError,
    NoSuchRefdataError,
)
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.registry.crane import Crane, ImageFacts
from cdmtaskservice.registry.names import ImageName
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.store.images import ImageStore

__all__ = ["MAX_LISTED", "ImageFacts", "Images"]

MAX_LISTED = 1000

_log = structlog.get_logger(__name__)


class Images:
    """Approving, finding and withdrawing images. Every name that cannot be read raises ImageNameParseError."""

    def __init__(self, store: ImageStore, crane: Crane, refdata: Refdata, clock: Clock) -> None:
        self._store = store
        self._crane = crane
        self._refdata = refdata
        self._clock = clock

    async def get(self, text: str) -> ImageRecord:
        """The approved image of that name; a digest wins over a tag. Raises: NoSuchImageError."""
        name = ImageName.parse(text)
        found = await self._store.find(name.name, tag=name.tag, digest=name.digest)
        if found is None:
            raise NoSuchImageError(f"The image {name} is not approved; an administrator can approve it")
        return found

    async def list(self) -> Sequence[ImageRecord]:
        """Approved images, the newest first, at most 1000."""
        return await self._store.list(MAX_LISTED)

    async def inspect(self, text: str) -> ImageFacts:
        """What the registry says of an image, approved or not: what approving it now would approve.

        Raises: ImageFetchError, ImageNoEntrypointError.
        """
        return await self._crane.resolve(ImageName.parse(text))

    async def approve(
        self,
        admin: Principal,
        text: str,
        approval: ImageApproval,
        refdata_id: str | None = None,
        default_refdata_mount_point: str | None = None,
    ) -> ImageRecord:
        """Look an image up in its registry and approve it by its digest.

        Where the approval names an image, what the request leaves out is as that image has it.

        Raises: ImageFetchError, ImageNoEntrypointError, ImageTagExistsError, ImageDigestExistsError,
        NoSuchImageError for a `from_image` that is not approved, NoSuchRefdataError, InvalidRefdataStateError for
        reference data that is retired, MissingParameterError for a mount point of none.
        """
        name = ImageName.parse(text)
        source = await self.get(approval.from_image) if approval.from_image else None
        if source is not None:
            if default_refdata_mount_point is None and refdata_id in {None, source.refdata_id}:
                default_refdata_mount_point = source.default_refdata_mount_point
            refdata_id = refdata_id or source.refdata_id
        if default_refdata_mount_point is not None and refdata_id is None:
            raise MissingParameterError("default_refdata_mount_point needs refdata_id: there is nothing to mount")
        if refdata_id is not None:
            await self._refdata.require_current(refdata_id)
        facts = await self._crane.resolve(name)
        image = ImageRecord(
            name=facts.name,
            digest=facts.digest,
            tag=facts.tag,
            entrypoint=facts.entrypoint,
            registered_by=admin.user,
            registered_on=self._clock(),
            refdata_id=refdata_id,
            default_refdata_mount_point=default_refdata_mount_point,
            urls=approval.urls if approval.urls is not None else (source.urls if source else None),
            usage_notes=(
                approval.usage_notes if approval.usage_notes is not None else (source.usage_notes if source else None)
            ),
        )
        await self._store.insert(image)
        if refdata_id is not None:
            await self._keep_if_current(image, refdata_id)
        _log.info("image_approved", image=str(name), digest=image.digest, by=admin.user)
        return image

    async def _keep_if_current(self, image: ImageRecord, refdata_id: str) -> None:
        """Whoever retired the data meanwhile may not have seen the image; whoever begins to now will."""
        try:
            await self._refdata.require_current(refdata_id)
        except (InvalidRefdataStateError, NoSuchRefdataError):
            await self._store.delete(image.name, image.digest)
            raise

    async def delete(self, text: str) -> None:
        """Withdraw an approval; jobs that run go on. Raises: NoSuchImageError."""
        image = await self.get(text)
        if not await self._store.delete(image.name, image.digest):
            raise NoSuchImageError(f"The image {text} is not approved")
