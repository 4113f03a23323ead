"""Jobs: small documents, each moved by one compare-and-set, and each its own outbox."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import JobRecord, Transition
from cdmtaskservice.domain.states import TERMINAL_STATES, TRANSITIONS, JobState, Outcome
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.store.codec import (
    Document,
    decode_job,
    encode_image,
    encode_transition,
    from_millis,
    to_millis,
)
from cdmtaskservice.store.database import Database, store_call
from cdmtaskservice.store.looks import LookStore

_SEARCHED = ("id", "input.name", "tags", "input.image", "image.name")
"""Where a search for text looks."""


@dataclass(frozen=True)
class OwedJob:
    """A job that has transitions which the broker has not acknowledged yet."""

    id: str
    transitions: Sequence[Transition]
    published: int


@dataclass(frozen=True)
class ActiveJobs:
    """Jobs of one site in one state that are not over.

    waiting: how many of them cannot go on now. since: when the one that has been in the state for longest entered it.
    """

    count: int
    waiting: int
    since: datetime.datetime


@dataclass(frozen=True)
class Owing:
    """How many jobs owe messages, how many messages, and since when the oldest of these."""

    jobs: int
    messages: int
    since: datetime.datetime | None


_COMPARED = 100
"""Jobs that owe messages among which the oldest message is looked for."""


class JobStore(LookStore[JobRecord]):
    """The `jobs` collection."""

    def __init__(self, database: Database, meter: Meter = UNMETERED) -> None:
        super().__init__(database.db.jobs, decode_job)
        self._meter = meter
        self._jobs = database.db.jobs
        self._pending = database.db.pending
        self.on_transition: Callable[[str], None] = lambda job_id: None
        """Told the ID of every job that has come to a state, and so owes a message."""

    @store_call
    async def announce(self, job_id: str, at: datetime.datetime, refdata_id: str | None = None) -> None:
        """Note that files and containers of a job are about to be stored, so that they are found if it never comes.

        refdata_id: reference data that it will need, which stays from now on.
        """
        uses = {"refdata": refdata_id} if refdata_id is not None else {}
        await self._pending.insert_one({"_id": job_id, "at": to_millis(at), **uses})

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
    async def announced_with_refdata(self, refdata_id: str, limit: int) -> Sequence[str]:
        """Jobs that are announced and need this reference data. Ask this before `using_refdata`: they become such."""
        found = self._pending.find({"refdata": refdata_id}, {"_id": 1}).limit(limit)
        return [d["_id"] for d in await found.to_list(limit)]

    @store_call
    async def using_refdata(self, refdata_id: str, limit: int) -> Sequence[str]:
        """Jobs that need this reference data and are not over."""
        going = {"refdata": refdata_id, "state": {"$in": sorted(s.value for s in JobState if not s.is_terminal)}}
        found = self._jobs.find(going, {"_id": 1}).limit(limit)
        return [d["_id"] for d in await found.to_list(limit)]

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
        if job.image.refdata_id is not None:
            document["refdata"] = job.image.refdata_id
        if job.logpath:
            document["logpath"] = job.logpath
        if idempotency:
            document["idempotency"], document["request_hash"] = idempotency
        try:
            await self._jobs.insert_one(document)
        except DuplicateKeyError:
            return False
        self.on_transition(job.id)
        return True

    @store_call
    async def find_idempotent(self, key: str) -> tuple[str, str] | None:
        """The ID and request hash of the job with that idempotency key."""
        found = await self._jobs.find_one({"idempotency": key}, {"_id": 1, "request_hash": 1})
        return (found["_id"], found["request_hash"]) if found else None

    @store_call
    async def list(self, wanted: JobFilter) -> Sequence[JobRecord]:
        """Jobs, newest state change first, at most `wanted.limit`."""
        query: Document = {}
        for name, value in (("user", wanted.user), ("site", wanted.site), ("tags", wanted.tag)):
            if value is not None:
                query[name] = value
        if wanted.state is not None:
            query["state"] = wanted.state.value
        alternatives: list[list[Document]] = []
        if wanted.text is not None:
            found_in = {"$regex": re.escape(wanted.text), "$options": "i"}
            alternatives.append([{name: found_in} for name in _SEARCHED])
        if wanted.waiting:
            going = sorted(s.value for s in JobState if not s.is_terminal)
            # Any text; what was never held up has no such field, or null.
            query["waiting"] = {"$gt": ""}
            query.setdefault("state", {"$in": going})
        bounds: Document = {}
        if wanted.after is not None:
            bounds["$gte"] = to_millis(wanted.after)
        if wanted.before is not None:
            bounds["$lt"] = to_millis(wanted.before)
        if wanted.cursor is not None:
            at = to_millis(wanted.cursor[0])
            alternatives.append([{"updated": {"$lt": at}}, {"updated": at, "id": {"$lt": wanted.cursor[1]}}])
            bounds["$lte"] = at
        if bounds:
            query["updated"] = bounds
        if alternatives:
            query["$and"] = [{"$or": either} for either in alternatives]
        found = self._jobs.find(query).sort([("updated", -1), ("id", -1)]).limit(wanted.limit)
        return [decode_job(d) for d in await found.to_list(wanted.limit)]

    # The reconciler

    def due_since(self, record: JobRecord) -> datetime.datetime | None:
        """As for all; what is due at once became so by its last transition."""
        return super().due_since(record) or record.updated

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
                self.on_transition(job_id)
                stayed = entry["time"] - document["transitions"][-1]["time"]
                self._meter.left_state(document["site"], state.value, stayed / 1000)
                return Outcome.APPLIED, decode_job(moved)
        return Outcome.CONFLICT, await self.get(job_id)

    @store_call
    async def begin_submission(self, job_id: str, until: datetime.datetime) -> None:
        """Note that runs of the job are about to be given to its engine, which may hear of it until that time."""
        await self._jobs.find_one_and_update(
            {"_id": job_id}, {"$set": {"submitting_until": to_millis(until)}}, projection={"_id": 1}
        )

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

    async def end_submission(self, job_id: str, kind: str, handles: Sequence[str]) -> None:
        """The engine of that kind has the runs, and calls them by these names; those that are known stay first."""
        await self.note_handles(job_id, kind, handles, {"submitting_until": 0})

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
    async def active(self) -> Mapping[tuple[str, str], ActiveJobs]:
        """The jobs that are not over, by (site, state)."""
        going = {"$in": sorted(s.value for s in JobState if not s.is_terminal)}
        found: dict[tuple[str, str], ActiveJobs] = {}
        async for group in self._jobs.aggregate([{"$group": {"_id": "$site"}}]):
            site = group["_id"]
            waiting = [
                # Texts alone are greater than the empty one: null and nothing at all are not, on any store.
                {"$match": {"site": site, "state": going, "waiting": {"$gt": ""}}},
                {"$group": {"_id": "$state", "n": {"$sum": 1}}},
            ]
            held = {row["_id"]: row["n"] async for row in self._jobs.aggregate(waiting)}
            oldest = [
                {"$match": {"site": site, "state": going}},
                {"$group": {"_id": "$state", "n": {"$sum": 1}, "since": {"$min": "$updated"}}},
            ]
            async for row in self._jobs.aggregate(oldest):
                state = row["_id"]
                found[site, state] = ActiveJobs(row["n"], held.get(state, 0), from_millis(row["since"]))
        return found

    @store_call
    async def owing(self) -> Owing:
        """What is owed to the broker."""
        total = {"$group": {"_id": None, "n": {"$sum": 1}, "made": {"$sum": "$made"}, "sent": {"$sum": "$published"}}}
        async for row in self._jobs.aggregate([{"$match": {"owed": 1}}, total]):
            first = self._jobs.find({"owed": 1}, {"transitions": 1, "published": 1}).sort([("updated", 1)])
            owed = [_decode_owed(d) for d in await first.limit(_COMPARED).to_list(_COMPARED)]
            times = [job.transitions[job.published].time for job in owed if job.published < len(job.transitions)]
            return Owing(row["n"], row["made"] - row["sent"], min(times, default=None))
        return Owing(0, 0, None)


def _decode_owed(document: Mapping[str, Any]) -> OwedJob:
    transitions = tuple(
        Transition(JobState(t["state"]), from_millis(t["time"]), t["trans_id"]) for t in document["transitions"]
    )
    return OwedJob(document["_id"], transitions, document["published"])
