"""Logs of containers that run, for as long as somebody follows them.

`log_wants` says which logs are followed, each until some time soon unless it is said again; `log_pieces` has what
executors have sent since. Of each log at most `WINDOW` bytes are kept, the newest.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from pymongo.errors import DuplicateKeyError

from cdmtaskservice.domain.worker_calls import MAX_PIECE
from cdmtaskservice.store.codec import to_millis
from cdmtaskservice.store.database import Database, store_call

WINDOW = 8 << 20
"""Bytes of one log that are kept while it is followed."""

_READ = 1 << 20
_BATCH = 8
"""Pieces that come from the database at once; they may be a quarter of a megabyte each."""


@dataclass(frozen=True, slots=True)
class LogKey:
    """One stream of one container."""

    job_id: str
    number: int
    stream: str

    def __str__(self) -> str:
        return f"{self.job_id}:{self.number}:{self.stream}"

    @classmethod
    def of(cls, text: str) -> LogKey:
        """The key that `str` made a text of."""
        job_id, number, stream = text.rsplit(":", 2)
        return cls(job_id, int(number), stream)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a log from `offset` on."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset of what follows."""
        return self.offset + len(self.data)


class LiveLogStore:
    """The `log_wants` and `log_pieces` collections."""

    def __init__(self, database: Database) -> None:
        self._wants = database.db.log_wants
        self._pieces = database.db.log_pieces

    @store_call
    async def want(self, key: LogKey, until: datetime.datetime) -> None:
        """The log is followed until then at least."""
        change = {"$set": {"until": to_millis(until)}}
        if await self._wants.find_one_and_update({"_id": str(key)}, change) is None:
            try:
                await self._wants.insert_one({"_id": str(key), "until": to_millis(until)})
            except DuplicateKeyError:
                await self._wants.find_one_and_update({"_id": str(key)}, change)

    @store_call
    async def wanted(self, at: datetime.datetime) -> Sequence[LogKey]:
        """The logs that are followed at that time."""
        found = await self._wants.find({"until": {"$gt": to_millis(at)}}).to_list(None)
        return [LogKey.of(d["_id"]) for d in found]

    @store_call
    async def add(self, key: LogKey, attempt: int, piece: Piece) -> bool:
        """Keep a piece; what is then more than the window is dropped at its beginning. False where there is one from
        that offset on already, longer or shorter, which stays."""
        log = {"log": str(key), "attempt": attempt}
        try:
            await self._pieces.insert_one(
                {
                    "_id": f"{key}:{attempt}:{piece.offset}",
                    **log,
                    "offset": piece.offset,
                    "end": piece.end,
                    "data": piece.data,
                }
            )
        except DuplicateKeyError:
            return False
        await self._pieces.delete_many({**log, "offset": {"$lt": piece.end - WINDOW}})
        return True

    @store_call
    async def span(self, key: LogKey, attempt: int) -> tuple[int, int] | None:
        """The offsets of the first byte that is kept and of what follows the last one; None where nothing is."""
        query = {"log": str(key), "attempt": attempt}
        ends = [
            await self._pieces.find(query, {"offset": 1, "end": 1}).sort([("offset", way)]).limit(1).to_list(None)
            for way in (1, -1)
        ]
        if not all(ends):
            return None
        return ends[0][0]["offset"], ends[1][0]["end"]

    @store_call
    async def read(self, key: LogKey, attempt: int, position: int) -> Sequence[Piece]:
        """What is kept from `position` on, about a megabyte at most. It may begin later, where the beginning is not
        kept any more, and is whole from there on."""
        # No piece is longer, so what begins before that cannot reach the position; the index knows offsets only.
        far = position - MAX_PIECE
        query = {"log": str(key), "attempt": attempt, "offset": {"$gt": far}, "end": {"$gt": position}}
        pieces: list[Piece] = []
        size = 0
        async for d in self._pieces.find(query).sort([("offset", 1)]).batch_size(_BATCH):
            piece = Piece(max(position, d["offset"]), bytes(d["data"][max(0, position - d["offset"]) :]))
            if pieces and piece.offset != pieces[-1].end:
                break
            pieces.append(piece)
            size += len(piece.data)
            if size >= _READ:
                break
        return pieces

    @store_call
    async def forget(self, before: datetime.datetime) -> int:
        """Drop the logs that nobody has followed since; returns how many."""
        forgotten = 0
        for want in await self._wants.find({"until": {"$lt": to_millis(before)}}).to_list(None):
            # Whoever has just begun to follow it has changed the time.
            gone = await self._wants.delete_many({"_id": want["_id"], "until": want["until"]})
            if gone.deleted_count:
                await self._pieces.delete_many({"log": want["_id"]})
                forgotten += 1
        return forgotten
