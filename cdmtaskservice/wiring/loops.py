"""The loops of the service: begun together, and ended so that other processes can go on at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol


class Loop(Protocol):
    """Something that runs until it is stopped."""

    async def run(self) -> None:
        """Run; cancelled, give back what it holds."""
        ...

    async def stop(self) -> None:
        """Begin nothing more. `run` returns once what is under way is over."""
        ...


class LookLoop(Loop, Protocol):
    """One that may be told, even after its end, that there is something to look at."""

    async def pass_on(self) -> None:
        """Leave to other processes what it was told of."""
        ...


class Loops:
    """The looks, and the relay, which outlives them since their last transitions make messages."""

    def __init__(self, looks: Collection[LookLoop], relay: Loop, patience: float) -> None:
        """patience: seconds that what is under way has to come to its end, counted from `stop`."""
        self._looks = tuple(looks)
        self._relay = relay
        self._patience = patience
        self._running: dict[Loop, asyncio.Task[None]] = {}
        self._stopping: asyncio.Task[None] | None = None
        self._deadline: float | None = None

    def start(self) -> None:
        """Let them run."""
        self._running = {loop: asyncio.create_task(loop.run()) for loop in (*self._looks, self._relay)}

    def stop(self) -> None:
        """Let no more looks begin. The service may go on answering meanwhile."""
        if self._stopping is None:
            self._deadline = asyncio.get_running_loop().time() + self._patience
            self._stopping = asyncio.create_task(_stop(self._looks))

    async def end(self) -> None:
        """Wait until all is over, or the time is; then break off what is left, which gives back what it holds."""
        self.stop()
        assert self._stopping is not None
        await self._stopping
        await self._wait(self._looks)
        for loop in self._looks:
            # Reports of executors were taken in until now.
            await loop.pass_on()
        await _stop((self._relay,))
        await self._wait((self._relay,))

    async def _wait(self, loops: Collection[Loop]) -> None:
        assert self._deadline is not None
        tasks = [self._running[loop] for loop in loops if loop in self._running]
        if not tasks:
            return
        left = max(0.0, self._deadline - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(tasks, timeout=left)
        for task in tasks:
            if task in late:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stop(loops: Collection[Loop]) -> None:
    for loop in loops:
        await loop.stop()
