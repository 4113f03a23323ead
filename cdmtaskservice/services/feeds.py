"""What is read once in a process for any number of readers who stay: a job's news, a running container's log.

A feed lives as long as it has readers. A task of its own keeps it up to date; readers keep their own position and wait
for a change. So neither the store's load nor memory grows with their number, but for what a connection takes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import structlog

from cdmtaskservice.domain.errors import DependencyUnavailableError, ResourceUnavailableError

_log = structlog.get_logger(__name__)

_PAUSE_WHEN_AWAY = 2.0
"""Seconds until the next try while something that is read does not answer."""


class Feed(ABC):
    """Something that changes, and those who wait for it."""

    def __init__(self) -> None:
        self.over = False
        """Whether nothing will change any more."""
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
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        except Exception:
            _log.exception("feed_failed")
        finally:
            self.over = True
            self.publish()


F = TypeVar("F", bound=Feed)


class Feeds:
    """All feeds of this process, and a bound on their readers."""

    def __init__(self, most_readers: int) -> None:
        """most_readers: in all; one user may have half of them."""
        self._most = most_readers
        self._readers: Counter[str] = Counter()
        self._feeds: dict[Hashable, tuple[Feed, asyncio.Task[None], set[object]]] = {}
        self.closed = False
        """Whether the service stops: readers must leave."""

    def check_room(self, user: str) -> None:
        """Raises: ResourceUnavailableError where there are too many readers, or too many of this user."""
        mine, all_ = self._readers[user], self._readers.total()
        if all_ >= self._most or mine >= max(1, self._most // 2):
            raise ResourceUnavailableError(
                f"Too many logs and jobs are being followed: {mine} by you and {all_} in all, of {self._most}; half of "
                "them may be yours. Close some, or try again later"
            )

    @contextmanager
    def reading(self, user: str, key: Hashable, make: Callable[[], F]) -> Iterator[F]:
        """Read a feed, made where there is none of that key. Raises: ResourceUnavailableError."""
        self.check_room(user)
        place = object()
        if key not in self._feeds:
            feed = make()
            self._feeds[key] = feed, asyncio.create_task(feed.run()), set()
        found, task, places = self._feeds[key]
        places.add(place)
        self._readers[user] += 1
        try:
            yield found  # type: ignore[misc]  # one key is always of one kind
        finally:
            self._readers[user] -= 1
            if not self._readers[user]:
                del self._readers[user]
            places.remove(place)
            if not places:
                task.cancel()
                if self._feeds.get(key, (None,))[0] is found:
                    del self._feeds[key]

    def wake(self, key: Hashable) -> None:
        """There is news of that key. Nothing happens where nobody reads it."""
        if key in self._feeds:
            self._feeds[key][0].wake()

    def close(self) -> None:
        """Send all readers away."""
        self.closed = True
        for feed, _, _ in self._feeds.values():
            feed.publish()
