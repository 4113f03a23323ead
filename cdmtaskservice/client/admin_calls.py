"""What administrators call, as flows."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdmtaskservice.client.admin_models import AdminJob, AdminReferenceData, NerscClient, SubJob, Unsent
from cdmtaskservice.client.calls import Calls
from cdmtaskservice.client.effects import Flow, Items
from cdmtaskservice.client.errors import NotFound
from cdmtaskservice.client.models import Image, JobPreview, ReferenceData
from cdmtaskservice.client.requests import delete, get, id_of, path_of, post, put


@dataclass(frozen=True)
class AdminCalls:
    """All of them."""

    calls: Calls

    def jobs(self, filters: Mapping[str, object], limit: int | None) -> Items[JobPreview]:
        """GET /admin/jobs."""
        return self.calls.jobs("/admin/jobs", filters, limit)

    def job(self, job_id: str) -> Flow[AdminJob]:
        """GET /admin/jobs/{id}."""
        return self.calls.model(AdminJob, get(job_path(job_id)))

    def cancel(self, job_id: str) -> Flow[None]:
        """PUT /admin/jobs/{id}/cancel."""
        return self.calls.cancel(job_id, ("admin", "jobs"))

    def containers(self, job_id: str) -> Flow[list[SubJob]]:
        """GET /admin/jobs/{id}/container."""
        return self.calls.list_of(SubJob, get(job_path(job_id, "container")), "subjobs")

    def container(self, job_id: str, number: int) -> Flow[SubJob]:
        """GET /admin/jobs/{id}/container/{n}."""
        return self.calls.model(SubJob, get(job_path(job_id, "container", number)))

    def exit_codes(self, job_id: str) -> Flow[list[int | None]]:
        """GET /admin/jobs/{id}/exit_codes."""
        return self.calls.exit_codes(job_path(job_id, "exit_codes"))

    def runner_status(self, job_id: str, container: int) -> Flow[dict[str, Any]]:
        """GET /admin/jobs/{id}/runner_status."""
        found = yield from self.calls.json(get(job_path(job_id, "runner_status"), {"container_number": container}))
        return dict(found)

    def set_meta(
        self, job_id: str, set_fields: Mapping[str, str | int | float], unset_keys: Sequence[str]
    ) -> Flow[None]:
        """PUT /admin/jobs/{id}/meta."""
        body = {"set_fields": dict(set_fields), "unset_keys": list(unset_keys)}
        return self.calls.nothing(put(job_path(job_id, "meta"), body=body))

    def notify(self, job_id: str, state: str) -> Flow[None]:
        """PUT /admin/jobs/{id}/notify."""
        return self.calls.nothing(put(job_path(job_id, "notify"), {"state": state}))

    def clean(self, job_id: str, force: bool) -> Flow[None]:
        """DELETE /admin/jobs/{id}/clean."""
        return self.calls.nothing(delete(job_path(job_id, "clean"), {"force": force}))

    def unsent_notifications(self, age: datetime.timedelta | str | None) -> Flow[Unsent]:
        """POST /admin/unsent_notifications."""
        return self.calls.model(Unsent, post("/admin/unsent_notifications", {"notification_age": age}))

    def approve_image(self, name: str, query: Mapping[str, object], body: Mapping[str, Any]) -> Flow[Image]:
        """POST /admin/images/{image}."""
        given = {key: value for key, value in body.items() if value is not None}
        return self.calls.model(Image, post(path_of("admin", "images", name), query, given or None))

    def delete_image(self, name: str) -> Flow[None]:
        """DELETE /admin/images/{image}."""
        try:
            yield from self.calls.nothing(delete(path_of("admin", "images", name)))
        except NotFound as e:
            if not e.repeated:  # else an earlier try has done it
                raise

    def refdata(self) -> Flow[list[AdminReferenceData]]:
        """GET /admin/refdata."""
        return self.calls.list_of(AdminReferenceData, get("/admin/refdata"), "data")

    def refdata_one(self, refdata_id: str) -> Flow[AdminReferenceData]:
        """GET /admin/refdata/{id}."""
        return self.calls.model(AdminReferenceData, get(refdata_path(refdata_id)))

    def register_refdata(self, path: str, crc64nvme: str | None, unpack: bool) -> Flow[ReferenceData]:
        """POST /admin/refdata/{path}."""
        query = {"crc64nvme": crc64nvme, "unpack": unpack}
        return self.calls.model(ReferenceData, post(path_of("admin", "refdata", path), query))

    def recover_refdata(self, refdata_id: str, cluster: str, force: bool) -> Flow[None]:
        """PUT /admin/refdata/{id}/{cluster}/recover."""
        return self.calls.nothing(put(refdata_path(refdata_id, id_of(cluster), "recover"), {"force": force}))

    def clean_refdata(self, refdata_id: str, cluster: str, force: bool) -> Flow[None]:
        """DELETE /admin/refdata/{id}/{cluster}/clean."""
        return self.calls.nothing(delete(refdata_path(refdata_id, id_of(cluster), "clean"), {"force": force}))

    def retire_refdata(self, refdata_id: str) -> Flow[None]:
        """DELETE /admin/refdata/{id}."""
        return self.calls.nothing(delete(refdata_path(refdata_id)))

    def open_site(self, cluster: str) -> Flow[None]:
        """PUT /admin/sites/{cluster}/active."""
        return self.calls.nothing(put(path_of("admin", "sites", id_of(cluster), "active")))

    def close_site(self, cluster: str) -> Flow[None]:
        """DELETE /admin/sites/{cluster}/active."""
        return self.calls.nothing(delete(path_of("admin", "sites", id_of(cluster), "active")))

    def nersc_client(self, require_lifetime: datetime.timedelta | str | None) -> Flow[NerscClient]:
        """GET /admin/clients/nersc."""
        return self.calls.model(NerscClient, get("/admin/clients/nersc", {"require_lifetime": require_lifetime}))


def job_path(job_id: str, *more: str | int) -> str:
    """A path below a job, for administrators."""
    return path_of("admin", "jobs", id_of(job_id), *more)


def refdata_path(refdata_id: str, *more: str) -> str:
    """A path below reference data, for administrators."""
    return path_of("admin", "refdata", id_of(refdata_id), *more)
