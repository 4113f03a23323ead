"""What administrators call, for asyncio."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from cdmtaskservice.client.admin_calls import AdminCalls
from cdmtaskservice.client.admin_models import AdminJob, AdminReferenceData, NerscClient, SubJob, Unsent
from cdmtaskservice.client.aio_driver import AsyncDriver
from cdmtaskservice.client.blocking_admin import Admin
from cdmtaskservice.client.calls import Time, job_filters
from cdmtaskservice.client.core import described_by
from cdmtaskservice.client.models import Image, JobPreview, ReferenceData


@described_by(Admin)
class AsyncAdmin:
    """Calls for administrators; others get Unauthorized. Made by `AsyncClient`, and described at `Admin`."""

    def __init__(self, driver: AsyncDriver, calls: AdminCalls) -> None:
        self._driver = driver
        self._calls = calls

    def jobs(
        self,
        *,
        user: str | None = None,
        waiting: bool | None = None,
        cluster: str | None = None,
        state: str | None = None,
        tag: str | None = None,
        q: str | None = None,
        after: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[JobPreview]:
        filters = {**job_filters(cluster, state, tag, q, after, before), "user": user, "waiting": waiting}
        return self._driver.iterate(self._calls.jobs(filters, limit))

    async def job(self, job_id: str) -> AdminJob:
        return await self._driver.run(self._calls.job(job_id))

    async def cancel(self, job_id: str) -> None:
        await self._driver.run(self._calls.cancel(job_id))

    async def containers(self, job_id: str) -> list[SubJob]:
        return await self._driver.run(self._calls.containers(job_id))

    async def container(self, job_id: str, number: int) -> SubJob:
        return await self._driver.run(self._calls.container(job_id, number))

    async def exit_codes(self, job_id: str) -> list[int | None]:
        return await self._driver.run(self._calls.exit_codes(job_id))

    async def runner_status(self, job_id: str, container: int = 0) -> dict[str, Any]:
        return await self._driver.run(self._calls.runner_status(job_id, container))

    async def set_meta(
        self, job_id: str, set_fields: Mapping[str, str | int | float] | None = None, unset_keys: Sequence[str] = ()
    ) -> None:
        await self._driver.run(self._calls.set_meta(job_id, set_fields or {}, unset_keys))

    async def notify(self, job_id: str, state: str) -> None:
        await self._driver.run(self._calls.notify(job_id, state))

    async def clean(self, job_id: str, *, force: bool = False) -> None:
        await self._driver.run(self._calls.clean(job_id, force))

    async def unsent_notifications(self, notification_age: datetime.timedelta | str | None = None) -> Unsent:
        return await self._driver.run(self._calls.unsent_notifications(notification_age))

    async def approve_image(
        self,
        name: str,
        *,
        from_image: str | None = None,
        urls: Sequence[str] | None = None,
        usage_notes: str | None = None,
        refdata_id: str | None = None,
        default_refdata_mount_point: str | None = None,
    ) -> Image:
        query = {"refdata_id": refdata_id, "default_refdata_mount_point": default_refdata_mount_point}
        body = {"from_image": from_image, "urls": None if urls is None else list(urls), "usage_notes": usage_notes}
        return await self._driver.run(self._calls.approve_image(name, query, body))

    async def delete_image(self, name: str) -> None:
        await self._driver.run(self._calls.delete_image(name))

    async def refdata(self) -> list[AdminReferenceData]:
        return await self._driver.run(self._calls.refdata())

    async def refdata_one(self, refdata_id: str) -> AdminReferenceData:
        return await self._driver.run(self._calls.refdata_one(refdata_id))

    async def register_refdata(self, path: str, *, crc64nvme: str | None = None, unpack: bool = False) -> ReferenceData:
        return await self._driver.run(self._calls.register_refdata(path, crc64nvme, unpack))

    async def recover_refdata(self, refdata_id: str, cluster: str, *, force: bool = False) -> None:
        await self._driver.run(self._calls.recover_refdata(refdata_id, cluster, force))

    async def clean_refdata(self, refdata_id: str, cluster: str, *, force: bool = False) -> None:
        await self._driver.run(self._calls.clean_refdata(refdata_id, cluster, force))

    async def retire_refdata(self, refdata_id: str) -> None:
        await self._driver.run(self._calls.retire_refdata(refdata_id))

    async def open_site(self, cluster: str) -> None:
        await self._driver.run(self._calls.open_site(cluster))

    async def close_site(self, cluster: str) -> None:
        await self._driver.run(self._calls.close_site(cluster))

    async def nersc_client(self, require_lifetime: datetime.timedelta | str | None = None) -> NerscClient:
        return await self._driver.run(self._calls.nersc_client(require_lifetime))
