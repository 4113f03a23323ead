"""What the routes for all and for users answer in full, and what they make of their parameters."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from cdmtaskservice.api import models
from cdmtaskservice.domain.errors import NoLogsError
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import Progress, Usage
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.services.jobs import FilesPage
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import (
    CALLERS,
    CRC,
    DIGEST,
    JOB_INPUT,
    NOW,
    NOW_TEXT,
    container_record,
    finished_job,
    input_files,
    job_record,
)

ANN = CALLERS["ann"]


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


async def test_root(client: Client) -> None:
    assert (await client.get("/")).json() == {
        "service_name": "CDM Task Service",
        "version": "0.0.0",
        "git_hash": "0123abc",
        "server_time": NOW_TEXT,
        "notes": "For tests",
    }


async def test_whoami(client: Client) -> None:
    paths = [{"path": "cts-data/", "perm": "write"}]
    assert (await client.get("/whoami", "ann")).json() == {
        "user": "ann",
        "allowed_paths": [*paths, {"path": "home/ann/", "perm": "write"}],
    }
    assert (await client.get("/whoami", "admin")).json() == {
        "user": "adam",
        "roles": ["full_admin"],
        "allowed_paths": [*paths, {"path": "home/adam/", "perm": "write"}],
    }


async def test_sites_are_shown_in_the_contracts_units(client: Client) -> None:
    assert (await client.get("/sites")).json() == {
        "sites": [
            {
                "cluster": "kbase",
                "nodes": 2,
                "cpus_per_node": 64,
                "memory_per_node_gb": 256,
                "max_runtime_min": 1440,
                "notes": ["first come"],
                "active": True,
                "available": True,
            },
            {
                "cluster": "perlmutter-jaws",
                "nodes": 3072,
                "cpus_per_node": 256,
                "memory_per_node_gb": 492,
                "max_runtime_min": 2880,
                "gpus_per_node": 4,
                "notes": [],
                "active": False,
                "available": False,
                "unavailable_reason": "JAWS does not answer",
            },
        ]
    }


async def test_submission_is_passed_on_whole(services: FakeServices, client: Client) -> None:
    await client.send("POST", "/jobs", "ann", json=JOB_INPUT)
    await client.send("POST", "/jobs", "ann", json=JOB_INPUT, headers={"Idempotency-Key": "k" * 64})
    job = JobInput.model_validate(JOB_INPUT)
    assert services.submission.calls == [("submit", (ANN, job, None)), ("submit", (ANN, job, "k" * 64))]


@pytest.mark.parametrize("key", ["", "k" * 65, "with blank", "\x7f"])
async def test_bad_idempotency_key_is_refused(key: str, services: FakeServices, client: Client) -> None:
    response = await client.send("POST", "/jobs", "ann", json=JOB_INPUT, headers={"Idempotency-Key": key})
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)
    assert services.submission.calls == []


TRANSITIONS = [
    {"state": "created", "time": NOW_TEXT},
    {"state": "download_submitted", "time": "2030-01-02T03:04:06.678000Z"},
]
STORED_INPUT = {
    "cluster": "kbase",
    "image": "ghcr.io/kbase/tool:1",
    "params": {
        "input_mount_point": "/input_files",
        "output_mount_point": "/output_files",
        "declobber": False,
        "args": ["--in", {"type": "input_files", "input_files_format": "comma_separated_list"}],
    },
    "num_containers": 2,
    "cpus": 1,
    "memory": 2_000_000_000,
    "runtime": "PT5M",
    "output_dir": "cts-data/out/",
}
SHOWN_IMAGE = {
    "name": "ghcr.io/kbase/tool",
    "digest": DIGEST,
    "tag": "1",
    "entrypoint": ["tool", "run"],
    "registered_by": "adam",
    "registered_on": NOW_TEXT,
}
PREVIEW = {
    "id": "job1",
    "user": "ann",
    "state": "download_submitted",
    "transition_times": TRANSITIONS,
    "admin_meta": {},
    "job_input": STORED_INPUT,
    "image": SHOWN_IMAGE,
    "input_file_count": 2,
}
SHOWN_FILES = [
    {"file": "cts-data/in/sample-0.fa", "data_id": "id-0", "crc64nvme": CRC},
    {"file": "cts-data/in/sample-1.fa", "data_id": "id-1", "crc64nvme": CRC},
]
RESULTS = {
    "admin_meta": {"ticket": "CTS-1", "tries": 2, "cost": 0.5},
    "logpath": "cts-logs/job1/",
    "cpu_hours": 0.25,
    "cpu_factor": 0.9,
    "max_memory": 123456789,
    "output_file_count": 1,
}


async def test_new_job_in_a_list_has_no_fields_without_value(client: Client) -> None:
    assert (await client.get("/jobs", "ann")).json() == {"jobs": [PREVIEW]}
    assert (await client.get("/admin/jobs", "admin")).json() == {"jobs": [PREVIEW]}


async def test_status_is_all_and_nothing_else(services: FakeServices, client: Client) -> None:
    services.jobs.job = job_record()
    assert (await client.get("/jobs/job1/status", "ann")).json() == {
        "id": "job1",
        "user": "ann",
        "state": "download_submitted",
        "transition_times": TRANSITIONS,
        "admin_meta": {},
    }
    assert services.jobs.calls == [("status", (ANN, "job1"))]


async def test_job_has_its_files_and_results(services: FakeServices, client: Client) -> None:
    shown = (await client.get("/jobs/job1", "ann")).json()
    times = shown.pop("transition_times")
    assert [t["state"] for t in times][-1] == "complete"
    assert all(t.keys() == {"state", "time"} for t in times)
    expected = {
        **PREVIEW,
        **RESULTS,
        "state": "complete",
        "job_input": {**STORED_INPUT, "input_files": SHOWN_FILES},
        "outputs": [{"file": "cts-data/out/o.txt", "crc64nvme": CRC}],
    }
    del expected["transition_times"]
    assert shown == expected
    services.jobs.inputs = input_files(1, data_ids=False)
    without_ids = (await client.get("/jobs/job1", "ann")).json()["job_input"]["input_files"]
    assert without_ids == [{"file": "cts-data/in/sample-0.fa", "crc64nvme": CRC}]


async def test_an_owner_is_told_that_a_job_is_held_up_but_not_by_what(services: FakeServices, client: Client) -> None:
    services.jobs.job = finished_job(state=JobState.JOB_SUBMITTED, waiting="/secret/disk is full")
    shown = (await client.get("/jobs/job1", "ann")).json()
    assert "goes on by itself" in shown["waiting"]
    assert "secret" not in shown["waiting"]
    assert "waiting" not in (await client.get("/jobs/job1/status", "ann")).json()
    services.jobs.job = finished_job(state=JobState.JOB_SUBMITTED, waiting=None)
    assert "waiting" not in (await client.get("/jobs/job1", "ann")).json()


async def test_a_dry_run_shows_what_would_be_started(services: FakeServices, client: Client) -> None:
    params = {
        "args": ["run", {"type": "manifest_file", "manifest_file_format": "files", "flag": "--list="}],
        "environment": {"PART": {"type": "container_number", "container_num_prefix": "p"}},
    }
    body = {**JOB_INPUT, "params": params, "input_files": ["cts-data/in/a.fa", "cts-data/in/b.fa"]}
    told = (await client.send("POST", "/jobs?dry_run=true", "ann", json=body)).json()
    models.DryRun.model_validate(told)
    assert told["dry_run"] is True
    assert (told["input_file_count"], told["input_bytes"], told["containers"]) == (2, 16, 2)
    assert told["cpu_hours"] == JobInput.model_validate(body).cpus * 2 * 300 / 3600
    assert told["job_input"]["params"]["output_mount_point"] == "/output_files"
    assert "input_files" not in told["job_input"]
    assert told["image"]["digest"] == DIGEST
    assert told["example"] == {
        "container_number": 0,
        "args": ["run", "--list=/input_files/.cts/manifest-0.txt"],
        "environment": {"PART": "p0"},
        "input_files": ["sample-0.fa"],
        "manifest": {"path": ".cts/manifest-0.txt", "content": "/input_files/sample-0.fa\n"},
    }
    assert told["warnings"] == ["there is something"]
    assert [name for name, _ in services.submission.calls] == ["dry_run"]


async def test_containers_as_their_owner_sees_them(services: FakeServices, client: Client) -> None:
    progress = Progress("running", 5, 10)
    found = [
        container_record(0, state=JobState.COMPLETE, exit_code=0, usage=Usage(1.5, 2.5, 1000), progress=progress),
        container_record(1, attempt=2, error="it broke", admin_error="on host x", progress=progress),
    ]
    services.jobs.found = found
    at = (NOW + datetime.timedelta(seconds=1)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert (await client.get("/jobs/job1/containers", "ann")).json() == {
        "containers": [
            {
                "container_number": 0,
                "state": "complete",
                "attempt": 1,
                "time": at,
                "exit_code": 0,
                "cpu_seconds": 1.5,
                "wall_seconds": 2.5,
                "max_memory": 1000,
            },
            {
                "container_number": 1,
                "state": "job_submitted",
                "attempt": 2,
                "time": at,
                "error": "it broke",
                "phase": "running",
                "bytes_done": 5,
                "bytes_total": 10,
            },
        ]
    }


async def test_files_with_their_links(services: FakeServices, client: Client) -> None:
    page = {"files": ["b/k"], "crc64nvmes": [CRC], "urls": ["http://s3/b/k?signed"]}
    services.jobs.page = FilesPage(**page, sizes=[8], total=7)
    assert (await client.get("/jobs/job1/files?kind=inputs&offset=5&limit=1", "ann")).json() == {
        "files": [{"file": "b/k", "crc64nvme": CRC, "size": 8, "url": "http://s3/b/k?signed"}],
        "total": 7,
        "next_offset": 6,
    }
    services.jobs.page = FilesPage(**page, sizes=None, total=7)
    told = (await client.get("/jobs/job1/files?offset=6", "ann")).json()
    assert told == {"files": [{"file": "b/k", "crc64nvme": CRC, "url": "http://s3/b/k?signed"}], "total": 7}
    assert [arguments for name, arguments in services.jobs.calls if name == "files"] == [
        (ANN, "job1", "inputs", 5, 1),
        (ANN, "job1", "outputs", 6, 1000),
    ]
    for query in ("kind=logs", "offset=-1", "limit=0", "limit=1001"):
        assert (await client.get(f"/jobs/job1/files?{query}", "ann")).status_code == 400


async def test_exit_codes_keep_their_nulls(client: Client) -> None:
    assert (await client.get("/jobs/job1/exit_codes", "ann")).json() == {"exit_codes": [0, None]}


async def test_images(client: Client) -> None:
    bare = {k: v for k, v in SHOWN_IMAGE.items() if k != "tag"}
    full = {**SHOWN_IMAGE, "urls": ["https://example.org"], "usage_notes": "be kind"}
    assert (await client.get("/images")).json() == {"data": [full, bare]}


async def test_filters(services: FakeServices, client: Client) -> None:
    query = {
        "cluster": "kbase",
        "state": "error",
        "tag": "blue",
        "after": "2030-01-01T00:00:00+02:00",
        "before": "2030-01-02T00:00:00Z",
        "limit": "10",
    }
    expected = JobFilter(
        site="kbase",
        state=JobState.ERROR,
        tag="blue",
        after=datetime.datetime(2029, 12, 31, 22, tzinfo=datetime.UTC),
        before=datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
        limit=10,
    )
    await client.get("/jobs", "ann", params=query)
    assert services.jobs.calls == [("list", (ANN, expected))]
    await client.get("/admin/jobs", "admin", params={**query, "user": "bob"})
    assert services.admin_jobs.calls == [("list", (dataclasses.replace(expected, user="bob"), "admin"))]


@pytest.mark.parametrize(
    "query",
    [
        {"after": "2030-01-01T00:00:00"},
        {"before": "2030-01-01"},
        {"after": "0001-01-01T00:00:00+14:00"},
        {"after": "soon"},
        {"limit": "0"},
        {"limit": "1001"},
        {"state": "done"},
        {"tag": "t" * 51},
    ],
    ids=str,
)
async def test_bad_filters(query: dict[str, str], services: FakeServices, client: Client) -> None:
    response = await client.get("/jobs", "ann", params=query)
    error = response.json()["error"]
    assert (response.status_code, error["appcode"]) == (400, 30010)
    assert next(iter(query)) in error["message"]
    assert services.jobs.calls == []


async def test_pages_follow_one_another(services: FakeServices, client: Client) -> None:
    services.jobs.listed = [job_record("job3"), job_record("job2")]
    first = (await client.get("/jobs?limit=2", "ann")).json()
    assert models.JobList.model_validate(first).next_cursor
    await client.get("/jobs", "ann", params={"limit": 2, "cursor": first["next_cursor"]})
    assert services.jobs.calls[1][1][1].cursor == (NOW + datetime.timedelta(seconds=1), "job2")
    assert "next_cursor" not in (await client.get("/jobs?limit=3", "ann")).json()
    services.jobs.listed = []
    assert (await client.get("/jobs?limit=1", "ann")).json() == {"jobs": []}


@pytest.mark.parametrize(
    "cursor", ["", "x", "====", "MTIz", "_" * 401, "\N{GREEK SMALL LETTER MU}", "OTk5OTk5OTk5OTk5OTk5IGpvYjE"]
)
async def test_cursor_that_is_none(cursor: str, client: Client) -> None:
    response = await client.get("/jobs", "ann", params={"cursor": cursor})
    error = response.json()["error"]
    assert (response.status_code, error["appcode"]) == (400, 30001)
    assert "next_cursor" in error["message"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_log(stream: str, services: FakeServices, client: Client) -> None:
    response = await client.get(f"/jobs/job1/log/1/{stream}", "ann", params={"seek": 7, "length": 100})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["content-disposition"] == f'attachment; filename="job1-1-{stream}.txt"'
    assert response.text == "one\nzwei \N{GREEK SMALL LETTER MU}\n"
    assert services.jobs.calls == [("log", (ANN, "job1", 1, stream, 7, 100))]
    assert services.jobs.log_closed


async def test_log_defaults_to_all_of_it(services: FakeServices, client: Client) -> None:
    await client.get("/jobs/job1/log/1/stdout", "ann")
    assert services.jobs.calls == [("log", (ANN, "job1", 1, "stdout", 0, None))]


async def test_no_log(services: FakeServices, client: Client) -> None:
    services.jobs.raises["log"] = NoLogsError("There is no log")
    response = await client.get("/jobs/job1/log/1/stdout", "ann")
    assert (response.status_code, response.json()["error"]["appcode"]) == (404, 40070)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", ["seek=-1", "length=0", "seek=x", "length=1e400", f"seek={2**70}"])
async def test_bad_byte_range(query: str, client: Client) -> None:
    response = await client.get(f"/jobs/job1/log/0/stdout?{query}", "ann")
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30010)
