"""What all that the reconciler looks at has in common: leases, next looks, and notes of how far it has come.

Each is one document with `next_look`, `made` (its transitions, counted), `flow` and `handles`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pymongo import ReturnDocument

from cdmtaskservice.store.codec import Document, to_millis
from cdmtaskservice.store.database import store_call


class Looked(Protocol):
    """A record of such a document."""

    @property
    def id(self) -> str:
        """Names it among its kind."""
        ...

    @property
    def transitions(self) -> Sequence[object]:
        """All that were made."""
        ...

    @property
    def next_look(self) -> datetime.datetime | None:
        """When it must be looked at again; None once nothing is left to do."""
        ...

    @property
    def flow(self) -> Mapping[str, Any]:
        """What was noted of it between two states."""
        ...


R = TypeVar("R", bound=Looked)


@dataclass(frozen=True)
class Lease:
    """A right to look at something until `until`, held by the process `owner`."""

    owner: str
    until: datetime.datetime


@dataclass(frozen=True)
class Lag:
    """How many records wait for a look that is due, and since when the one has that waits longest, if that is known."""

    due: int
    since: datetime.datetime | None


_COMPARED = 100
"""Records that are due of which the one is found that waits longest: those due at once do not say since when."""


class LookStore(Generic[R]):
    """A collection of what is looked at."""

    def __init__(self, collection: Any, decode: Callable[[Document], R]) -> None:
        self._looked = collection
        self._decode = decode

    @store_call
    async def get(self, record_id: str) -> R | None:
        """The record, or None."""
        document = await self._looked.find_one({"_id": record_id})
        return self._decode(document) if document else None

    @store_call
    async def lease(self, record_id: str, lease: Lease, now: datetime.datetime) -> R | None:
        """Take the lease on what nobody else holds; None where somebody does, or there is no such record."""
        document = await self._looked.find_one_and_update(
            {"_id": record_id, "lease_until": {"$lte": to_millis(now)}},
            {"$set": {"lease_owner": lease.owner, "lease_until": to_millis(lease.until)}},
            return_document=ReturnDocument.AFTER,
        )
        return self._decode(document) if document else None

    @store_call
    async def extend(self, record_id: str, lease: Lease) -> bool:
        """Keep a lease longer. False where it was lost."""
        document = await self._looked.find_one_and_update(
            {"_id": record_id, "lease_owner": lease.owner},
            {"$set": {"lease_until": to_millis(lease.until)}},
            projection={"_id": 1},
        )
        return document is not None

    @store_call
    async def due(self, now: datetime.datetime, limit: int) -> Sequence[str]:
        """The IDs of those whose next look has come and which nobody looks at, the longest due first."""
        millis = to_millis(now)
        found = self._looked.find({"next_look": {"$lte": millis}, "lease_until": {"$lte": millis}}, {"_id": 1})
        return [d["_id"] for d in await found.sort([("next_look", 1)]).limit(limit).to_list(limit)]

    @store_call
    async def hand_over(self, record_id: str, owner: str, at: datetime.datetime) -> bool:
        """Give a lease back in the middle of a look, which another process is to make anew, no later than `at`. False
        where it was not held any more."""
        freed: Document = {"lease_until": 0, "lease_owner": ""}
        millis = to_millis(at)
        for seen, more in (({"next_look": {"$gt": millis}}, {"next_look": millis}), ({}, {})):
            document = await self._looked.find_one_and_update(
                {"_id": record_id, "lease_owner": owner, **seen}, {"$set": {**freed, **more}}, projection={"_id": 1}
            )
            if document is not None:
                return True
        return False

    def due_since(self, record: R) -> datetime.datetime | None:
        """Since when a record has been due, if its next look has come; None where that is not known."""
        at = record.next_look
        return at if at is not None and to_millis(at) else None

    @store_call
    async def lag(self, now: datetime.datetime) -> Lag:
        """How many are due and not looked at, and since when the first of them that have been so for longest."""
        millis = to_millis(now)
        due = {"next_look": {"$lte": millis}, "lease_until": {"$lte": millis}}
        found = self._looked.find(due).sort([("next_look", 1)]).limit(_COMPARED)
        known = [since for d in await found.to_list(_COMPARED) if (since := self.due_since(self._decode(d)))]
        return Lag(int(await self._looked.count_documents(due)), min(known, default=None))

    @store_call
    async def release(
        self,
        record: R,
        owner: str,
        *,
        next_look: datetime.datetime | None,
        failures: int = 0,
        waiting: str | None = None,
        told: str | None = None,
    ) -> bool:
        """Give a lease back and say when to look again; None means never, as nothing is left to do.

        record: as the look has last seen it. Where somebody else moved it or asked for a sooner look since, that
        stands: the lease is given back, `next_look` stays at what they wrote, and the answer is False.
        """
        freed: Document = {
            "lease_until": 0,
            "lease_owner": "",
            "failures": failures,
            "waiting": waiting,
            "told": told,
        }
        seen: Document = {
            "_id": record.id,
            "lease_owner": owner,
            "made": len(record.transitions),
            "next_look": None if record.next_look is None else to_millis(record.next_look),
            **self._news(record),
        }
        update: Document = {"$set": dict(freed)}
        if next_look is None:
            update["$unset"] = {"next_look": ""}
        else:
            update["$set"]["next_look"] = to_millis(next_look)
        if await self._looked.find_one_and_update(seen, update, projection={"_id": 1}) is not None:
            return True
        await self._looked.find_one_and_update(
            {"_id": record.id, "lease_owner": owner}, {"$set": freed}, projection={"_id": 1}
        )
        return False

    def _news(self, record: R) -> Document:
        """Further fields that must still be as they were read, for a look to have seen all that there is."""
        return {}

    @store_call
    async def look_soon(self, record_id: str, at: datetime.datetime) -> None:
        """Make sure that what is not finished is looked at no later than `at`."""
        await self._looked.find_one_and_update(
            {"_id": record_id, "next_look": {"$gt": to_millis(at)}},
            {"$set": {"next_look": to_millis(at)}},
            projection={"_id": 1},
        )

    @store_call
    async def note_flow(self, record: R, flow: Mapping[str, Any]) -> bool:
        """Note how far it has come, for the next look. False, noting nothing, where somebody else has moved it or noted
        something since `record` was read. flow: with a `version` that is one more than the record's."""
        seen = {"_id": record.id, "made": len(record.transitions), "flow.version": record.flow.get("version")}
        done = await self._looked.find_one_and_update(seen, {"$set": {"flow": dict(flow)}}, projection={"_id": 1})
        return done is not None

    async def note_handle(self, record_id: str, kind: str, handle: str) -> None:
        """An engine calls something that it was given `handle`; once more is no error."""
        await self.note_handles(record_id, kind, (handle,))

    @store_call
    async def note_handles(
        self, record_id: str, kind: str, handles: Sequence[str], fields: Mapping[str, Any] | None = None
    ) -> None:
        """The same for several; those that are known stay first. fields: to set in the same write."""
        while True:
            document = await self._looked.find_one({"_id": record_id}, {"handles": 1})
            before = ((document or {}).get("handles") or {}).get(kind)
            known = before.split(",") if before else []
            now = [*known, *(h for h in handles if h not in known)]
            update: Document = {**(fields or {}), **({f"handles.{kind}": ",".join(now)} if now else {})}
            if document is None or not update:
                return
            done = await self._looked.find_one_and_update(
                {"_id": record_id, f"handles.{kind}": before}, {"$set": update}, projection={"_id": 1}
            )
            if done is not None:
                return
