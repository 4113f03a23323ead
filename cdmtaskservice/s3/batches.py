"""How requests are run: many at once, or one to its end come what may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def run_batch(items: Sequence[Item], work: Callable[[Item], Awaitable[Result]], concurrency: int) -> list[Result]:
    """What `work` gives for each item, in the items' order, with at most `concurrency` of them at once.

    Where some fail, the exception of the first of them in the items' order is raised, as soon as all items before it
    are done; what comes after it is given up.
    """
    results: dict[int, Result] = {}
    # Taken in order, so whatever comes before an item that fails is done or under way by then.
    numbered = iter(enumerate(items))
    under_way: dict[int, asyncio.Task[object]] = {}
    failed = len(items)
    failure: Exception | None = None

    async def take_turns() -> None:
        nonlocal failed, failure
        task = asyncio.current_task()
        assert task is not None
        for index, item in numbered:
            if index > failed:
                return
            under_way[index] = task
            try:
                results[index] = await work(item)
            except Exception as e:
                if index < failed:
                    failed, failure = index, e
                    for later in [other for at, other in under_way.items() if at > index]:
                        later.cancel()
                return
            finally:
                del under_way[index]

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(items))):
            group.create_task(take_turns())
    if failure is not None:
        raise failure
    return [results[index] for index in range(len(items))]


async def run_to_the_end(work: Coroutine[object, object, Result]) -> Result:
    """What `work` gives. Where the caller is cancelled, the cancellation waits until `work` is done.

    For requests that undo what an earlier one has done; `work` must be bounded in time.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # taken note of: the cancellation is what the caller gets
        raise
