"""Reference data as it was registered. What there is of it at sites is in `stagings`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.refdata import RefdataRecord
from cdmtaskservice.store.codec import Document, from_millis, to_millis
from cdmtaskservice.store.database import Database, store_call

_REMOVING = "removing"
"""What `retiring` is from the retirement on until the data is gone everywhere."""


class RefdataStore:
    """The `refdata` collection."""

    def __init__(self, database: Database) -> None:
        self._refdata = database.db.refdata

    @store_call
    async def insert(self, refdata: RefdataRecord) -> RefdataRecord | None:
        """Store reference data. Where the same file with the same checksum is there, and not retired, nothing is stored
        and that one is returned."""
        current = f"{refdata.crc64nvme}/{refdata.file}"
        document: Document = {
            "_id": refdata.id,
            "file": refdata.file,
            "crc64nvme": refdata.crc64nvme,
            "size": refdata.size,
            "unpack": int(refdata.unpack),
            "registered_by": refdata.registered_by,
            "registered_on": to_millis(refdata.registered_on),
            "current": current,
        }
        try:
            await self._refdata.insert_one(document)
        except DuplicateKeyError:
            found = await self._refdata.find_one({"current": current})
            if found is None:  # it was retired in this instant
                return await self.insert(refdata)
            return _decode(found)
        return None

    @store_call
    async def get(self, refdata_id: str) -> RefdataRecord | None:
        """One, or None."""
        document = await self._refdata.find_one({"_id": refdata_id})
        return _decode(document) if document else None

    @store_call
    async def list(self, limit: int, file: str | None = None) -> Sequence[RefdataRecord]:
        """All, or those of a file in S3; the newest first."""
        found = self._refdata.find({"file": file} if file is not None else {})
        return [_decode(d) for d in await found.sort([("registered_on", -1)]).limit(limit).to_list(limit)]

    @store_call
    async def begin_retiring(self, refdata_id: str, request: str, now: datetime.datetime) -> RefdataRecord | None:
        """Let nothing new come to need it, while it is looked for what does. None where it is not there, or retired.

        request: a name for this. Of two at once, the later one counts.
        """
        document = await self._refdata.find_one_and_update(
            {"_id": refdata_id, "retired_on": None},
            {"$set": {"retiring": request, "retiring_at": to_millis(now)}},
            return_document=ReturnDocument.AFTER,
        )
        return _decode(document) if document else None

    @store_call
    async def stop_retiring(self, refdata_id: str, request: str) -> None:
        """It is not retired after all."""
        await self._refdata.find_one_and_update(
            {"_id": refdata_id, "retiring": request, "retired_on": None},
            {"$unset": {"retiring": "", "retiring_at": ""}},
            projection={"_id": 1},
        )

    @store_call
    async def retire(self, refdata_id: str, request: str, by: str, now: datetime.datetime) -> bool:
        """It is retired. False where the request does not count any more."""
        done = await self._refdata.find_one_and_update(
            {"_id": refdata_id, "retiring": request, "retired_on": None},
            {
                "$set": {"retired_by": by, "retired_on": to_millis(now), "retiring": _REMOVING},
                "$unset": {"current": "", "retiring_at": ""},
            },
            projection={"_id": 1},
        )
        return done is not None

    @store_call
    async def broken_off(self, before: datetime.datetime, limit: int) -> Sequence[RefdataRecord]:
        """Those whose retirement was begun before `before`, and not gone on with."""
        found = self._refdata.find({"retiring_at": {"$lt": to_millis(before)}})
        return [_decode(d) for d in await found.limit(limit).to_list(limit)]

    @store_call
    async def removing(self) -> Sequence[RefdataRecord]:
        """Those that are retired, and not known to be gone everywhere."""
        return [_decode(d) async for d in self._refdata.find({"retiring": _REMOVING})]

    @store_call
    async def gone(self, refdata_id: str) -> None:
        """What was retired is gone everywhere."""
        await self._refdata.find_one_and_update(
            {"_id": refdata_id, "retiring": _REMOVING},
            {"$unset": {"retiring": "", "retiring_at": ""}},
            projection={"_id": 1},
        )


def _decode(document: Mapping[str, Any]) -> RefdataRecord:
    retired_on = document.get("retired_on")
    return RefdataRecord(
        id=document["_id"],
        file=document["file"],
        crc64nvme=document["crc64nvme"],
        size=document["size"],
        unpack=bool(document["unpack"]),
        registered_by=document["registered_by"],
        registered_on=from_millis(document["registered_on"]),
        retiring=document.get("retiring"),
        retired_by=document.get("retired_by"),
        retired_on=from_millis(retired_on) if retired_on else None,
    )
