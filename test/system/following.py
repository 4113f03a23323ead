"""Reading logs while they are written."""

import asyncio

import httpx

from test.system.driver import Driver, until


def ticks(count: int) -> str:
    """What `seqtool tick` prints."""
    return "".join(f"tick {n} of {count}\n" for n in range(1, count + 1))


class Log:
    """A log that is followed in the background, as far as it has come."""

    def __init__(self, driver: Driver, job_id: str, seek: int = 0) -> None:
        self.text = ""
        self.broken: Exception | None = None
        self.headers: httpx.Headers | None = None
        self._path = f"/jobs/{job_id}/log/0/stdout?follow=true&seek={seek}"
        self.task = asyncio.create_task(self._read(driver.client()))

    async def _read(self, client: httpx.AsyncClient) -> None:
        try:
            async with client.stream("GET", self._path) as reply:
                assert reply.status_code == 200, await reply.aread()
                self.headers = reply.headers
                async for text in reply.aiter_text():
                    self.text += text
        except httpx.TransportError as e:
            self.broken = e

    async def has(self, lines: int) -> None:
        """Wait for so many lines."""

        async def there() -> bool:
            return self.text.count("\n") >= lines

        await until(there, f"{lines} lines are there: {self.text!r} {self.broken!r}")


async def ticking(driver: Driver, count: int, seconds: float) -> str:
    """A job of one container that prints so many lines, so far apart."""
    return await driver.submit(await driver.upload({"a": b"x"}), ["tick", str(count), str(seconds)])
