"""What is read once for many readers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
import structlog

from cdmtaskservice.domain.errors import DependencyUnavailableError, ResourceUnavailableError
from cdmtaskservice.services.feeds import Feed, Feeds
from test.stand_ins.clockwork import eventually


class Counted(Feed):
    """Counts its looks, and raises or ends as told."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.raises: list[Exception] = []
        self.last = False

    async def refresh(self) -> float | None:
        self.looks += 1
        if self.raises:
            raise self.raises.pop()
        self.publish()
        return None if self.last else 60.0


async def looked(feed: Counted, times: int) -> None:
    async def so_often() -> bool:
        return feed.looks >= times

    await eventually(so_often)


async def test_one_feed_serves_all_readers_and_lives_as_long_as_they_do() -> None:
    feeds = Feeds(10, 8)
    made: list[Counted] = []

    def make() -> Counted:
        made.append(Counted())
        return made[-1]

    with feeds.reading("ann", "k", make) as one:
        with feeds.reading("ben", "k", make) as two:
            assert one is two
            await looked(one, 1)
        feeds.wake("k")
        await looked(one, 2)
        with feeds.reading("ben", "other", make) as three:
            assert three is not one
    feeds.wake("k")
    await asyncio.sleep(0)
    assert one.over
    with feeds.reading("ann", "k", make) as again:
        assert again is not one
    assert len(made) == 3


async def test_a_reader_waits_for_a_change_and_no_longer_than_it_wants() -> None:
    feeds = Feeds(10, 8)
    with feeds.reading("ann", "k", Counted) as feed:
        await looked(feed, 1)
        waiting = asyncio.create_task(feed.wait(60))
        await asyncio.sleep(0)
        feeds.wake("k")
        assert await waiting is True
        assert await feed.wait(0.001) is False


async def test_a_feed_goes_on_when_something_was_away_and_ends_with_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdmtaskservice.services.feeds._PAUSE_WHEN_AWAY", 0.001)
    feeds = Feeds(10, 8)
    with feeds.reading("ann", "k", Counted) as feed:
        feed.raises = [DependencyUnavailableError("the store is away")]
        await looked(feed, 2)
        assert not feed.over
        feed.raises = [ZeroDivisionError("a bug")]
        waiting = asyncio.create_task(feed.wait(60))
        await asyncio.sleep(0)
        feeds.wake("k")
        assert await waiting is True
        assert feed.over
        assert feed.failed


async def test_a_feed_that_is_over_says_so() -> None:
    with Feeds(4, 4).reading("ann", "k", Counted) as feed:
        feed.last = True
        await feed.wait(60)
        await asyncio.sleep(0)
        assert feed.over


async def test_there_is_a_bound_on_readers_and_half_of_it_for_one_user() -> None:
    feeds = Feeds(4, 100)
    with ExitStack() as readers:

        def read(user: str) -> None:
            readers.enter_context(feeds.reading(user, "k", Counted))

        for user in ("ann", "ann"):
            read(user)
        with pytest.raises(ResourceUnavailableError, match="2 by you and 2 in all, of 4"):
            read("ann")
        for user in ("ben", "eve"):
            read(user)
        with pytest.raises(ResourceUnavailableError, match="0 by you and 4 in all"):
            read("dan")
    with feeds.reading("dan", "k", Counted):
        pass


async def test_there_is_a_bound_on_feeds_and_a_quarter_of_it_for_one_user() -> None:
    feeds = Feeds(1000, 8)
    with ExitStack() as readers:

        def read(user: str, key: int) -> None:
            readers.enter_context(feeds.reading(user, key, Counted))

        for key in (0, 1, 1):
            read("ann", key)
        with pytest.raises(ResourceUnavailableError, match="2 by you and 2 in all, of 8"):
            read("ann", 2)
        for user, key in (("ben", 2), ("ben", 3), ("eve", 4), ("eve", 5), ("dan", 6), ("dan", 7)):
            read(user, key)
        read("joe", 7)
        with pytest.raises(ResourceUnavailableError, match="1 by you and 8 in all, of 8"):
            read("joe", 8)
    with feeds.reading("joe", 8, Counted):
        pass


async def test_a_feed_speaks_in_nobodys_name() -> None:
    """Its log lines must not have the user and request of whoever came first."""
    seen: list[object] = []

    class Telling(Counted):
        async def refresh(self) -> float | None:
            seen.append(structlog.contextvars.get_contextvars())
            return await super().refresh()

    with (
        structlog.contextvars.bound_contextvars(user="ann", request_id="r1"),
        Feeds(4, 4).reading("ann", "k", Telling) as feed,
    ):
        await looked(feed, 1)
    assert seen == [{}]


async def test_news_in_a_burst_is_read_together() -> None:
    class Calm(Counted):
        least_pause = 60.0

    feeds = Feeds(4, 4)
    with feeds.reading("ann", "k", Calm) as feed:
        await looked(feed, 1)
        for _ in range(5):
            feeds.wake("k")
            await asyncio.sleep(0)
        assert feed.looks == 1


async def test_closing_sends_readers_away() -> None:
    feeds = Feeds(4, 4)
    with feeds.reading("ann", "k", Counted) as feed:
        await looked(feed, 1)
        waiting = asyncio.create_task(feed.wait(60))
        await asyncio.sleep(0)
        feeds.close()
        assert await waiting is True
        assert feeds.closed
