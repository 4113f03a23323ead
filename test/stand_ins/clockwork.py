"""Time and IDs that a test has in its hand, and waiting for something without sleeping through it."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

START = datetime.datetime(2030, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime.datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


def counting_ids(prefix: str = "id") -> Callable[[], str]:
    """A source of IDs: id-1, id-2, …"""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


async def eventually(
    check: Callable[[], Awaitable[T | None]],
    *,
    within: float = 10.0,
    tick: Callable[[], object] | None = None,
) -> T:
    """The first true answer of `check`; AssertionError after `within` seconds. `tick` runs between the questions."""
    end = time.monotonic() + within
    while True:
        found = await check()
        if found:
            return found
        assert time.monotonic() < end, f"it did not come true within {within:g} seconds"
        if tick is not None:
            tick()
        await asyncio.sleep(0.005)
