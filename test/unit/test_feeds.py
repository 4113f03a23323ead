"""What is read once for many readers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

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
    feeds = Feeds(10)
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
    feeds = Feeds(10)
    with feeds.reading("ann", "k", Counted) as feed:
        await looked(feed, 1)
        waiting = asyncio.create_task(feed.wait(60))
        await asyncio.sleep(0)
        feeds.wake("k")
        assert await waiting is True
        assert await feed.wait(0.001) is False


async def test_a_feed_goes_on_when_something_was_away_and_ends_with_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdmtaskservice.services.feeds._PAUSE_WHEN_AWAY", 0.001)
    feeds = Feeds(10)
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


async def test_a_feed_that_is_over_says_so() -> None:
    with Feeds(2).reading("ann", "k", Counted) as feed:
        feed.last = True
        await feed.wait(60)
        await asyncio.sleep(0)
        assert feed.over


async def test_there_is_a_bound_and_half_of_it_for_one_user() -> None:
    feeds = Feeds(4)
    with ExitStack() as readers:
        for user, key in (("ann", 1), ("ann", 1), ("ben", 1), ("ben", 2)):
            feeds.check_room(user)
            readers.enter_context(feeds.reading(user, key, Counted))
        with pytest.raises(ResourceUnavailableError, match="0 by you and 4 in all"):
            feeds.check_room("eve")
    with ExitStack() as readers:
        for _ in range(2):
            readers.enter_context(feeds.reading("ann", 1, Counted))
        with pytest.raises(ResourceUnavailableError, match="2 by you and 2 in all, of 4"):
            readers.enter_context(feeds.reading("ann", 1, Counted))
    feeds.check_room("ann")


async def test_closing_sends_readers_away() -> None:
    feeds = Feeds(4)
    with feeds.reading("ann", "k", Counted) as feed:
        await looked(feed, 1)
        waiting = asyncio.create_task(feed.wait(60))
        await asyncio.sleep(0)
        feeds.close()
        assert await waiting is True
        assert feeds.closed
