"""What the routes for administrators and for workers answer in full, and what they make of their parameters."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import ContainerUpdate, Heartbeat, InputsRequest, UploadsComplete
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import CALLERS, CRC, NOW_TEXT, container_record, finished_job

ADAM, EXEC, CONTAINER = (CALLERS[t] for t in ("admin", "executor", "container"))
UPDATE = {"time": "2030-01-02T03:04:05Z"}
BEAT = {"phase": "running", "bytes_done": 1, "bytes_total": 2}
COMPLETE = {"files": [{"path": "o.txt", "crc64nvme": CRC, "upload_id": "u", "etags": ['"e"']}]}
WORK = "/external_exec/jobs/job1/container/0"


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


async def test_administrators_see_more(services: FakeServices, client: Client) -> None:
    shown = (await client.get("/admin/jobs/job1", "admin")).json()
    assert shown["cleaned"] is True
    assert shown["waiting"] == "the site does not answer"
    assert [t["notif_sent"] for t in shown["transition_times"]] == [True] * 5 + [False] * 2
    assert shown["transition_times"][0] == {
        "state": "created",
        "time": NOW_TEXT,
        "trans_id": "job1-t0",
        "notif_sent": True,
    }
    services.admin_jobs.job = finished_job(error="no", admin_error="disk full", traceback="Traceback …", waiting=None)
    shown = (await client.get("/admin/jobs/job1", "admin")).json()
    assert (shown["error"], shown["admin_error"], shown["traceback"]) == ("no", "disk full", "Traceback …")
    assert "waiting" not in shown
    owners = (await client.get("/jobs/job1", "ann")).text
    assert "waiting" not in owners
    assert "trans_id" not in owners


async def test_sub_jobs(client: Client) -> None:
    times = [
        {"state": "created", "time": NOW_TEXT},
        {"state": "job_submitted", "time": "2030-01-02T03:04:06.678000Z"},
    ]
    common = {"id": "job1", "state": "job_submitted", "transition_times": times}
    assert (await client.get("/admin/jobs/job1/container", "admin")).json() == {
        "subjobs": [
            {**common, "sub_id": 0, "exit_code": 0, "outputs": [{"file": "cts-data/out/o.txt", "crc64nvme": CRC}]},
            {**common, "sub_id": 1},
        ]
    }
    assert (await client.get("/admin/jobs/job1/container/0", "admin")).json() == {
        **common,
        "sub_id": 0,
        "admin_error": "disk full",
        "traceback": "Traceback …",
    }
    assert container_record().exit_code is None


async def test_runner_status_may_hold_anything(client: Client) -> None:
    response = await client.get("/admin/jobs/job1/runner_status", "admin")
    assert response.json() == {"JobStatus": 2, "Args": None, "Rank": None, "Requirements": "<class 'object'>"}


async def test_approval_is_passed_on_whole(services: FakeServices, client: Client) -> None:
    body = {"from_image": "ghcr.io/kbase/tool:0", "urls": ["https://example.org/x"], "usage_notes": "a\n\tb"}
    response = await client.send(
        "POST",
        "/admin/images/localhost:5000/tool",
        "admin",
        json=body,
        params={"refdata_id": "r1", "default_refdata_mount_point": "/ref//data/"},
    )
    assert response.status_code == 200, response.text
    approval = ImageApproval.model_validate(body)
    assert services.images.calls == [("approve", (ADAM, "localhost:5000/tool", approval, "r1", "/ref/data"))]


@pytest.mark.parametrize("number", ["-1", "x", "0.5", str(2**40)])
async def test_bad_container_number(number: str, client: Client) -> None:
    response = await client.get(f"/admin/jobs/job1/container/{number}", "admin")
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)


@pytest.mark.parametrize(
    "body",
    [
        {"set_fields": {"a": None}},
        {"set_fields": {"a": True}},
        {"set_fields": {"a": [1]}},
        {"set_fields": {"a": 2**63}},
        {"set_fields": {"a": float("nan")}},
        {"set_fields": {"a": float("-inf")}},
        {"set_fields": {"$a": 1}},
        {"set_fields": {"a.b": 1}},
        {"set_fields": {"": 1}},
        {"set_fields": {"a": "\0"}},
        {"set_fields": {"a": "x" * 10_001}},
        {"set_fields": {str(n): n for n in range(101)}},
        {"unset_keys": ["\ud800"]},
        {"unset_keys": "a"},
        {"other": 1},
        [],
    ],
    ids=lambda body: str(body)[:40].encode("ascii", "replace").decode(),
)
async def test_bad_meta(body: Any, services: FakeServices, client: Client) -> None:
    content = json.dumps(body)
    response = await client.send(
        "PUT", "/admin/jobs/job1/meta", "admin", content=content, headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)
    assert services.admin_jobs.calls == []


async def test_meta_keeps_the_kinds_of_numbers(services: FakeServices, client: Client) -> None:
    await client.send(
        "PUT",
        "/admin/jobs/j/meta",
        "admin",
        content='{"set_fields": {"i": 1, "f": 1.0, "s": "1"}}',
        headers={"Content-Type": "application/json"},
    )
    values = services.admin_jobs.calls[0][1][1]
    assert [type(v) for v in values.values()] == [int, float, str]


@pytest.mark.parametrize(("text", "age"), [("PT1H", 3600), ("90", 90), ("P1D", 86400)])
async def test_notification_age(text: str, age: int, services: FakeServices, client: Client) -> None:
    response = await client.send("POST", "/admin/unsent_notifications", "admin", params={"notification_age": text})
    assert response.json() == {"jobs": 2, "transitions": 5}
    assert services.admin_jobs.calls == [("unsent", (datetime.timedelta(seconds=age),))]


@pytest.mark.parametrize("text", ["soon", "-1", "P999999999D", "P1Y", "1e300", "nan"])
async def test_bad_notification_age(text: str, client: Client) -> None:
    response = await client.send("POST", "/admin/unsent_notifications", "admin", params={"notification_age": text})
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)


async def test_workers_are_told_who_calls(services: FakeServices, client: Client) -> None:
    await client.send("PUT", f"{WORK}/update/error", "executor", json=UPDATE)
    await client.send("PUT", f"{WORK}/update/complete", "container", json=UPDATE)
    await client.send("POST", f"{WORK}/heartbeat", "container", json=BEAT)
    await client.send("POST", f"{WORK}/uploads/complete", "container", json=COMPLETE)
    await client.send("POST", f"{WORK}/inputs", "container", json={"files": ["cts-data/a"]})
    update = ContainerUpdate.model_validate(UPDATE)
    assert services.workers.calls == [
        ("update", (EXEC, "job1", 0, JobState.ERROR, update)),
        ("update", (CONTAINER, "job1", 0, JobState.COMPLETE, update)),
        ("heartbeat", (CONTAINER, "job1", 0, Heartbeat.model_validate(BEAT))),
        ("complete_uploads", (CONTAINER, "job1", 0, UploadsComplete.model_validate(COMPLETE))),
        ("inputs", (CONTAINER, "job1", 0, InputsRequest(files=("cts-data/a",)))),
    ]


async def test_update_with_an_unknown_state(client: Client) -> None:
    response = await client.send("PUT", f"{WORK}/update/done", "executor", json=UPDATE)
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)


@pytest.mark.parametrize(
    ("path", "content", "sha256"),
    [
        ("/external_exec/files/condor/executable.sh", b"#!/bin/sh\n", "e" * 64),
        ("/external_exec/files/code_archive.tgz", b"\x1f\x8b archive", "f" * 64),
    ],
)
async def test_worker_files(path: str, content: bytes, sha256: str, client: Client) -> None:
    response = await client.get(path)
    assert response.content == content
    assert response.headers["etag"] == f'"{sha256}"'
    assert response.headers["x-content-sha256"] == sha256
    for known in (f'"{sha256}"', f'W/"{sha256}"', f'"other", "{sha256}"', "*"):
        again = await client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == f'"{sha256}"'
    for other in ('"other"', sha256, ""):
        assert (await client.get(path, headers={"If-None-Match": other})).status_code == 200
