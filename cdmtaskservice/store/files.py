"""A job's input and output files, in chunks that never come near the size limit of a document.

Chunks hold columns of plain values, so that ten thousand files cost a handful of documents. Nothing that polls a job's
state reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import BulkWriteError, DuplicateKeyError

from cdmtaskservice.domain.records import InputFiles, OutputFiles
from cdmtaskservice.store.codec import Document
from cdmtaskservice.store.database import Database, store_call

CHUNK = 500
"""Files in a chunk."""

INLINE_OUTPUTS = 100
"""So many output files of a container may stand in its own document."""

_JOB = -1
"""Stands for the container number where a chunk belongs to the whole job."""


class FileStore:
    """The `files` collection, and `claims`: which container writes which output path."""

    def __init__(self, database: Database) -> None:
        self._files = database.db.files
        self._claims = database.db.claims

    @store_call
    async def insert_inputs(self, job_id: str, inputs: InputFiles) -> None:
        """Store the input files of a job."""
        documents = []
        for chunk, start in enumerate(range(0, len(inputs), CHUNK)):
            part = inputs.part(start, start + CHUNK)
            document = _document(job_id, "input", _JOB, chunk)
            document |= {
                "files": list(part.files),
                "crc64nvmes": list(part.crc64nvmes),
                "sizes": list(part.sizes),
                "places": list(part.places),
            }
            if part.data_ids is not None:
                document["data_ids"] = list(part.data_ids)
            documents.append(document)
        await self._files.insert_many(documents)

    @store_call
    async def inputs(self, job_id: str, start: int = 0, stop: int | None = None) -> InputFiles:
        """The input files of a job from number `start` up to but not including `stop`, in the request's order.

        Give `stop` where it is known: chunks that can be named are found fastest, whatever the store.
        """
        query: Document = {"job": job_id, "kind": "input", "n": _JOB}
        first = start // CHUNK
        if stop is not None:
            last = max(first, (stop - 1) // CHUNK)
            query = {"_id": {"$in": [_name(job_id, "input", _JOB, chunk) for chunk in range(first, last + 1)]}}
        elif first:
            query["chunk"] = {"$gte": first}
        chunks = await self._files.find(query).sort([("chunk", 1)]).to_list(None)
        offset = start - first * CHUNK
        end = None if stop is None else offset + stop - start
        has_ids = bool(chunks) and "data_ids" in chunks[0]
        return InputFiles(
            files=_column(chunks, "files")[offset:end],
            crc64nvmes=_column(chunks, "crc64nvmes")[offset:end],
            sizes=_column(chunks, "sizes")[offset:end],
            places=_column(chunks, "places")[offset:end],
            data_ids=_column(chunks, "data_ids")[offset:end] if has_ids else None,
        )

    @store_call
    async def put_outputs(
        self,
        job_id: str,
        outputs: OutputFiles,
        *,
        container: int | None = None,
        attempt: int = 0,
    ) -> None:
        """Store the output files of an attempt at a container, or those of the whole job. Repeatable."""
        kind = "output" if container is None else f"output-{attempt}"
        number = _JOB if container is None else container
        for chunk, start in enumerate(range(0, len(outputs), CHUNK)):
            document = _document(job_id, kind, number, chunk)
            document["files"] = list(outputs.files[start : start + CHUNK])
            document["crc64nvmes"] = list(outputs.crc64nvmes[start : start + CHUNK])
            try:
                await self._files.insert_one(document)
            except DuplicateKeyError:
                await self._files.replace_one({"_id": document["_id"]}, document)

    @store_call
    async def outputs(
        self, job_id: str, start: int = 0, stop: int | None = None, *, container: int | None = None, attempt: int = 0
    ) -> OutputFiles:
        """The output files stored by `put_outputs`, from number `start` up to but not including `stop`."""
        kind = "output" if container is None else f"output-{attempt}"
        query: Document = {"job": job_id, "kind": kind, "n": _JOB if container is None else container}
        first = start // CHUNK
        if stop is not None:
            query["chunk"] = {"$gte": first, "$lte": (stop - 1) // CHUNK}
        elif first:
            query["chunk"] = {"$gte": first}
        chunks = await self._files.find(query).sort([("chunk", 1)]).to_list(None)
        offset = start - first * CHUNK
        end = None if stop is None else offset + stop - start
        return OutputFiles(_column(chunks, "files")[offset:end], _column(chunks, "crc64nvmes")[offset:end])

    @store_call
    async def claim_outputs(self, job_id: str, container: int, paths: Sequence[str]) -> tuple[str, int] | None:
        """Claim output paths (relative to the output directory) for one container of a job.

        Returns None where all are its own now, else the first path that another container has, and its number.
        """
        if not paths:
            return None
        try:
            await self._claims.insert_many(
                [{"_id": f"{job_id}/{path}", "job": job_id, "n": container} for path in paths], ordered=False
            )
        except BulkWriteError:
            ids = [f"{job_id}/{path}" for path in paths]
            owners = {d["_id"]: d["n"] async for d in self._claims.find({"_id": {"$in": ids}}, {"n": 1})}
            for path, key in zip(paths, ids, strict=True):
                # One that is gone was released meanwhile, as the job is over.
                if (owner := owners.get(key, container)) != container:
                    return path, owner
        return None

    @store_call
    async def release_claims(self, job_id: str) -> None:
        """Forget which container writes what: the job is over."""
        await self._claims.delete_many({"job": job_id})

    @store_call
    async def delete(self, job_id: str) -> None:
        """Remove all files of a job that was never accepted."""
        await self._files.delete_many({"job": job_id})


def _document(job_id: str, kind: str, number: int, chunk: int) -> Document:
    return {
        "_id": _name(job_id, kind, number, chunk),
        "job": job_id,
        "kind": kind,
        "n": number,
        "chunk": chunk,
    }


def _name(job_id: str, kind: str, number: int, chunk: int) -> str:
    return f"{job_id}:{kind}:{number}:{chunk}"


def _column(chunks: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [value for chunk in chunks for value in chunk[name]]
