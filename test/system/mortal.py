"""A service that is started again whenever it is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cdmtaskservice.embedded.service import EmbeddedService


@contextlib.asynccontextmanager
async def kept_alive(service: EmbeddedService) -> AsyncIterator[None]:
    """Start the service, again and again if need be; at the end it is killed."""
    service.start()

    async def watch() -> None:
        while True:
            if service.pid is None:
                await asyncio.to_thread(service.start)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        service.kill()
