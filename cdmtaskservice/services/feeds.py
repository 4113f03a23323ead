"""What is read once in a process for any number of readers who stay: a job's news, a running container's log.

A feed lives as long as it has readers. A task of its own keeps it up to date; readers keep their own position and wait
for a change. So neither the store's load nor memory grows with their number, but for what a connection takes.
"""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from cdmtaskservice.domain.errors import DependencyUnavailableError, ResourceUnavailableError

_log = structlog.get_logger(__name__)

_PAUSE_WHEN_AWAY = 2.0
"""Seconds until the next try while something that is read does not answer."""

LONGEST = 3600.0
"""Seconds after which a reader must ask again, so that it is looked at again whether it may read."""


class Feed(ABC):
    """Something that changes, and those who wait for it."""

    least_pause = 0.0
    """Seconds between two refreshes at least, so that news that comes in bursts is read together."""

    def __init__(self) -> None:
        self.over = False
        """Whether nothing will change any more."""
        self.failed = False
        """Whether it is over since it could not go on: what it is of may well go on."""
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()

    @abstractmethod
    async def refresh(self) -> float | None:
        """Read what is new. Returns the seconds until the next time unless woken before, or None: it is over.

        May raise DependencyUnavailableError, and is called again then.
        """

    def publish(self) -> None:
        """Wake all readers."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def wake(self) -> None:
        """There is news: read it at once."""
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Return when something has changed since the last step of the reader; False where nothing has for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                return True
        return False

    async def run(self) -> None:
        """Keep it up to date until it is over."""
        try:
            while True:
                self._woken.clear()
                try:
                    pause = await self.refresh()
                except DependencyUnavailableError as e:
                    _log.info("feed_waits", error=e.message)
                    pause = _PAUSE_WHEN_AWAY
                if pause is None:
                    return
                await asyncio.sleep(self.least_pause)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        except Exception:
            self.failed = True
            _log.exception("feed_failed")
        finally:
            self.over = True
            self.publish()


F = TypeVar("F", bound=Feed)


@dataclass
class _Open:
    """A feed with its task and its readers, by user."""

    feed: Feed
    task: asyncio.Task[None]
    readers: Counter[str]


class Feeds:
    """All feeds of this process, and bounds on their number and on that of their readers."""

    def __init__(self, most_readers: int, most_feeds: int) -> None:
        """most_readers: in all; one user may have half of them. most_feeds: different things that are read, in all; one
        user may read a quarter of as many."""
        self._most = most_readers
        self._most_feeds = most_feeds
        self._readers: Counter[str] = Counter()
        self._feeds: dict[Hashable, _Open] = {}
        self.closed = False
        """Whether the service stops: readers must leave."""

    def _check_room(self, user: str, key: Hashable) -> None:
        mine, all_ = self._readers[user], self._readers.total()
        if all_ >= self._most or mine >= max(1, self._most // 2):
            raise ResourceUnavailableError(
                f"Too many logs and jobs are being followed: {mine} by you and {all_} in all, of {self._most}; half of "
                "them may be yours. Close some, or try again later"
            )
        own = sum(user in open_.readers for open_ in self._feeds.values())
        known = self._feeds.get(key)
        more = known is None or user not in known.readers
        if (known is None and len(self._feeds) >= self._most_feeds) or (more and own >= max(1, self._most_feeds // 4)):
            raise ResourceUnavailableError(
                f"Too many different logs and jobs are being followed: {own} by you and {len(self._feeds)} in all, of "
                f"{self._most_feeds}; a quarter of them may be yours. Close some, or try again later"
            )

    @contextmanager
    def reading(self, user: str, key: Hashable, make: Callable[[], F]) -> Iterator[F]:
        """Read a feed, made where there is none of that key. Raises: ResourceUnavailableError."""
        self._check_room(user, key)
        if key not in self._feeds:
            feed = make()
            # It serves others than who came first, so it must not log in the name of that request.
            task = asyncio.create_task(feed.run(), context=contextvars.Context())
            self._feeds[key] = _Open(feed, task, Counter())
        open_ = self._feeds[key]
        for counter in (open_.readers, self._readers):
            counter[user] += 1
        try:
            yield open_.feed  # type: ignore[misc]  # one key is always of one kind
        finally:
            for counter in (open_.readers, self._readers):
                counter[user] -= 1
                if not counter[user]:
                    del counter[user]
            if not open_.readers:
                open_.task.cancel()
                if self._feeds.get(key) is open_:
                    del self._feeds[key]

    def wake(self, key: Hashable) -> None:
        """There is news of that key. Nothing happens where nobody reads it."""
        if key in self._feeds:
            self._feeds[key].feed.wake()

    def close(self) -> None:
        """Send all readers away."""
        self.closed = True
        for open_ in self._feeds.values():
            open_.feed.publish()
