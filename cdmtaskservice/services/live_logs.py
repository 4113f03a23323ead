"""Following the log of a container while it runs.

Executors send pieces of a log along with their heartbeats, but only of logs that somebody follows: a reader's feed
says so in the store, and the process that is sent the next heartbeat asks for them in its answer. Pieces pass through
the store, so that reader and executor may talk to different processes. Once the container is over, the rest is read
from S3.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import NoLogsError, UnsupportedOperationError
from cdmtaskservice.domain.records import ContainerRecord, JobRecord
from cdmtaskservice.domain.worker_calls import LogPiece
from cdmtaskservice.services.feeds import LONGEST, Feed, Feeds
from cdmtaskservice.services.jobs import Jobs, LogStream
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.live_logs import LiveLogStore, LogKey, Piece

_IN_MEMORY = 1 << 20
"""Bytes of one log that are held for all its readers. Whoever is further behind reads the store."""

_FOLLOWED_FOR = datetime.timedelta(seconds=30)
_SAID_EVERY = datetime.timedelta(seconds=10)
"""How long a log counts as followed, and how often that is said again."""

_ASKED_EVERY = datetime.timedelta(seconds=1)
"""How old what this process knows of followed logs may be."""

_PAUSE = 0.5
_LONGEST_PAUSE = 2.0
"""Seconds between two looks for new pieces: while they come, and when none has come for a while."""

_LONGEST_SILENCE = 300.0
"""Seconds without a byte after which a reader must ask again."""

_PATIENCE = 15.0

_MERGED = 1 << 16
"""Bytes up to which small pieces are put together in memory, so that a log of many lines is few of them."""


class BrokenOffError(Exception):
    """The stream cannot go on, and the log has not ended: the reader may ask again, from where it is."""


@dataclass(frozen=True)
class FollowedLog:
    """A log as it comes. attempt: whose it is. offset: of the first byte in `chunks`, which raise BrokenOffError."""

    attempt: int
    offset: int
    chunks: AsyncGenerator[bytes, None]


class LiveLogs:
    """Both ends: what executors send, and those who read it."""

    def __init__(
        self,
        owned: Jobs,
        containers: ContainerStore,
        store: LiveLogStore,
        feeds: Feeds,
        sites: Collection[str],
        clock: Clock,
    ) -> None:
        """sites: those whose containers run by our executor."""
        self._owned = owned
        self._containers = containers
        self._store = store
        self._feeds = feeds
        self._sites = sites
        self._clock = clock
        self._wanted: Mapping[tuple[str, int], Sequence[str]] = {}
        self._asked: datetime.datetime | None = None

    async def follow(
        self, viewer: Principal, job_id: str, number: int, stream: LogStream, seek: int = 0, *, any_job: bool = False
    ) -> FollowedLog:
        """The bytes of a container's log from `seek` on, as they are written, until its attempt is over.

        any_job: for administrators, who may follow everybody's. Raises what `Jobs.log` does, and
        UnsupportedOperationError while the container runs where nobody tells us, ResourceUnavailableError where there
        are too many readers.
        """
        job = await self._owned.find(job_id, None if any_job else viewer)
        self._owned.check_number(job, number)
        container = await self._containers.get(job_id, number)
        assert container is not None
        if job.state.is_terminal or container.state.is_terminal:
            chunks = await self._owned.log(None, job_id, number, stream, seek)
            return FollowedLog(container.attempt, seek, chunks)
        if job.site not in self._sites:
            raise UnsupportedOperationError(
                f"Logs at the site {job.site} can be read only once the container is over: ask again then, or without "
                "follow"
            )
        key = LogKey(job_id, number, stream)
        kept = await self._store.span(key, container.attempt)
        offset = max(seek, kept[0]) if kept else seek
        chunks = self._live(viewer.user, key, container.attempt, offset)
        await anext(chunks)  # takes its place among the readers, or is refused before anything is answered
        return FollowedLog(container.attempt, offset, chunks)

    async def _live(self, user: str, key: LogKey, attempt: int, position: int) -> AsyncGenerator[bytes, None]:
        """An empty chunk first, and then the log."""

        def make() -> _LogFeed:
            return _LogFeed(self._owned, self._containers, self._store, self._clock, key, attempt)

        with self._feeds.reading(user, ("log", key, attempt), make) as feed:
            yield b""
            begun = written = time.monotonic()
            while True:
                now = time.monotonic()
                if self._feeds.closed or feed.failed:
                    raise BrokenOffError("the service stops" if self._feeds.closed else "the log cannot be read now")
                if now - begun > LONGEST or now - written > _LONGEST_SILENCE:
                    # A reader that has gone without a word is found out by having to come again.
                    raise BrokenOffError("it is time to ask again")
                pieces = feed.after(position)
                if not pieces and position < feed.end:
                    pieces = await self._store.read(key, attempt, position)
                for piece in pieces:
                    if piece.offset != position:
                        raise BrokenOffError(f"bytes {position} to {piece.offset} of the log are not kept any more")
                    yield piece.data
                    position, written = piece.end, time.monotonic()
                if pieces:
                    continue
                if feed.over:
                    break
                await feed.wait(_PATIENCE)
        if not feed.ended:
            return
        with suppress(NoLogsError):  # it was canceled before there was any
            async with aclosing(await self._owned.log(None, key.job_id, key.number, _stream(key), position)) as rest:
                async for chunk in rest:
                    yield chunk

    async def take(
        self, job_id: str, number: int, attempt: int, pieces: Sequence[LogPiece]
    ) -> Mapping[str, int] | None:
        """Keep what an executor has sent of streams that are followed, as far as it is new. Returns from where on it is
        to send which streams; None for none."""
        wanted: dict[str, int] = {}
        for stream in await self._streams(job_id, number):
            key = LogKey(job_id, number, stream)
            span = await self._store.span(key, attempt)
            wanted[stream] = span[1] if span else 0
            for piece in pieces:
                if piece.stream != stream or piece.offset < wanted[stream]:
                    continue
                if await self._store.add(key, attempt, Piece(piece.offset, piece.data)):
                    self._feeds.wake(("log", key, attempt))
                    wanted[stream] = piece.offset + len(piece.data)
                    continue
                # The heartbeat before this one was slow, and has overtaken it: what is kept now counts.
                span = await self._store.span(key, attempt)
                wanted[stream] = span[1] if span else 0
        return wanted or None

    async def _streams(self, job_id: str, number: int) -> Sequence[str]:
        """The streams of a container that are followed, as far as was known a moment ago."""
        now = self._clock()
        if self._asked is None or now - self._asked > _ASKED_EVERY:
            self._asked = now  # the others go on with what is known, and do not ask too
            wanted: dict[tuple[str, int], list[str]] = defaultdict(list)
            for key in await self._store.wanted(now):
                wanted[key.job_id, key.number].append(key.stream)
            self._wanted = wanted
        return self._wanted.get((job_id, number), ())


class _LogFeed(Feed):
    """The newest bytes of one attempt's log, for all its readers in this process."""

    def __init__(
        self,
        owned: Jobs,
        containers: ContainerStore,
        store: LiveLogStore,
        clock: Clock,
        key: LogKey,
        attempt: int,
    ) -> None:
        super().__init__()
        self._owned = owned
        self._containers = containers
        self._store = store
        self._clock = clock
        self._key = key
        self._attempt = attempt
        self._said: datetime.datetime | None = None
        self._pause = _PAUSE
        self._pieces: deque[Piece] = deque()
        self.end = 0
        """The offset of what will come next."""
        self.ended = False
        """Whether the container is over, so that its log is in S3."""

    def after(self, position: int) -> Sequence[Piece]:
        """What is in memory from `position` on; nothing where that is further back, or all there is."""
        if not self._pieces or not self._pieces[0].offset <= position < self.end:
            return ()
        found: list[Piece] = []
        for piece in reversed(self._pieces):  # mostly, it is the last one alone
            if piece.end <= position:
                break
            found.append(piece)
        first = found.pop()
        return [Piece(position, first.data[position - first.offset :]), *reversed(found)]

    async def refresh(self) -> float | None:
        """Say that the log is followed, and read what has come."""
        now = self._clock()
        if self._said is None or now - self._said >= _SAID_EVERY:
            await self._store.want(self._key, now + _FOLLOWED_FOR)
            self._said = now
        # In this order: what was sent before the end is there when the end is seen.
        job, container = await asyncio.gather(
            self._owned.find(self._key.job_id, None), self._containers.get(self._key.job_id, self._key.number)
        )
        news = await self._store.read(self._key, self._attempt, self.end)
        for piece in news:
            self._keep(piece)
        over = self._is_over(job, container)
        if news:
            self.publish()
            self._pause = _PAUSE
            return 0.0  # there may be more, also of an attempt that is over
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return None if over else pause

    def _keep(self, piece: Piece) -> None:
        if self._pieces and piece.offset != self._pieces[-1].end:
            self._pieces.clear()  # what lies between is not kept any more
        if self._pieces and len(self._pieces[-1].data) + len(piece.data) <= _MERGED:
            last = self._pieces.pop()
            piece = Piece(last.offset, last.data + piece.data)
        self._pieces.append(piece)
        self.end = piece.end
        while len(self._pieces) > 1 and self.end - self._pieces[0].end >= _IN_MEMORY:
            self._pieces.popleft()

    def _is_over(self, job: JobRecord, container: ContainerRecord | None) -> bool:
        if container is None or container.attempt != self._attempt:
            return True
        self.ended = container.state.is_terminal or job.state.is_terminal
        return self.ended


def _stream(key: LogKey) -> LogStream:
    return "stderr" if key.stream == "stderr" else "stdout"
