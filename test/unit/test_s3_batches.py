"""Batches of requests: order, the bound, and which failure is told."""

from __future__ import annotations

import asyncio
import random

import pytest

from cdmtaskservice.s3.batches import run_batch


async def test_results_come_in_the_items_order_whatever_finishes_first() -> None:
    dice = random.Random(1)

    async def work(item: int) -> int:
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        return item * 2

    assert await run_batch(range(100), work, 7) == [2 * item for item in range(100)]


async def test_nothing_to_do() -> None:
    async def work(item: int) -> int:
        raise AssertionError

    assert await run_batch([], work, 7) == []


async def test_no_more_than_the_bound_at_once() -> None:
    busy = most = 0

    async def work(item: int) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1

    await run_batch(range(50), work, 8)
    assert most == 8


@pytest.mark.parametrize("seed", range(30))
async def test_the_first_failing_item_is_told_whatever_fails_first(seed: int) -> None:
    dice = random.Random(seed)
    failing = set(dice.sample(range(60), dice.randrange(1, 30)))

    async def work(item: int) -> None:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        if item in failing:
            raise ValueError(item)

    with pytest.raises(ValueError, match=f"^{min(failing)}$"):
        await run_batch(range(60), work, dice.randrange(1, 20))


async def test_a_failure_ends_what_comes_after_it_but_not_what_comes_before() -> None:
    before, release = asyncio.Event(), asyncio.Event()
    begun: list[int] = []
    done: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            before.set()
            await release.wait()
        elif item == 1:
            await before.wait()
            asyncio.get_running_loop().call_soon(release.set)
            raise ValueError(item)
        else:
            await asyncio.Event().wait()
        done.append(item)

    async with asyncio.timeout(5):
        with pytest.raises(ValueError, match="1"):
            await run_batch(range(1000), work, 4)
    assert done == [0]
    assert max(begun) < 4


async def test_a_cancelled_batch_leaves_nothing_running() -> None:
    begun = asyncio.Event()
    ended: list[int] = []

    async def work(item: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    batch = asyncio.create_task(run_batch(range(10), work, 3))
    await begun.wait()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert sorted(ended) == [0, 1, 2]
