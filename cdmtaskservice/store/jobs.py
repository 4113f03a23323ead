"""Jobs: small documents, each moved by one compare-and-set, and each its own outbox."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import JobRecord, Transition
from cdmtaskservice.domain.states import TERMINAL_STATES, TRANSITIONS, JobState, Outcome
from cdmtaskservice.store.codec import (
    Document,
    decode_job,
    encode_image,
    encode_transition,
    from_millis,
    to_millis,
)
from cdmtaskservice.store.database import Database, store_call


@dataclass(frozen=True)
class Lease:
    """A right to look at a job until `until`, held by the process `owner`."""

    owner: str
    until: datetime.datetime


@dataclass(frozen=True)
class OwedJob:
    """A job that has transitions which the broker has not acknowledged yet."""

    id: str
    transitions: Sequence[Transition]
    published: int


class JobStore:
    """The `jobs` collection."""

    def __init__(self, database: Database) -> None:
        self._jobs = database.db.jobs
        self._pending = database.db.pending
        self.on_owed: Callable[[], None] = lambda: None
        """Called whenever a job comes to owe a message."""

    @store_call
    async def announce(self, job_id: str, at: datetime.datetime) -> None:
        """Note that files and containers of a job are about to be stored, so that they are found if it never comes."""
        await self._pending.insert_one({"_id": job_id, "at": to_millis(at)})

    @store_call
    async def settle(self, job_id: str) -> None:
        """Forget what `announce` noted: the job is stored, or nothing is left of it."""
        await self._pending.delete_one({"_id": job_id})

    @store_call
    async def announced_before(self, time: datetime.datetime, limit: int) -> Sequence[str]:
        """Jobs that were announced before `time` and not settled since."""
        found = self._pending.find({"at": {"$lt": to_millis(time)}}, {"_id": 1})
        return [d["_id"] for d in await found.limit(limit).to_list(limit)]

    @store_call
    async def insert(self, job: JobRecord, idempotency: tuple[str, str] | None = None) -> bool:
        """Store a new job: the instant from which on it is accepted.

        idempotency: the key, unique to its user, and the hash of the request. Returns False, storing nothing, where
        a job with that key exists.
        """
        document: Document = {
            "_id": job.id,
            "id": job.id,  # again, since not every store can have `_id` in a compound index
            "user": job.user,
            "site": job.site,
            "input": dict(job.input),
            "image": encode_image(job.image),
            "input_file_count": job.input_file_count,
            "containers": job.containers,
            "runtime": job.runtime,
            "disk": job.disk,
            "state": job.state.value,
            "transitions": [encode_transition(t) for t in job.transitions],
            "made": len(job.transitions),
            "published": 0,
            "owed": 1,
            "relay_until": 0,
            "updated": to_millis(job.updated),
            "next_look": to_millis(job.next_look) if job.next_look else 0,
            "lease_until": 0,
            "tags": list(job.input.get("tags") or ()),
        }
        if job.logpath:
            document["logpath"] = job.logpath
        if idempotency:
            document["idempotency"], document["request_hash"] = idempotency
        try:
            await self._jobs.insert_one(document)
        except DuplicateKeyError:
            return False
        self.on_owed()
        return True

    @store_call
    async def find_idempotent(self, key: str) -> tuple[str, str] | None:
        """The ID and request hash of the job with that idempotency key."""
        found = await self._jobs.find_one({"idempotency": key}, {"_id": 1, "request_hash": 1})
        return (found["_id"], found["request_hash"]) if found else None

    @store_call
    async def get(self, job_id: str) -> JobRecord | None:
        """The job, or None."""
        document = await self._jobs.find_one({"_id": job_id})
        return decode_job(document) if document else None

    @store_call
    async def list(self, wanted: JobFilter) -> Sequence[JobRecord]:
        """Jobs, newest state change first, at most `wanted.limit`."""
        query: Document = {}
        for name, value in (("user", wanted.user), ("site", wanted.site), ("tags", wanted.tag)):
            if value is not None:
                query[name] = value
        if wanted.state is not None:
            query["state"] = wanted.state.value
        bounds: Document = {}
        if wanted.after is not None:
            bounds["$gte"] = to_millis(wanted.after)
        if wanted.before is not None:
            bounds["$lt"] = to_millis(wanted.before)
        if wanted.cursor is not None:
            at = to_millis(wanted.cursor[0])
            query["$or"] = [{"updated": {"$lt": at}}, {"updated": at, "id": {"$lt": wanted.cursor[1]}}]
            bounds["$lte"] = at
        if bounds:
            query["updated"] = bounds
        found = self._jobs.find(query).sort([("updated", -1), ("id", -1)]).limit(wanted.limit)
        return [decode_job(d) for d in await found.to_list(wanted.limit)]

    # The reconciler

    @store_call
    async def transition(
        self, job_id: str, to: Transition, fields: Mapping[str, Any] | None = None
    ) -> tuple[Outcome, JobRecord | None]:
        """Move a job to `to.state`, if the table of transitions allows it from where it is.

        fields: further fields of the job to set in the same write. The job becomes due at once. Its transitions' times
        never go backwards. Returns what came of it and the job as it is now.
        """
        # Jobs only move forward, so the state can change under us no more often than there are states.
        for _ in range(len(JobState)):
            document = await self._jobs.find_one({"_id": job_id})
            if document is None:
                return Outcome.MISSING, None
            state = JobState(document["state"])
            if state is to.state:
                return Outcome.REPLAYED, decode_job(document)
            if to.state not in TRANSITIONS[state]:
                return Outcome.CONFLICT, decode_job(document)
            entry = encode_transition(to)
            entry["time"] = max(entry["time"], document["updated"])
            update: Document = {
                **(fields or {}),
                "state": to.state.value,
                "transitions": [*document["transitions"], entry],
                "made": document["made"] + 1,
                "updated": entry["time"],
                "owed": 1,
                "next_look": 0,
            }
            moved = await self._jobs.find_one_and_update(
                {"_id": job_id, "made": document["made"]},
                {"$set": update},
                return_document=ReturnDocument.AFTER,
            )
            if moved is not None:
                self.on_owed()
                return Outcome.APPLIED, decode_job(moved)
        return Outcome.CONFLICT, await self.get(job_id)

    @store_call
    async def lease(self, job_id: str, lease: Lease, now: datetime.datetime) -> JobRecord | None:
        """Take the lease on a job that nobody else holds; None where somebody does, or there is no such job."""
        document = await self._jobs.find_one_and_update(
            {"_id": job_id, "lease_until": {"$lte": to_millis(now)}},
            {"$set": {"lease_owner": lease.owner, "lease_until": to_millis(lease.until)}},
            return_document=ReturnDocument.AFTER,
        )
        return decode_job(document) if document else None

    @store_call
    async def extend(self, job_id: str, lease: Lease) -> bool:
        """Keep a lease longer. False where it was lost."""
        document = await self._jobs.find_one_and_update(
            {"_id": job_id, "lease_owner": lease.owner},
            {"$set": {"lease_until": to_millis(lease.until)}},
            projection={"_id": 1},
        )
        return document is not None

    @store_call
    async def due(self, now: datetime.datetime, limit: int) -> Sequence[str]:
        """The IDs of jobs whose next look has come and which nobody looks at, the longest due first."""
        millis = to_millis(now)
        found = self._jobs.find({"next_look": {"$lte": millis}, "lease_until": {"$lte": millis}}, {"_id": 1})
        return [d["_id"] for d in await found.sort([("next_look", 1)]).limit(limit).to_list(limit)]

    @store_call
    async def release(
        self,
        job: JobRecord,
        owner: str,
        *,
        next_look: datetime.datetime | None,
        failures: int = 0,
        waiting: str | None = None,
        told: str | None = None,
    ) -> bool:
        """Give a lease back and say when to look again; None means never, as nothing is left to do.

        job: as the look has last seen it. Where somebody else moved it or asked for a sooner look since, that stands:
        the lease is given back, `next_look` stays at what they wrote, and the answer is False.
        """
        freed: Document = {
            "lease_until": 0,
            "lease_owner": "",
            "failures": failures,
            "waiting": waiting,
            "told": told,
        }
        seen: Document = {
            "_id": job.id,
            "lease_owner": owner,
            "made": len(job.transitions),
            "next_look": None if job.next_look is None else to_millis(job.next_look),
        }
        update: Document = {"$set": dict(freed)}
        if next_look is None:
            update["$unset"] = {"next_look": ""}
        else:
            update["$set"]["next_look"] = to_millis(next_look)
        if await self._jobs.find_one_and_update(seen, update, projection={"_id": 1}) is not None:
            return True
        await self._jobs.find_one_and_update(
            {"_id": job.id, "lease_owner": owner}, {"$set": freed}, projection={"_id": 1}
        )
        return False

    @store_call
    async def look_soon(self, job_id: str, at: datetime.datetime) -> None:
        """Make sure that a job which is not finished is looked at no later than `at`."""
        await self._jobs.find_one_and_update(
            {"_id": job_id, "next_look": {"$gt": to_millis(at)}},
            {"$set": {"next_look": to_millis(at)}},
            projection={"_id": 1},
        )

    @store_call
    async def begin_submission(self, job_id: str, until: datetime.datetime) -> None:
        """Note that runs of the job are about to be given to its engine, which may hear of it until that time."""
        await self._jobs.find_one_and_update(
            {"_id": job_id}, {"$set": {"submitting_until": to_millis(until)}}, projection={"_id": 1}
        )

    @store_call
    async def note_flow(self, job: JobRecord, flow: Mapping[str, Any]) -> bool:
        """Note how far the job has come, for the next look. False, noting nothing, where somebody else has moved it or
        noted something since `job` was read. flow: with a `version` that is one more than the job's."""
        seen = {"_id": job.id, "made": len(job.transitions), "flow.version": job.flow.get("version")}
        done = await self._jobs.find_one_and_update(seen, {"$set": {"flow": dict(flow)}}, projection={"_id": 1})
        return done is not None

    async def note_handle(self, job_id: str, kind: str, handle: str) -> None:
        """An engine calls something that it was given `handle`; once more is no error."""
        await self.end_submission(job_id, kind, (handle,))

    @store_call
    async def over_before(
        self, sites: Collection[str], time: datetime.datetime, limit: int, since: datetime.datetime | None = None
    ) -> Sequence[JobRecord]:
        """Jobs of these sites that were over before `time`, and since `since`, and whose files there are not cleaned;
        the oldest first."""
        found = self._jobs.find(
            {
                "site": {"$in": sorted(sites)},
                "state": {"$in": sorted(s.value for s in TERMINAL_STATES)},
                "cleaned": None,
                "updated": {"$lt": to_millis(time), **({"$gte": to_millis(since)} if since is not None else {})},
            }
        )
        return [decode_job(d) for d in await found.sort([("updated", 1)]).limit(limit).to_list(limit)]

    @store_call
    async def unfinished_since(self, sites: Collection[str]) -> datetime.datetime | None:
        """When the oldest job of these sites that is not over was submitted."""
        query = {
            "site": {"$in": sorted(sites)},
            "state": {"$in": sorted(s.value for s in JobState if not s.is_terminal)},
        }
        begun = [d["transitions"][0]["time"] async for d in self._jobs.find(query, {"transitions": 1})]
        return from_millis(min(begun)) if begun else None

    @store_call
    async def end_submission(self, job_id: str, kind: str, handles: Sequence[str]) -> None:
        """The engine of that kind has the runs, and calls them by these names; those that are known stay first."""
        while True:
            document = await self._jobs.find_one({"_id": job_id}, {"handles": 1})
            before = ((document or {}).get("handles") or {}).get(kind)
            known = before.split(",") if before else []
            now = [*known, *(h for h in handles if h not in known)]
            fields: Document = {"submitting_until": 0, **({f"handles.{kind}": ",".join(now)} if now else {})}
            done = await self._jobs.find_one_and_update(
                {"_id": job_id, f"handles.{kind}": before}, {"$set": fields}, projection={"_id": 1}
            )
            if done is not None or document is None:
                return

    # The outbox

    @store_call
    async def lease_owed(self, now: datetime.datetime, until: datetime.datetime) -> OwedJob | None:
        """Take for publishing, until `until`, one job that owes messages and that nobody else is publishing."""
        document = await self._jobs.find_one_and_update(
            {"owed": 1, "relay_until": {"$lte": to_millis(now)}},
            {"$set": {"relay_until": to_millis(until)}},
            sort=[("updated", 1)],
            projection={"transitions": 1, "published": 1},
            return_document=ReturnDocument.AFTER,
        )
        return _decode_owed(document) if document else None

    @store_call
    async def published(self, job_id: str, count: int) -> None:
        """Record that the first `count` transitions of a job have been acknowledged, and end the relay's lease."""
        settled = await self._jobs.find_one_and_update(
            {"_id": job_id, "made": count, "published": {"$lte": count}},
            {"$set": {"published": count, "owed": 0, "relay_until": 0}},
            projection={"_id": 1},
        )
        if settled is None:  # more was made meanwhile: still owed
            await self._jobs.find_one_and_update(
                {"_id": job_id, "published": {"$lte": count}},
                {"$set": {"published": count, "relay_until": 0}},
                projection={"_id": 1},
            )

    @store_call
    async def overdue(self, before: datetime.datetime, limit: int) -> Sequence[OwedJob]:
        """Jobs that owe messages and whose last state change was before `before`."""
        found = self._jobs.find({"owed": 1, "updated": {"$lt": to_millis(before)}}, {"transitions": 1, "published": 1})
        return [_decode_owed(d) for d in await found.limit(limit).to_list(limit)]

    # Administration and numbers

    @store_call
    async def set_fields(self, job_id: str, fields: Mapping[str, Any]) -> bool:
        """Set plain fields of a job. False where there is none."""
        document = await self._jobs.find_one_and_update({"_id": job_id}, {"$set": dict(fields)}, projection={"_id": 1})
        return document is not None

    @store_call
    async def update_meta(
        self, job_id: str, set_fields: Mapping[str, str | int | float], unset_keys: Collection[str]
    ) -> bool:
        """Change an administrator's metadata of a job. False where there is no such job."""
        while True:
            document = await self._jobs.find_one({"_id": job_id}, {"admin_meta": 1, "meta_version": 1})
            if document is None:
                return False
            meta = dict(document.get("admin_meta") or {}) | dict(set_fields)
            version = document.get("meta_version", 0)
            seen: Document = {"_id": job_id, "meta_version": version if version else None}
            done = await self._jobs.find_one_and_update(
                seen,
                {
                    "$set": {
                        "admin_meta": {k: v for k, v in meta.items() if k not in unset_keys},
                        "meta_version": version + 1,
                    }
                },
                projection={"_id": 1},
            )
            if done is not None:
                return True

    @store_call
    async def existing(self, job_ids: Collection[str]) -> set[str]:
        """Those of the IDs that are jobs."""
        found = self._jobs.find({"_id": {"$in": list(job_ids)}}, {"_id": 1})
        return {d["_id"] async for d in found}

    @store_call
    async def counts(self) -> Mapping[tuple[str, str], int]:
        """The number of jobs by (site, state)."""
        counts: dict[tuple[str, str], int] = {}
        async for group in self._jobs.aggregate([{"$group": {"_id": "$site"}}]):
            by_state = [{"$match": {"site": group["_id"]}}, {"$group": {"_id": "$state", "n": {"$sum": 1}}}]
            async for row in self._jobs.aggregate(by_state):
                counts[group["_id"], row["_id"]] = row["n"]
        return counts

    @store_call
    async def count_owed(self) -> int:
        """The number of jobs that owe messages."""
        return int(await self._jobs.count_documents({"owed": 1}))


def _decode_owed(document: Mapping[str, Any]) -> OwedJob:
    transitions = tuple(
        Transition(JobState(t["state"]), from_millis(t["time"]), t["trans_id"]) for t in document["transitions"]
    )
    return OwedJob(document["_id"], transitions, document["published"])
