"""Following logs, from an executor's heartbeats to a reader: the store on every database, and the desk with readers."""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import AsyncIterator

import pytest

from cdmtaskservice.auth.container_token import ContainerClaim
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import (
    NoLogsError,
    NoSuchSubJobError,
    ResourceUnavailableError,
    UnauthorizedError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import MAX_PIECE, Heartbeat
from cdmtaskservice.services.events import JobEvents
from cdmtaskservice.services.live_logs import BrokenOffError, FollowedLog, LiveLogs
from cdmtaskservice.store.live_logs import WINDOW, LiveLogStore, LogKey, Piece
from test.integration.workers_room import LOGS, Room, update
from test.stand_ins.clockwork import START, eventually

ANN = Principal("ann", frozenset())
KEY = LogKey("j:with:colons", 3, "stdout")
LATER = START + datetime.timedelta(seconds=30)


async def test_logs_are_wanted_for_a_while(database):
    store = LiveLogStore(database)
    assert await store.wanted(START) == []
    await asyncio.gather(*(store.want(KEY, LATER) for _ in range(5)))
    assert await store.wanted(START) == [KEY]
    assert await store.wanted(LATER) == []
    await store.want(KEY, LATER + datetime.timedelta(seconds=1))
    assert await store.wanted(LATER) == [KEY]


async def test_pieces_are_read_from_any_position(database):
    store = LiveLogStore(database)
    assert await store.span(KEY, 1) is None
    assert await store.read(KEY, 1, 0) == []
    for piece in (Piece(0, b"\0\xff23"), Piece(4, b"4567"), Piece(4, b"4567"), Piece(8, b"8")):
        await store.add(KEY, 1, piece)
    await store.add(KEY, 2, Piece(0, b"another attempt"))
    await store.add(LogKey(KEY.job_id, 3, "stderr"), 1, Piece(0, b"another stream"))
    assert await store.span(KEY, 1) == (0, 9)
    for position in range(10):
        assert b"".join(p.data for p in await store.read(KEY, 1, position)) == b"\0\xff2345678"[position:]
    assert await store.read(KEY, 1, 3) == [Piece(3, b"3"), Piece(4, b"4567"), Piece(8, b"8")]


async def test_the_longest_piece_is_read_from_its_last_byte(database):
    store = LiveLogStore(database)
    await store.add(KEY, 1, Piece(0, b"a" * (MAX_PIECE - 1) + b"b"))
    await store.add(KEY, 1, Piece(MAX_PIECE, b"c"))
    assert await store.read(KEY, 1, MAX_PIECE - 1) == [Piece(MAX_PIECE - 1, b"b"), Piece(MAX_PIECE, b"c")]
    assert await store.add(KEY, 1, Piece(MAX_PIECE, b"cd")) is False


async def test_what_is_read_at_once_is_whole_and_bounded(database):
    store = LiveLogStore(database)
    for offset in (0, 4, 10):  # what came between is lost
        await store.add(KEY, 1, Piece(offset, b"abcd"))
    assert await store.read(KEY, 1, 0) == [Piece(0, b"abcd"), Piece(4, b"abcd")]
    assert await store.read(KEY, 1, 8) == [Piece(10, b"abcd")]
    large = b"x" * (1 << 19)
    for n in range(4):
        await store.add(KEY, 2, Piece(n << 19, large))
    assert len(await store.read(KEY, 2, 0)) == 2


async def test_the_newest_bytes_are_kept(database):
    store = LiveLogStore(database)
    size = 1 << 20
    for n in range(10):
        await store.add(KEY, 1, Piece(n * size, bytes([n]) * size))
    first, end = await store.span(KEY, 1)
    assert end == 10 * size
    assert end - first == WINDOW


async def test_what_nobody_follows_is_forgotten(database):
    store = LiveLogStore(database)
    other = LogKey("k", 0, "stdout")
    for key, until in ((KEY, START), (other, LATER)):
        await store.want(key, until)
        await store.add(key, 1, Piece(0, b"a"))
        await store.add(key, 2, Piece(0, b"a"))
    assert await store.forget(LATER) == 1
    assert [await store.span(key, n) for key in (KEY, other) for n in (1, 2)] == [None, None, (0, 1), (0, 1)]
    assert await store.wanted(START) == [other]


# The desk.


@pytest.fixture
async def room(room: Room) -> AsyncIterator[Room]:
    """The workers' desk with a job that has left no log yet."""
    await room.accept()
    await room.s3.delete([f"{LOGS}/j/container-0/stdout.txt"])
    yield room
    room.feeds.close()


async def beat(room: Room, claim: ContainerClaim, **logs: tuple[int, bytes]) -> dict[str, int] | None:
    """The executor says that it lives, and sends pieces; what it is asked for."""
    pieces = [{"stream": s, "offset": o, "data": base64.b64encode(d).decode()} for s, (o, d) in logs.items()]
    heartbeat = Heartbeat.model_validate({"phase": "running", "logs": pieces})
    answer = await room.workers.heartbeat(claim, claim.job_id, claim.container_number, heartbeat)
    assert not answer["stop"]
    wanted: dict[str, int] | None = answer["logs"]
    return wanted


async def asked_for(room: Room, claim: ContainerClaim) -> dict[str, int]:
    """What the executor is asked for, as soon as it is."""

    async def asked() -> dict[str, int] | None:
        room.clock.advance(2)
        return await beat(room, claim)

    return await eventually(asked)


class Reader:
    """Reads a log that is followed, in the background."""

    def __init__(self, log: FollowedLog) -> None:
        self.log = log
        self.read = b""
        self.task = asyncio.create_task(self._read(log.chunks))

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.read += chunk

    async def has(self, data: bytes) -> None:
        async def there() -> bool:
            assert data.startswith(self.read)
            return self.read == data

        await eventually(there)


async def follow(room: Room, seek: int = 0, **kwargs) -> Reader:
    return Reader(await room.live_logs.follow(ANN, "j", 0, "stdout", seek, **kwargs))


async def test_a_log_is_followed_from_its_beginning_to_its_end_in_s3(room):
    reader = await follow(room)  # before the container has begun
    assert (reader.log.attempt, reader.log.offset) == (1, 0)
    _, claim = await room.claim()
    assert await asked_for(room, claim) == {"stdout": 0}
    assert await beat(room, claim, stdout=(0, b"one\n")) == {"stdout": 4}
    await reader.has(b"one\n")
    second = await follow(room, 2)
    await second.has(b"e\n")
    assert await beat(room, claim, stdout=(4, b"two\n")) == {"stdout": 8}
    await reader.has(b"one\ntwo\n")
    # The executor has uploaded the whole log before it says that it is done.
    await room.s3.put(f"{LOGS}/j/container-0/stdout.txt", b"one\ntwo\nthree\n")
    await room.workers.update(claim, "j", 0, JobState.ERROR, update(room, error="it broke"))
    async with asyncio.timeout(20):
        await asyncio.gather(reader.task, second.task)
    assert (reader.read, second.read) == (b"one\ntwo\nthree\n", b"e\ntwo\nthree\n")
    third = await follow(room, 4)
    await third.task
    assert third.read == b"two\nthree\n"


async def test_nothing_is_sent_of_what_nobody_follows(room):
    _, claim = await room.claim()
    for _ in range(3):
        room.clock.advance(10)
        assert await beat(room, claim) is None
    reader = await follow(room)
    assert await asked_for(room, claim) == {"stdout": 0}
    reader.task.cancel()
    await asyncio.gather(reader.task, return_exceptions=True)
    room.clock.advance(60)
    assert await beat(room, claim) is None


async def test_only_what_is_followed_and_new_is_kept(room):
    _, claim = await room.claim()
    assert await beat(room, claim, stdout=(0, b"unasked")) is None
    reader = await follow(room)
    await asked_for(room, claim)
    assert await beat(room, claim, stdout=(0, b"one\n"), stderr=(0, b"unasked")) == {"stdout": 4}
    assert await beat(room, claim, stdout=(0, b"on")) == {"stdout": 4}
    assert await beat(room, claim, stdout=(2, b"e\ntwo\n")) == {"stdout": 4}
    await beat(room, claim, stdout=(4, b"two\n"))
    await reader.has(b"one\ntwo\n")
    assert await room.database.db.log_pieces.count_documents({}) == 2
    reader.task.cancel()


async def test_readers_of_another_process_get_the_same(room):
    """One process is told by the executor, the other one has the reader; they share the store alone."""
    other = LiveLogs(
        room.owned, room.containers, LiveLogStore(room.database), type(room.feeds)(4, 4), ["here"], room.clock
    )
    reader = Reader(await other.follow(ANN, "j", 0, "stdout"))
    _, claim = await room.claim()
    assert await asked_for(room, claim) == {"stdout": 0}
    await beat(room, claim, stdout=(0, b"one\n"))
    await reader.has(b"one\n")
    reader.task.cancel()


async def test_a_reader_far_behind_and_what_is_not_kept_any_more(room):
    reader = await follow(room)
    _, claim = await room.claim()
    await asked_for(room, claim)
    size = 1 << 18
    total = 0
    while total <= WINDOW + 2 * size:  # the readers at the front get all of it
        await beat(room, claim, stdout=(total, bytes([total >> 18]) * size))
        total += size
        await reader.has(b"".join(bytes([n]) * size for n in range(total >> 18)))
    behind = await follow(room)
    assert behind.log.offset == total - WINDOW
    await behind.has(reader.read[-WINDOW:])
    # Whoever has been promised bytes that are gone is not given others in their place.
    with pytest.raises(BrokenOffError, match="not kept"):
        async for _ in room.live_logs._live("ben", LogKey("j", 0, "stdout"), 1, 0):
            pass
    for r in (reader, behind):
        r.task.cancel()


async def test_all_that_is_kept_of_a_lost_attempt_is_given(room):
    """It is in no other place: S3 gets the log of the last attempt."""
    reader = await follow(room)
    _, claim = await room.claim()
    await asked_for(room, claim)
    store, size = LiveLogStore(room.database), 1 << 18
    assert await room.containers.next_attempt("j", 0, 1, room.clock(), "lost")
    for n in range(12):  # more than is read at once
        await store.add(LogKey("j", 0, "stdout"), 1, Piece(n * size, bytes([n]) * size))
    async with asyncio.timeout(20):
        await reader.task
    assert reader.read == b"".join(bytes([n]) * size for n in range(12))


async def test_heartbeats_that_overtake_one_another_leave_no_gap(room):
    reader = await follow(room)
    _, claim = await room.claim()
    await asked_for(room, claim)
    store = LiveLogStore(room.database)
    add, late = store.add, []

    async def slow(key: LogKey, attempt: int, piece: Piece) -> bool:
        # While this piece is on its way, a shorter one from the same offset on is stored, of a heartbeat before it.
        if not late:
            late.append(piece)
            await add(key, attempt, Piece(0, b"one\n"))
        return await add(key, attempt, piece)

    room.live_logs._store.add = slow
    assert await beat(room, claim, stdout=(0, b"one\ntwo\n")) == {"stdout": 4}
    assert await beat(room, claim, stdout=(4, b"two\n")) == {"stdout": 8}
    await reader.has(b"one\ntwo\n")
    reader.task.cancel()


async def test_readers_do_no_harm_to_the_job_that_they_read(room):
    _, claim = await room.claim()

    async def fails(*_: object) -> None:
        raise OSError("disk quota exceeded")

    room.live_logs._store.wanted = fails
    assert await beat(room, claim) is None
    assert (await room.containers.get("j", 0)).progress.phase == "running"


async def test_a_log_that_cannot_be_read_breaks_off_and_does_not_end(room):
    async def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    room.live_logs._store.read = fails
    reader = await follow(room)
    with pytest.raises(BrokenOffError, match="cannot be read"):
        await reader.task


@pytest.mark.parametrize("bound", ["LONGEST", "_LONGEST_SILENCE"])
async def test_readers_must_come_again_from_time_to_time(room, monkeypatch, bound):
    monkeypatch.setattr(f"cdmtaskservice.services.live_logs.{bound}", 0.0)
    reader = await follow(room)
    with pytest.raises(BrokenOffError, match="ask again"):
        await reader.task


async def test_many_short_lines_are_few_pieces_in_memory(room):
    reader = await follow(room)
    _, claim = await room.claim()
    await asked_for(room, claim)
    text = b""
    for n in range(30):
        line = b"line %d\n" % n
        await beat(room, claim, stdout=(len(text), line))
        text += line
        await reader.has(text)
    [feed] = [open_.feed for open_ in room.feeds._feeds.values()]
    assert len(feed._pieces) == 1
    assert b"".join(p.data for p in feed.after(5)) == text[5:]
    reader.task.cancel()


async def test_another_attempt_is_another_log(room):
    reader = await follow(room)
    _, claim = await room.claim()
    await asked_for(room, claim)
    await beat(room, claim, stdout=(0, b"one\n"))
    await reader.has(b"one\n")
    assert await room.containers.next_attempt("j", 0, 1, room.clock(), "lost")
    async with asyncio.timeout(20):
        await reader.task
    assert reader.read == b"one\n"
    again = await follow(room)
    assert (again.log.attempt, again.log.offset) == (2, 0)
    _, claim = await room.claim(attempt=2, claim="b")
    await asked_for(room, claim)
    await beat(room, claim, stdout=(0, b"zwei\n"))
    await again.has(b"zwei\n")
    again.task.cancel()


async def test_the_log_of_a_job_that_is_canceled_ends(room):
    reader = await follow(room)
    await room.cancel()
    await room.jobs.transition("j", Transition(JobState.CANCELED, room.clock(), "end"))
    async with asyncio.timeout(20):
        await reader.task
    assert reader.read == b""
    with pytest.raises(NoLogsError):
        await room.live_logs.follow(ANN, "j", 0, "stdout")


async def test_who_may_follow_what(room):
    with pytest.raises(UnauthorizedError):
        await room.live_logs.follow(Principal("ben", frozenset()), "j", 0, "stdout")
    assert (await room.live_logs.follow(Principal("adam", frozenset()), "j", 0, "stdout", any_job=True)).attempt == 1
    with pytest.raises(NoSuchSubJobError):
        await room.live_logs.follow(ANN, "j", 2, "stdout")
    elsewhere = LiveLogs(room.owned, room.containers, LiveLogStore(room.database), room.feeds, [], room.clock)
    with pytest.raises(UnsupportedOperationError, match="once the container is over"):
        await elsewhere.follow(ANN, "j", 0, "stdout")


async def test_readers_are_bounded_and_sent_away_at_the_end(room):
    readers = [await follow(room) for _ in range(3)]
    with pytest.raises(ResourceUnavailableError):
        await follow(room)
    room.feeds.close()
    async with asyncio.timeout(20):
        ends = await asyncio.gather(*(r.task for r in readers), return_exceptions=True)
    assert [type(e) for e in ends] == [BrokenOffError] * 3


async def test_a_job_is_watched_to_its_end(room):
    events = JobEvents(room.owned, room.containers, room.feeds)
    news = await events.watch(ANN, "j")
    with pytest.raises(UnauthorizedError):
        await events.watch(Principal("ben", frozenset()), "j")
    first = await anext(news)
    assert (first.job.state, first.counts) == (JobState.CREATED, {JobState.CREATED: 2})
    _, claim = await room.claim()
    await room.workers.update(claim, "j", 0, JobState.DOWNLOAD_SUBMITTED, update(room))
    events.wake("j")
    second = await anext(news)
    assert second.counts == {JobState.CREATED: 1, JobState.DOWNLOAD_SUBMITTED: 1}
    await room.cancel()
    await room.jobs.transition("j", Transition(JobState.CANCELED, room.clock(), "end"))
    async with asyncio.timeout(20):
        rest = [n async for n in news if n is not None]
    assert (rest[-1].job.state, rest[-1].counts) == (JobState.CANCELED, {JobState.CANCELED: 2})
