"""The load generator: a lean HTTP client in a closed loop, so that it is the service that is measured.

It costs about a tenth of what the service spends on a request. What it used stands in every section as `client`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp


class Refused(Exception):
    """An answer that was not what the benchmark needs; the text holds the request and the beginning of the answer."""


@dataclass(frozen=True)
class Load:
    """What came of a run. latencies: seconds of each request. seconds: from the first request to the last answer."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


class Caller:
    """Requests of one user to one service."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=120),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of an answer of 2xx. Raises Refused for any other."""
        async with self._session.request(method, self._url + path, data=body) as reply:
            content = await reply.read()
            if not 200 <= reply.status < 300:
                raise Refused(f"{method} {path}: {reply.status} {content[:500]!r}")
            return content

    async def get(self, path: str) -> Any:
        """The JSON at a path."""
        return json.loads(await self.call("GET", path))


async def timed(work: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Seconds that `work` takes, one after the other, `times` times."""
    samples = []
    for _ in range(times):
        begun = time.perf_counter()
        await work()
        samples.append(time.perf_counter() - begun)
    return samples


async def hammer(jobs: Iterable[Callable[[], Awaitable[object]]], concurrency: int) -> Load:
    """Do all of these, so many at once, each as soon as one before it is done."""
    waiting = iter(jobs)
    latencies: list[float] = []

    async def one_client() -> None:
        for job in waiting:
            begun = time.perf_counter()
            await job()
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_client())
    return Load(latencies, time.perf_counter() - begun)
