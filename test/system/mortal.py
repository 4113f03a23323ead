"""A part that is started again whenever it is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cdmtaskservice.embedded.part import Part


@contextlib.asynccontextmanager
async def kept_alive(part: Part) -> AsyncIterator[None]:
    """Start the part, again and again if need be; at the end it is killed."""
    part.start()
    over = asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            if part.pid is None:
                await asyncio.to_thread(part.start)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await over.wait()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        over.set()
        # Waited for, as a start that goes on in its thread would outlive what follows.
        await asyncio.gather(watching, return_exceptions=True)
        part.kill()
