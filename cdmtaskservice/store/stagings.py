"""Reference data at sites: a small document for each piece and site, moved by compare-and-set, looked at like a job."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.refdata import Errand, StagingProgress, StagingRecord, StagingTransition
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.store.codec import Document, from_millis, to_millis
from cdmtaskservice.store.database import Database, store_call
from cdmtaskservice.store.looks import LookStore


class StagingStore(LookStore[StagingRecord]):
    """The `stagings` collection."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.db.stagings, _decode)
        self._stagings = database.db.stagings

    @store_call
    async def insert(self, staging: StagingRecord) -> bool:
        """Store a new one, due at once. False, storing nothing, where there is one of the same data and site."""
        document: Document = {
            "_id": staging.id,
            "refdata": staging.refdata_id,
            "site": staging.site,
            "state": staging.state.value,
            "transitions": [_encode_transition(t) for t in staging.transitions],
            "made": len(staging.transitions),
            "round": 0,
            "next_look": 0,
            "lease_until": 0,
        }
        try:
            await self._stagings.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    @store_call
    async def delete(self, staging_id: str) -> None:
        """Forget a staging."""
        await self._stagings.delete_one({"_id": staging_id})

    @store_call
    async def of(self, refdata_ids: Sequence[str]) -> Sequence[StagingRecord]:
        """All stagings of these, in no order."""
        return [_decode(d) async for d in self._stagings.find({"refdata": {"$in": list(refdata_ids)}})]

    @store_call
    async def counts(self) -> Mapping[tuple[str, str], int]:
        """The number of stagings by (site, state), those aside whose data was retired and removed."""
        counts: dict[tuple[str, str], int] = {}
        # There are few of them: pieces of reference data times sites.
        async for d in self._stagings.find({"removed_on": None}, {"site": 1, "state": 1}):
            key = (d["site"], d["state"])
            counts[key] = counts.get(key, 0) + 1
        return counts

    @store_call
    async def transition(
        self, staging: StagingRecord, to: StagingTransition, fields: Mapping[str, Any] | None = None
    ) -> StagingRecord | None:
        """Move a staging on from how it was read, and let it be due. None where somebody has moved it since.

        fields: further fields to set in the same write.
        """
        entry = _encode_transition(to)
        before = [_encode_transition(t) for t in staging.transitions]
        entry["time"] = max([entry["time"], *(t["time"] for t in before)])
        moved = await self._stagings.find_one_and_update(
            {"_id": staging.id, "made": len(before)},
            {
                "$set": {
                    **(fields or {}),
                    "state": to.state.value,
                    "transitions": [*before, entry],
                    "made": len(before) + 1,
                    "next_look": 0,
                }
            },
            return_document=ReturnDocument.AFTER,
        )
        return _decode(moved) if moved else None

    @store_call
    async def set_fields(self, staging_id: str, fields: Mapping[str, Any]) -> None:
        """Set fields that no two writers write at once."""
        await self._stagings.find_one_and_update({"_id": staging_id}, {"$set": dict(fields)}, projection={"_id": 1})

    async def want_cleaning(self, staging: StagingRecord) -> bool:
        """An administrator wants what staging has left to be removed. False where it has moved since it was read."""
        return await self._change({"_id": staging.id, "made": len(staging.transitions)}, {"cleaning": 1, "cleaned": 0})

    @store_call
    async def cleaned(self, staging: StagingRecord) -> bool:
        """What staging has left is removed. False where it has moved since it was read."""
        done = await self._stagings.find_one_and_update(
            {"_id": staging.id, "made": len(staging.transitions)},
            {"$set": {"cleaning": 0, "cleaned": 1}},
            projection={"_id": 1},
        )
        return done is not None

    async def wake(self, staging_id: str) -> None:
        """Let it be looked at, even if nothing was left to do."""
        await self._change({"_id": staging_id}, {})

    @store_call
    async def _change(self, seen: Document, fields: Document, unset: Sequence[str] = ()) -> bool:
        """Something that the next look must see, which is due at once. A look that goes on may have missed it, and
        cannot end without seeing it. False where it is not as `seen`."""
        update: Document = {"$set": {**fields, "next_look": 0}, "$inc": {"news": 1}}
        if unset:
            update["$unset"] = dict.fromkeys(unset, "")
        return await self._stagings.find_one_and_update(seen, update, projection={"_id": 1}) is not None

    def _news(self, record: StagingRecord) -> Document:
        return {"news": record.news or None}

    async def note_progress(self, staging: StagingRecord, progress: StagingProgress) -> None:
        """How far a transfer has come."""
        told = progress.after(staging.progress, staging.transitions[-1].time)
        await self.set_fields(
            staging.id,
            {
                "progress": {
                    "phase": told.phase,
                    "done": told.done,
                    "total": told.total,
                    "files": told.files,
                    "unpacked": told.unpacked,
                    "at": to_millis(told.at),
                    "rate": told.rate,
                }
            },
        )

    # Errands: what the reference data service of a site is asked to do

    @store_call
    async def put_errand(self, staging_id: str, errand: Errand, number: int) -> None:
        """Ask for something. What was asked for before is not wanted any more.

        number: the flow's, of the task; where that has gone on since, nothing is asked.
        """
        told = {"task": errand.task, "kind": errand.kind, "seen": to_millis(errand.seen), "open": 1}
        await self._stagings.find_one_and_update(
            {"_id": staging_id, "flow.number": number}, {"$set": {"errand": told}}, projection={"_id": 1}
        )

    @store_call
    async def open_errands(self, site: str, limit: int) -> Sequence[StagingRecord]:
        """Stagings at the site that have an errand which is not over."""
        found = self._stagings.find({"errand.open": 1, "site": site})
        return [_decode(d) for d in await found.limit(limit).to_list(limit)]

    async def claim_errand(self, staging_id: str, task: str, claim: str, now: datetime.datetime) -> bool:
        """Take an errand that nobody has. False where somebody has it, or it is over."""
        return await self._change(
            {"_id": staging_id, "errand.task": task, "errand.open": 1, "errand.claim": None},
            {"errand.claim": claim, "errand.seen": to_millis(now)},
        )

    @store_call
    async def errand_seen(self, staging_id: str, task: str, claim: str, now: datetime.datetime) -> StagingRecord | None:
        """A sign of life of whoever does it; None where that one has it no more, or it is over."""
        document = await self._stagings.find_one_and_update(
            {"_id": staging_id, "errand.task": task, "errand.claim": claim, "errand.open": 1},
            {"$set": {"errand.seen": to_millis(now)}},
            return_document=ReturnDocument.AFTER,
        )
        return _decode(document) if document else None

    async def end_errand(
        self, staging_id: str, task: str, claim: str | None, outcome: Mapping[str, Any], traceback: str | None = None
    ) -> bool:
        """An errand is over. False where that claim does not have it, or it was over. claim: None for nobody's."""
        more = {} if traceback is None else {"traceback": traceback}
        return await self._change(
            {"_id": staging_id, "errand.task": task, "errand.claim": claim, "errand.open": 1},
            {"errand.outcome": dict(outcome), **more},
            ("errand.open",),
        )

    @store_call
    async def drop_errand(self, staging_id: str, task: str) -> None:
        """It is given up: whoever does it is to stop, and nobody is told of it any more."""
        await self._stagings.find_one_and_update(
            {"_id": staging_id, "errand.task": task, "errand.open": 1},
            {"$unset": {"errand.open": ""}, "$set": {"errand.outcome": {"ok": 0, "error": "it was given up"}}},
            projection={"_id": 1},
        )

    @store_call
    async def unwant_errand(self, staging_id: str, task: str) -> None:
        """Whoever does it is to stop."""
        await self._stagings.find_one_and_update(
            {"_id": staging_id, "errand.task": task, "errand.open": 1},
            {"$set": {"errand.unwanted": 1}},
            projection={"_id": 1},
        )


def _encode_transition(transition: StagingTransition) -> Document:
    return {"state": transition.state.value, "time": to_millis(transition.time)}


def _decode(document: Mapping[str, Any]) -> StagingRecord:
    next_look = document.get("next_look")  # 0 means at once
    removed_on = document.get("removed_on")
    return StagingRecord(
        refdata_id=document["refdata"],
        site=document["site"],
        state=RefdataState(document["state"]),
        transitions=tuple(
            StagingTransition(RefdataState(t["state"]), from_millis(t["time"])) for t in document["transitions"]
        ),
        next_look=None if next_look is None else from_millis(next_look),
        failures=document.get("failures", 0),
        waiting=document.get("waiting"),
        told=document.get("told"),
        flow=document.get("flow") or {},
        handles={kind: tuple(told.split(",")) for kind, told in (document.get("handles") or {}).items()},
        round=document["round"],
        cleaning=bool(document.get("cleaning")),
        cleaned=bool(document.get("cleaned")),
        removed_on=from_millis(removed_on) if removed_on else None,
        error=document.get("error"),
        admin_error=document.get("admin_error"),
        traceback=document.get("traceback"),
        progress=_decode_progress(document.get("progress")),
        errand=_decode_errand(document.get("errand")),
        news=document.get("news") or 0,
        files=document.get("files"),
        unpacked=document.get("unpacked"),
    )


def _decode_progress(told: Mapping[str, Any] | None) -> StagingProgress | None:
    if told is None:
        return None
    return StagingProgress(
        told["phase"],
        told["done"],
        told["total"],
        told["files"],
        told["unpacked"],
        from_millis(told["at"]),
        told["rate"],
    )


def _decode_errand(told: Mapping[str, Any] | None) -> Errand | None:
    if told is None:
        return None
    return Errand(
        told["task"],
        told["kind"],
        from_millis(told["seen"]),
        told.get("claim"),
        told.get("outcome"),
        bool(told.get("unwanted")),
    )
