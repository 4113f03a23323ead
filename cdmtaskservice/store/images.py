"""Approved images."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.errors import ImageDigestExistsError, ImageTagExistsError
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.store.codec import decode_image, encode_image
from cdmtaskservice.store.database import Database, store_call


class ImageStore:
    """The `images` collection."""

    def __init__(self, database: Database) -> None:
        self._images = database.db.images

    @store_call
    async def insert(self, image: ImageRecord) -> None:
        """Store an approved image. Raises: ImageDigestExistsError, ImageTagExistsError."""
        document = {"_id": f"{image.name}@{image.digest}", **encode_image(image)}
        if image.tag is not None:
            document["tagged"] = f"{image.name}:{image.tag}"
        try:
            await self._images.insert_one(document)
        except DuplicateKeyError as e:
            if await self._images.find_one({"_id": document["_id"]}, {"_id": 1}):
                raise ImageDigestExistsError(
                    f"The image {image.name}@{image.digest} is approved already; delete it first to change it"
                ) from e
            raise ImageTagExistsError(
                f"The image {image.name}:{image.tag} is approved already with another digest; delete that one first"
            ) from e

    @store_call
    async def find(self, name: str, *, tag: str | None = None, digest: str | None = None) -> ImageRecord | None:
        """The approved image with that digest or, without one, that tag."""
        query = {"_id": f"{name}@{digest}"} if digest else {"tagged": f"{name}:{tag}"}
        document = await self._images.find_one(query)
        return decode_image(document) if document else None

    @store_call
    async def list(self, limit: int) -> Sequence[ImageRecord]:
        """Approved images, the newest first."""
        found = self._images.find({}).sort([("registered_on", -1)]).limit(limit)
        return [decode_image(d) for d in await found.to_list(limit)]

    @store_call
    async def using_refdata(self, refdata_id: str, limit: int) -> Sequence[ImageRecord]:
        """Approved images that need this reference data."""
        found = self._images.find({"refdata_id": refdata_id}).limit(limit)
        return [decode_image(d) for d in await found.to_list(limit)]

    @store_call
    async def delete(self, name: str, digest: str) -> bool:
        """Withdraw the approval. False where there was none."""
        result = await self._images.delete_one({"_id": f"{name}@{digest}"})
        return bool(result.deleted_count)
