"""Containers (sub jobs): one small document each, moved by reports that may come twice, late and out of order."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict

from pymongo import ReturnDocument

from cdmtaskservice.domain.records import ContainerRecord, OutputFiles, Progress, Reached, Usage
from cdmtaskservice.domain.states import (
    CONTAINER_STATES,
    ContainerTally,
    JobState,
    Outcome,
    container_states_before,
)
from cdmtaskservice.store.codec import Document, decode_container, encode_reached, from_millis, to_millis
from cdmtaskservice.store.database import Database, store_call

FAILING_STATES = frozenset({JobState.ERROR_PROCESSING_SUBMITTING, JobState.ERROR_PROCESSING_SUBMITTED})
"""A container in one of these ran and failed: it is never started again."""

_LIVE = [s.value for s in CONTAINER_STATES if not s.is_terminal]
_REPEATABLE = [s.value for s in CONTAINER_STATES if not s.is_terminal and s not in FAILING_STATES]


def _key(job_id: str, number: int) -> str:
    return f"{job_id}:{number}"


class ContainerStore:
    """The `containers` collection."""

    def __init__(self, database: Database) -> None:
        self._containers = database.db.containers

    @store_call
    async def insert(self, job_id: str, count: int, at: datetime.datetime) -> None:
        """Store a job's containers, numbered from 0, all `created`."""
        reached = {JobState.CREATED.value: encode_reached(Reached(at, at))}
        await self._containers.insert_many(
            [
                {
                    "_id": _key(job_id, n),
                    "job": job_id,
                    "n": n,
                    "state": JobState.CREATED.value,
                    "attempt": 1,
                    "run": 1,
                    "reached": reached,
                }
                for n in range(count)
            ]
        )

    @store_call
    async def delete(self, job_id: str) -> None:
        """Remove all containers of a job that was never accepted."""
        await self._containers.delete_many({"job": job_id})

    @store_call
    async def get(self, job_id: str, number: int) -> ContainerRecord | None:
        """One container, or None."""
        document = await self._containers.find_one({"_id": _key(job_id, number)})
        return decode_container(document) if document else None

    @store_call
    async def list(self, job_id: str) -> Sequence[ContainerRecord]:
        """All containers of a job by number."""
        found = self._containers.find({"job": job_id}).sort([("n", 1)])
        return [decode_container(d) for d in await found.to_list(None)]

    @store_call
    async def live(self, job_id: str) -> Sequence[ContainerRecord]:
        """The containers that have not come to an end, by number."""
        found = self._containers.find({"job": job_id, "state": {"$in": _LIVE}}).sort([("n", 1)])
        return [decode_container(d) for d in await found.to_list(None)]

    @store_call
    async def advance(self, job_id: str, state: JobState, at: datetime.datetime) -> None:
        """All containers of a job that have not come as far come to `state`: they are one run at their engine."""
        before = [s.value for s in container_states_before(state)]
        await self._containers.update_many(
            {"job": job_id, "state": {"$in": before}},
            {"$set": {"state": state.value, f"reached.{state.value}": encode_reached(Reached(at, at))}},
        )

    @store_call
    async def exit_codes(self, job_id: str) -> Sequence[int | None]:
        """Exit codes by container number, None where there is none yet."""
        found = self._containers.find({"job": job_id}, {"exit_code": 1}).sort([("n", 1)])
        return [d.get("exit_code") for d in await found.to_list(None)]

    @store_call
    async def tally(self, job_id: str) -> ContainerTally:
        """How many containers are in each state, and when the last one came to each."""
        group: Document = {"_id": "$state", "n": {"$sum": 1}}
        for state in CONTAINER_STATES:
            group[state.value] = {"$max": f"$reached.{state.value}.at"}
        counts: dict[JobState, int] = {}
        latest: dict[JobState, datetime.datetime] = {}
        async for row in self._containers.aggregate([{"$match": {"job": job_id}}, {"$group": group}]):
            counts[JobState(row["_id"])] = row["n"]
            for state in CONTAINER_STATES:
                if row.get(state.value) is not None:
                    at = from_millis(row[state.value])
                    latest[state] = max(at, latest.get(state, at))
        return ContainerTally(counts, latest)

    @store_call
    async def claim(
        self, job_id: str, number: int, attempt: int, claim: str, at: datetime.datetime
    ) -> ContainerRecord | None:
        """Give an attempt to the executor process `claim`; None where another has it or the attempt is over."""
        document = await self._containers.find_one_and_update(
            {
                "_id": _key(job_id, number),
                "attempt": attempt,
                "state": {"$in": _LIVE},
                "claim": {"$in": [None, claim]},
            },
            {"$set": {"claim": claim, "seen": to_millis(at)}},
            return_document=ReturnDocument.AFTER,
        )
        return decode_container(document) if document else None

    @store_call
    async def next_attempt(
        self,
        job_id: str,
        number: int,
        attempt: int,
        at: datetime.datetime,
        why: str,
        *,
        same_run: bool = False,
        blameless: bool = False,
    ) -> ContainerRecord | None:
        """Begin the attempt after `attempt`; None where that one is not the current one, or has ended or failed.

        same_run: the engine has begun it by itself, within the run of the attempt before. blameless: the attempt
        before does not count.
        """
        lost: Document = {"at": to_millis(at), "why": why, **({"blameless": 1} if blameless else {})}
        document = await self._containers.find_one_and_update(
            {"_id": _key(job_id, number), "attempt": attempt, "state": {"$in": _REPEATABLE}},
            {
                "$set": {
                    "attempt": attempt + 1,
                    **({} if same_run else {"run": attempt + 1}),
                    "state": JobState.CREATED.value,
                    "reached": {JobState.CREATED.value: encode_reached(Reached(at, at))},
                    f"lost.{attempt}": lost,
                },
                "$unset": {
                    "claim": "",
                    "seen": "",
                    "progress": "",
                    "ending": "",
                    "exit_code": "",
                    "error": "",
                    "admin_error": "",
                    "traceback": "",
                    "cpu_seconds": "",
                    "wall_seconds": "",
                    "max_memory": "",
                    "outputs": "",
                },
            },
            return_document=ReturnDocument.AFTER,
        )
        return decode_container(document) if document else None

    @store_call
    async def note_usage(self, job_id: str, number: int, attempt: int, usage: Usage) -> None:
        """Keep what the engine measured of an attempt, unless its executor has said more exactly."""
        fields = _usage_fields(usage)
        if fields:
            await self._containers.find_one_and_update(
                {"_id": _key(job_id, number), "attempt": attempt, "cpu_seconds": None},
                {"$set": fields},
                projection={"_id": 1},
            )

    @store_call
    async def heartbeat(
        self,
        job_id: str,
        number: int,
        attempt: int,
        at: datetime.datetime,
        progress: Progress,
        ending: str | None,
    ) -> bool:
        """Record a sign of life. False where the attempt is not the current one any more, or is over."""
        fields: Document = {"seen": to_millis(at), "progress": asdict(progress)}
        if ending is not None:
            fields["ending"] = ending
        document = await self._containers.find_one_and_update(
            {"_id": _key(job_id, number), "attempt": attempt, "state": {"$in": _LIVE}},
            {"$set": fields},
            projection={"_id": 1},
        )
        return document is not None

    @store_call
    async def report(
        self,
        job_id: str,
        number: int,
        state: JobState,
        reached: Reached,
        *,
        attempt: int | None = None,
        exit_code: int | None = None,
        error: str | None = None,
        admin_error: str | None = None,
        traceback: str | None = None,
        usage: Usage | None = None,
        outputs: OutputFiles | None = None,
    ) -> Outcome:
        """Take in the report that a container has reached `state`.

        attempt: the reporter's, None for reporters that know of no attempts. A report that comes late, after the
        container went further, only adds what it knows. CONFLICT means that the attempt is not the current one, or
        that the container has ended otherwise.
        """
        fields: Document = {f"reached.{state.value}": encode_reached(reached), "seen": to_millis(reached.at)}
        if exit_code is not None:
            fields["exit_code"] = exit_code
        for name, text in (("error", error), ("admin_error", admin_error), ("traceback", traceback)):
            if text is not None:
                fields[name] = text
        if usage is not None:
            fields |= _usage_fields(usage)
        if outputs is not None:
            fields["outputs"] = {"files": list(outputs.files), "crc64nvmes": list(outputs.crc64nvmes)}
        wanted: Document = {"_id": _key(job_id, number)}
        if attempt is not None:
            wanted["attempt"] = attempt
        before = [s.value for s in container_states_before(state)]
        moved = await self._containers.find_one_and_update(
            {**wanted, "state": {"$in": before}},
            {"$set": {**fields, "state": state.value}},
            projection={"_id": 1},
        )
        if moved is not None:
            return Outcome.APPLIED
        found = await self._containers.find_one({"_id": _key(job_id, number)})
        if found is None:
            return Outcome.MISSING
        if attempt is not None and found["attempt"] != attempt:
            return Outcome.CONFLICT
        if state.value in found["reached"]:
            return Outcome.REPLAYED
        now = JobState(found["state"])
        if now.is_terminal and state.is_terminal:
            return Outcome.CONFLICT
        if state not in container_states_before(now):
            return Outcome.CONFLICT
        # The container went past this state before the report came, so what later reports said stands.
        fields = {name: value for name, value in fields.items() if name not in found or name == "seen"}
        # A filter on the state's absence keeps the first.
        await self._containers.find_one_and_update(
            {**wanted, "attempt": found["attempt"], f"reached.{state.value}": {"$exists": False}},
            {"$set": fields},
            projection={"_id": 1},
        )
        return Outcome.APPLIED


def _usage_fields(usage: Usage) -> Document:
    fields = {
        "cpu_seconds": usage.cpu_seconds,
        "wall_seconds": usage.wall_seconds,
        "max_memory": usage.max_memory,
    }
    return {name: value for name, value in fields.items() if value is not None}
