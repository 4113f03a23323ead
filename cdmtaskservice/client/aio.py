"""The client for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cdmtaskservice.client.admin_calls import AdminCalls
from cdmtaskservice.client.aio_admin import AsyncAdmin
from cdmtaskservice.client.aio_driver import AsyncDriver
from cdmtaskservice.client.blocking import Client
from cdmtaskservice.client.calls import AnyJob, LogStream, Time, job_filters
from cdmtaskservice.client.core import described_by, new_calls
from cdmtaskservice.client.downloading import Download
from cdmtaskservice.client.events import Event
from cdmtaskservice.client.following import LogChunk, follow
from cdmtaskservice.client.http import new_wire
from cdmtaskservice.client.models import (
    Container,
    DryRun,
    Image,
    Job,
    JobPreview,
    JobStatus,
    OutputFile,
    ReferenceData,
    Site,
    WhoAmI,
)
from cdmtaskservice.client.profile import resolve
from cdmtaskservice.client.progress import new_bar
from cdmtaskservice.client.requests import id_of, path_of
from cdmtaskservice.client.watching import Wait, events


@described_by(Client)
class AsyncClient:
    """A client of the CDM Task Service for asyncio.

    It is made as `Client` is, and has the same methods, described there: those that give one thing are awaited, those
    that give many (`jobs`, `events`, `follow_log`, `outputs`, `inputs`) are for `async for`. Use it in an `async with`,
    within one event loop.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        profile = resolve(url, token)
        self._url = profile.url
        self._calls = new_calls(retries)
        self._driver = AsyncDriver(new_wire(profile, timeout), transport)
        self.admin = AsyncAdmin(self._driver, AdminCalls(self._calls))
        """What administrators may call."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        return self._url

    async def close(self) -> None:
        await self._driver.close()

    async def service(self) -> dict[str, Any]:
        return await self._driver.run(self._calls.service())

    async def whoami(self) -> WhoAmI:
        return await self._driver.run(self._calls.whoami())

    async def submit(self, job: AnyJob, *, idempotency_key: str | None = None) -> str:
        return await self._driver.run(self._calls.submit(job, idempotency_key))

    async def check(self, job: AnyJob) -> DryRun:
        return await self._driver.run(self._calls.check(job))

    async def status(self, job_id: str) -> JobStatus:
        return await self._driver.run(self._calls.status(job_id))

    async def job(self, job_id: str) -> Job:
        return await self._driver.run(self._calls.job(job_id))

    def jobs(
        self,
        *,
        cluster: str | None = None,
        state: str | None = None,
        tag: str | None = None,
        q: str | None = None,
        after: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[JobPreview]:
        filters = job_filters(cluster, state, tag, q, after, before)
        return self._driver.iterate(self._calls.jobs("/jobs", filters, limit))

    async def containers(self, job_id: str) -> list[Container]:
        return await self._driver.run(self._calls.containers(job_id))

    async def exit_codes(self, job_id: str) -> list[int | None]:
        return await self._driver.run(self._calls.exit_codes(path_of("jobs", id_of(job_id), "exit_codes")))

    def events(self, job_id: str) -> AsyncIterator[Event]:
        return self._driver.iterate(events(self._calls, job_id))

    async def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the same as the other client's
        progress: bool | None = None,
    ) -> Job:
        bar = new_bar(progress, f"Job {job_id[:8]}")
        return await self._driver.run(Wait(self._calls, job_id, timeout, bar).flow())

    async def log(
        self,
        job_id: str,
        container: int = 0,
        stream: LogStream = "stdout",
        *,
        seek: int = 0,
        length: int | None = None,
    ) -> bytes:
        return await self._driver.run(self._calls.log(job_id, container, stream, seek, length))

    def follow_log(
        self, job_id: str, container: int = 0, stream: LogStream = "stdout", *, seek: int = 0
    ) -> AsyncIterator[LogChunk]:
        return self._driver.iterate(follow(self._calls, job_id, container, stream, seek))

    def outputs(self, job_id: str) -> AsyncIterator[OutputFile]:
        return self._driver.iterate(self._calls.files(job_id, "outputs"))

    def inputs(self, job_id: str) -> AsyncIterator[OutputFile]:
        return self._driver.iterate(self._calls.files(job_id, "inputs"))

    async def download(
        self, job_id: str, directory: str | Path, *, progress: bool | None = None, overwrite: bool = False
    ) -> list[Path]:
        bar = new_bar(progress, f"Job {job_id[:8]}")
        return await self._driver.run(Download(self._calls, job_id, Path(directory), overwrite, bar).flow())

    async def cancel(self, job_id: str) -> None:
        await self._driver.run(self._calls.cancel(job_id))

    async def images(self) -> list[Image]:
        return await self._driver.run(self._calls.images())

    async def image(self, name: str) -> Image:
        return await self._driver.run(self._calls.image(name))

    async def refdata(self) -> list[ReferenceData]:
        return await self._driver.run(self._calls.refdata())

    async def refdata_by_id(self, refdata_id: str) -> ReferenceData:
        return await self._driver.run(self._calls.refdata_by_id(refdata_id))

    async def refdata_by_path(self, path: str) -> list[ReferenceData]:
        return await self._driver.run(self._calls.refdata_by_path(path))

    async def sites(self) -> list[Site]:
        return await self._driver.run(self._calls.sites())
