"""What administrators call."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdmtaskservice.client.admin_calls import AdminCalls
from cdmtaskservice.client.admin_models import AdminJob, AdminReferenceData, NerscClient, SubJob, Unsent
from cdmtaskservice.client.blocking_driver import Driver
from cdmtaskservice.client.calls import Time, job_filters
from cdmtaskservice.client.models import Image, JobPreview, ReferenceData


class Admin:
    """Calls for administrators; others get Unauthorized. Made by `Client`."""

    def __init__(self, driver: Driver, calls: AdminCalls) -> None:
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
    ) -> Iterator[JobPreview]:
        """Everybody's jobs, filtered as by `Client.jobs`.

        user: only this user's; InvalidRequest where nobody has the name. waiting: True for those that cannot go on now.
        """
        filters = {**job_filters(cluster, state, tag, q, after, before), "user": user, "waiting": waiting}
        return self._driver.iterate(self._calls.jobs(filters, limit))

    def job(self, job_id: str) -> AdminJob:
        """Anybody's job, with all that is known of it. Raises NoSuchJob."""
        return self._driver.run(self._calls.job(job_id))

    def cancel(self, job_id: str) -> None:
        """As the owner would cancel it. Raises InvalidState where it is over, NoSuchJob."""
        self._driver.run(self._calls.cancel(job_id))

    def containers(self, job_id: str) -> list[SubJob]:
        """All containers of a job, by number. Raises NoSuchJob."""
        return self._driver.run(self._calls.containers(job_id))

    def container(self, job_id: str, number: int) -> SubJob:
        """One container of a job. Raises NoSuchJob, NoSuchContainer."""
        return self._driver.run(self._calls.container(job_id, number))

    def exit_codes(self, job_id: str) -> list[int | None]:
        """Exit codes by container number, None where there is none (yet). Raises NoSuchJob."""
        return self._driver.run(self._calls.exit_codes(job_id))

    def runner_status(self, job_id: str, container: int = 0) -> dict[str, Any]:
        """What the site's engine says of a container's run, in its own words; empty before it was submitted.

        Raises: NoSuchJob, NoSuchContainer.
        """
        return self._driver.run(self._calls.runner_status(job_id, container))

    def set_meta(
        self, job_id: str, set_fields: Mapping[str, str | int | float] | None = None, unset_keys: Sequence[str] = ()
    ) -> None:
        """Set and remove keys of the job's `admin_meta`, which its owner sees too; at least one, and none in both.

        Raises: NoSuchJob, InvalidRequest.
        """
        self._driver.run(self._calls.set_meta(job_id, set_fields or {}, unset_keys))

    def notify(self, job_id: str, state: str) -> None:
        """Publish once more the message that the job has come to a state. Raises NoSuchJob, InvalidState."""
        self._driver.run(self._calls.notify(job_id, state))

    def clean(self, job_id: str, *, force: bool = False) -> None:
        """Remove the job's files at its site; outputs in S3 stay. force: even where it is not over.

        Raises: NoSuchJob, InvalidState.
        """
        self._driver.run(self._calls.clean(job_id, force))

    def unsent_notifications(self, notification_age: datetime.timedelta | str | None = None) -> Unsent:
        """Publish what has been owed for so long, a minute at least; 10 minutes where it is left out."""
        return self._driver.run(self._calls.unsent_notifications(notification_age))

    def approve_image(
        self,
        name: str,
        *,
        from_image: str | None = None,
        urls: Sequence[str] | None = None,
        usage_notes: str | None = None,
        refdata_id: str | None = None,
        default_refdata_mount_point: str | None = None,
    ) -> Image:
        """Let jobs run an image, by the digest that its registry gives now.

        from_image: an approved one whose words for users are taken over. urls: at most 20. usage_notes: at most 10 000
        characters. refdata_id: reference data that the image needs; default_refdata_mount_point: where jobs have it.

        Raises: InvalidRequest, NoSuchImage, NoSuchReferenceData, Conflict where it is approved already.
        """
        query = {"refdata_id": refdata_id, "default_refdata_mount_point": default_refdata_mount_point}
        body = {"from_image": from_image, "urls": None if urls is None else list(urls), "usage_notes": usage_notes}
        return self._driver.run(self._calls.approve_image(name, query, body))

    def delete_image(self, name: str) -> None:
        """Take no new jobs with the image. Raises NoSuchImage, InvalidRequest."""
        self._driver.run(self._calls.delete_image(name))

    def refdata(self) -> list[AdminReferenceData]:
        """Reference data, with its progress, the newest first, at most 1000."""
        return self._driver.run(self._calls.refdata())

    def refdata_one(self, refdata_id: str) -> AdminReferenceData:
        """One piece of reference data, with its progress. Raises NoSuchReferenceData."""
        return self._driver.run(self._calls.refdata_one(refdata_id))

    def register_refdata(self, path: str, *, crc64nvme: str | None = None, unpack: bool = False) -> ReferenceData:
        """Register a file in S3, `bucket/key`; it is staged at every site.

        crc64nvme: what its checksum must be, base64. unpack: whether it is an archive to unpack.

        Raises: InvalidRequest, NoSuchFile, Unauthorized, Conflict where it is registered already.
        """
        return self._driver.run(self._calls.register_refdata(path, crc64nvme, unpack))

    def recover_refdata(self, refdata_id: str, cluster: str, *, force: bool = False) -> None:
        """Stage it at a site anew, where it has failed or does not go on. force: even where it is complete.

        Raises: NoSuchReferenceData, InvalidState, InvalidRequest, Unsupported.
        """
        self._driver.run(self._calls.recover_refdata(refdata_id, cluster, force))

    def clean_refdata(self, refdata_id: str, cluster: str, *, force: bool = False) -> None:
        """Remove what staging has left at a site, not the data. force: even where it is being staged.

        Raises: NoSuchReferenceData, InvalidState, InvalidRequest, Unsupported.
        """
        self._driver.run(self._calls.clean_refdata(refdata_id, cluster, force))

    def retire_refdata(self, refdata_id: str) -> None:
        """Have it removed at every site. Raises InvalidState where it is needed, NoSuchReferenceData."""
        self._driver.run(self._calls.retire_refdata(refdata_id))

    def open_site(self, cluster: str) -> None:
        """Let users submit jobs to a site. Raises InvalidRequest."""
        self._driver.run(self._calls.open_site(cluster))

    def close_site(self, cluster: str) -> None:
        """Take no new jobs for a site; those that it has go on. Raises InvalidRequest."""
        self._driver.run(self._calls.close_site(cluster))

    def nersc_client(self, require_lifetime: datetime.timedelta | str | None = None) -> NerscClient:
        """The client of NERSC's API with which the service works.

        Raises: LifetimeTooShort where it expires sooner than `require_lifetime`, Unsupported where there is none.
        """
        return self._driver.run(self._calls.nersc_client(require_lifetime))
