"""What the client asks the service for, and what it makes of the answers: both clients, the same."""

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import (
    ChecksumMismatch,
    Conflict,
    CTSError,
    InputFile,
    InvalidState,
    JobInput,
    NoSuchImage,
    NotFound,
    Parameter,
    Parameters,
    UnexpectedReply,
)
from cdmtaskservice.client.requests import path_of
from cdmtaskservice.domain.jobs import JobInput as ServiceJobInput
from test.stand_ins.client_desk import JOB, TIME, URL, Desk, Facade, body, client_of, job, refusal, reply, status

OPENAPI = json.loads((Path(__file__).parents[1] / "openapi.json").read_text(encoding="utf-8"))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def accepted() -> dict[str, Any]:
    return {k: v for k, v in job()["job_input"].items() if k != "input_files"}


IMAGE = {**job()["image"], "urls": ["https://tool.test"], "usage_notes": "use it"}
REFDATA = {
    "id": "r1",
    "file": "bucket/ref/db.tgz",
    "crc64nvme": "AAAAAAAAAAA=",
    "unpack": True,
    "registered_by": "admin",
    "registered_on": TIME,
    "statuses": [{"cluster": "local", "state": "complete", "transition_times": [{"state": "created", "time": TIME}]}],
}
DRY = {
    "dry_run": True,
    "job_input": accepted(),
    "image": job()["image"],
    "input_file_count": 2,
    "input_bytes": 12,
    "cpu_hours": 0.5,
    "containers": 1,
    "example": {
        "container_number": 0,
        "args": ["-i", "/in/a"],
        "environment": {"A": "b"},
        "input_files": ["a"],
        "manifest": {"path": ".cts/manifest-0.txt", "content": "a\n"},
    },
    "warnings": ["output_dir: it holds files already"],
}

CALLS: dict[str, tuple[str, Any, Any]] = {
    # method: (request, answer, the call)
    "service": ("GET /", {"service_name": "CDM Task Service"}, lambda c: c.service()),
    "whoami": ("GET /whoami", {"user": "ann", "allowed_paths": []}, lambda c: c.whoami()),
    "submit": ("POST /jobs", {"job_id": JOB}, lambda c: c.submit({})),
    "check": ("POST /jobs", DRY, lambda c: c.check({})),
    "status": ("GET /jobs/job-1/status", status(), lambda c: c.status(JOB)),
    "job": ("GET /jobs/job-1", job(), lambda c: c.job(JOB)),
    "jobs": ("GET /jobs", {"jobs": [job()]}, lambda c: list(c.jobs())),
    "containers": (
        "GET /jobs/job-1/containers",
        {"containers": [{"container_number": 0, "state": "created"}]},
        lambda c: c.containers(JOB),
    ),
    "exit_codes": ("GET /jobs/job-1/exit_codes", {"exit_codes": [0, None]}, lambda c: c.exit_codes(JOB)),
    "cancel": ("PUT /jobs/job-1/cancel", None, lambda c: c.cancel(JOB)),
    "images": ("GET /images", {"data": [IMAGE]}, lambda c: c.images()),
    "image": ("GET /images/registry.test/tool:1", IMAGE, lambda c: c.image("registry.test/tool:1")),
    "refdata": ("GET /refdata", {"data": [REFDATA]}, lambda c: c.refdata()),
    "refdata_by_id": ("GET /refdata/id/r1", REFDATA, lambda c: c.refdata_by_id("r1")),
    "refdata_by_path": (
        "GET /refdata/path/bucket/ref/db.tgz",
        {"data": [REFDATA]},
        lambda c: c.refdata_by_path("bucket/ref/db.tgz"),
    ),
    "sites": (
        "GET /sites",
        {
            "sites": [
                {
                    "cluster": "local",
                    "nodes": 1,
                    "cpus_per_node": 8,
                    "memory_per_node_gb": 16,
                    "max_runtime_min": 60,
                    "notes": [],
                    "active": True,
                    "available": True,
                }
            ]
        },
        lambda c: c.sites(),
    ),
    "outputs": (
        "GET /jobs/job-1/files",
        {"files": [{"file": "b/o", "crc64nvme": "x", "url": "http://s"}], "total": 1},
        lambda c: list(c.outputs(JOB)),
    ),
    "inputs": (
        "GET /jobs/job-1/files",
        {"files": [{"file": "b/i", "crc64nvme": "x", "url": "http://s", "size": 3}], "total": 1},
        lambda c: list(c.inputs(JOB)),
    ),
}
ADMIN_JOB = job(
    transition_times=[{"state": "created", "time": TIME, "trans_id": "t", "notif_sent": True}],
    cleaned=False,
    htcondor_details={"cluster_id": [7]},
)
SUB_JOB = {"id": JOB, "sub_id": 0, "state": "complete", "transition_times": [], "outputs": []}
ADMIN_REFDATA = {**REFDATA, "size": 3}
ADMIN_CALLS: dict[str, tuple[str, Any, Any]] = {
    "jobs": ("GET /admin/jobs", {"jobs": [job()]}, lambda a: list(a.jobs(user="ann", waiting=True))),
    "job": ("GET /admin/jobs/job-1", ADMIN_JOB, lambda a: a.job(JOB)),
    "cancel": ("PUT /admin/jobs/job-1/cancel", None, lambda a: a.cancel(JOB)),
    "containers": ("GET /admin/jobs/job-1/container", {"subjobs": [SUB_JOB]}, lambda a: a.containers(JOB)),
    "container": ("GET /admin/jobs/job-1/container/3", SUB_JOB, lambda a: a.container(JOB, 3)),
    "exit_codes": ("GET /admin/jobs/job-1/exit_codes", {"exit_codes": [1]}, lambda a: a.exit_codes(JOB)),
    "runner_status": ("GET /admin/jobs/job-1/runner_status", {"JobStatus": 2}, lambda a: a.runner_status(JOB, 1)),
    "set_meta": ("PUT /admin/jobs/job-1/meta", None, lambda a: a.set_meta(JOB, {"k": 1}, ["l"])),
    "notify": ("PUT /admin/jobs/job-1/notify", None, lambda a: a.notify(JOB, "created")),
    "clean": ("DELETE /admin/jobs/job-1/clean", None, lambda a: a.clean(JOB, force=True)),
    "unsent_notifications": (
        "POST /admin/unsent_notifications",
        {"jobs": 1, "transitions": 2},
        lambda a: a.unsent_notifications(datetime.timedelta(minutes=5)),
    ),
    "approve_image": (
        "POST /admin/images/registry.test/tool:1",
        IMAGE,
        lambda a: a.approve_image("registry.test/tool:1", urls=["u"], refdata_id="r1"),
    ),
    "delete_image": (
        "DELETE /admin/images/registry.test/tool:1",
        None,
        lambda a: a.delete_image("registry.test/tool:1"),
    ),
    "refdata": ("GET /admin/refdata", {"data": [ADMIN_REFDATA]}, lambda a: a.refdata()),
    "refdata_one": ("GET /admin/refdata/r1", ADMIN_REFDATA, lambda a: a.refdata_one("r1")),
    "register_refdata": (
        "POST /admin/refdata/bucket/ref/db.tgz",
        REFDATA,
        lambda a: a.register_refdata("bucket/ref/db.tgz", crc64nvme="AAAAAAAAAAA=", unpack=True),
    ),
    "recover_refdata": ("PUT /admin/refdata/r1/local/recover", None, lambda a: a.recover_refdata("r1", "local")),
    "clean_refdata": ("DELETE /admin/refdata/r1/local/clean", None, lambda a: a.clean_refdata("r1", "local")),
    "retire_refdata": ("DELETE /admin/refdata/r1", None, lambda a: a.retire_refdata("r1")),
    "open_site": ("PUT /admin/sites/local/active", None, lambda a: a.open_site("local")),
    "close_site": ("DELETE /admin/sites/local/active", None, lambda a: a.close_site("local")),
    "nersc_client": (
        "GET /admin/clients/nersc",
        {"id": "c", "expires_at": TIME, "expires_in": "P1DT3H"},
        lambda a: a.nersc_client(datetime.timedelta(days=1)),
    ),
}
QUERIES = {
    "check": "dry_run=true",
    "jobs": "limit=1000",
    "outputs": "kind=outputs&offset=0&limit=1000",
    "inputs": "kind=inputs&offset=0&limit=1000",
    "admin jobs": "user=ann&waiting=true&limit=1000",
    "admin runner_status": "container_number=1",
    "admin notify": "state=created",
    "admin clean": "force=true",
    "admin unsent_notifications": "notification_age=PT300S",
    "admin approve_image": "refdata_id=r1",
    "admin register_refdata": "crc64nvme=AAAAAAAAAAA%3D&unpack=true",
    "admin recover_refdata": "force=false",
    "admin clean_refdata": "force=false",
    "admin nersc_client": "require_lifetime=P1DT0S",
}
BODIES = {
    "submit": {},
    "check": {},
    "admin set_meta": {"set_fields": {"k": 1}, "unset_keys": ["l"]},
    "admin approve_image": {"urls": ["u"]},
}
ALL = {**CALLS, **{f"admin {name}": call for name, call in ADMIN_CALLS.items()}}
BY_OTHER_TESTS = {"log", "events", "wait", "follow_log", "download", "close", "url", "admin"}


@pytest.mark.parametrize("name", ALL)
def test_each_call_asks_for_what_it_should(cts: Facade, desk: Desk, name: str):
    what, answer, call = ALL[name]
    desk.on(what, reply(answer))
    result = call(cts.admin if name.startswith("admin ") else cts)
    [asked] = desk.asked
    assert asked.url.query.decode() == QUERIES.get(name, "")
    assert asked.headers["authorization"] == "Bearer t0ken-of-ann"
    assert asked.headers["user-agent"].startswith("cdmtaskservice-client/")
    assert (body(asked) if asked.content else None) == BODIES.get(name)
    assert (result is None) == (answer is None)


def test_all_calls_are_tested(cts: Facade):
    public = {n for n in dir(type(cts._client)) if not n.startswith("_")} | {"admin"}
    assert public == set(CALLS) | BY_OTHER_TESTS
    assert {n for n in dir(type(cts._client.admin)) if not n.startswith("_")} == set(ADMIN_CALLS)


@pytest.mark.parametrize("name", ALL)
def test_the_service_has_what_is_asked_for(name: str):
    method, path = ALL[name][0].split(" ")
    slashes = {"{image}", "{s3path}"}
    there = {
        re.sub(r"\{\w+\}", lambda m: ".+" if m[0] in slashes else "[^/]+", pattern): {m.upper() for m in methods}
        for pattern, methods in OPENAPI["paths"].items()
    }
    assert [p for p, methods in there.items() if re.fullmatch(p, path) and method in methods], path


def test_results_are_the_models(cts: Facade, desk: Desk):
    desk.on("GET /jobs/job-1", reply(job(cpu_hours=1, later_field={"a": 1})))
    found = cts.job(JOB)
    assert found.job_input.runtime == datetime.timedelta(minutes=1)
    assert found.transition_times[0].time == datetime.datetime(2030, 1, 1, 12, 0, 0, 123000, tzinfo=datetime.UTC)
    assert found.cpu_hours == 1.0
    assert found.raw["later_field"] == {"a": 1}
    assert found.is_over


def test_a_job_as_a_dataclass_is_what_the_service_reads(cts: Facade, desk: Desk):
    desk.on("POST /jobs", reply({"job_id": JOB}))
    asked = JobInput(
        cluster="local",
        image="registry.test/tool:1",
        params=Parameters(
            args=("run", Parameter.input_files("repeat_parameter", flag="-i"), Parameter.container_number(prefix="c")),
            environment={"N": Parameter.container_number(suffix="x"), "P": "q"},
            declobber=True,
        ),
        input_files=[InputFile(file="bucket/a", data_id="A"), {"file": "bucket/b", "data_id": "B"}],
        output_dir="bucket/out",
        num_containers=2,
        memory="2GB",
        runtime=datetime.timedelta(days=1, minutes=5, milliseconds=500),
        input_roots=["bucket"],
        name="a name",
        tags=["t"],
    )
    assert cts.submit(asked) == JOB
    read = ServiceJobInput.model_validate(body(desk.asked[0]))
    assert read.runtime == asked.runtime
    assert read.memory == 2 * 10**9
    assert [f.data_id for f in read.input_files] == ["A", "B"]
    assert read.params.args is not None
    assert read.params.args[1].flag == "-i"
    assert read.tags == ("t",)
    assert "gpus" not in body(desk.asked[0])


def test_a_manifest_is_what_the_service_reads():
    asked = JobInput(
        cluster="c",
        image="i",
        params=Parameters(args=(Parameter.manifest("data_ids", header="h", flag="-m"),)),
        input_files=[InputFile(file="bucket/a", data_id="A")],
        output_dir="bucket/o",
    )
    read = ServiceJobInput.model_validate(asked.to_json())
    assert read.params.file_parameter is not None
    assert read.params.file_parameter.manifest_file_header == "h"


def test_a_job_can_be_submitted_again(cts: Facade, desk: Desk):
    desk.on("GET /jobs/job-1", reply(job()))
    desk.on("POST /jobs", reply({"job_id": "job-2"}))
    assert cts.submit(cts.job(JOB).job_input) == "job-2"
    assert body(desk.asked[1]) == job()["job_input"]


def test_lists_are_followed_page_by_page(cts: Facade, desk: Desk):
    pages = [[job(name=f"{p}{i}") for i in range(2)] for p in range(3)]
    desk.on(
        "GET /jobs",
        reply({"jobs": pages[0], "next_cursor": "c 1"}),
        reply({"jobs": pages[1], "next_cursor": "c2"}),
        reply({"jobs": pages[2]}),
    )
    when = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    found = cts.jobs(cluster="local", state="error", tag="a b", q="x&y", after=when, before="2031-01-01T00:00:00Z")
    assert [j.raw["name"] for j in found] == ["00", "01", "10", "11", "20", "21"]
    queries = [dict(r.url.params) for r in desk.asked]
    same = {"cluster": "local", "state": "error", "tag": "a b", "q": "x&y", "limit": "1000"}
    same |= {"after": "2029-12-31T23:00:00Z", "before": "2031-01-01T00:00:00Z"}
    assert queries == [same, {**same, "cursor": "c 1"}, {**same, "cursor": "c2"}]


def test_a_limit_bounds_all_pages_together(cts: Facade, desk: Desk):
    thousand = [job()] * 1000
    desk.on(
        "GET /jobs", reply({"jobs": thousand, "next_cursor": "1"}), reply({"jobs": [job()] * 5, "next_cursor": "2"})
    )
    assert len(list(cts.jobs(limit=1005))) == 1005
    assert [r.url.params["limit"] for r in desk.asked] == ["1000", "5"]
    assert list(cts.jobs(limit=0)) == []


def test_pages_are_fetched_as_they_are_needed(cts: Facade, desk: Desk):
    desk.on("GET /jobs", reply({"jobs": [job()], "next_cursor": "1"}))
    found = cts.jobs()
    assert not desk.asked
    assert next(found).id == JOB
    found.close()
    assert len(desk.asked) == 1


def test_a_cursor_that_does_not_move_ends_the_list(cts: Facade, desk: Desk):
    desk.always("GET /jobs", reply({"jobs": [], "next_cursor": "same"}))
    assert list(cts.jobs()) == []
    assert len(desk.asked) == 2


def test_files_are_followed_page_by_page(cts: Facade, desk: Desk):
    file = {"file": "bucket/o", "crc64nvme": "x", "url": "http://s"}
    desk.on(
        "GET /jobs/job-1/files",
        reply({"files": [file, file], "total": 3, "next_offset": 2}),
        reply({"files": [file], "total": 3}),
    )
    assert len(list(cts.outputs(JOB))) == 3
    assert [r.url.params["offset"] for r in desk.asked] == ["0", "2"]


def test_times_without_a_zone_are_refused(cts: Facade):
    with pytest.raises(ValueError, match="no timezone"):
        list(cts.jobs(after=datetime.datetime(2030, 1, 1)))


def test_parts_of_logs(cts: Facade, desk: Desk):
    desk.on("GET /jobs/job-1/log/2/stderr", httpx.Response(200, content=b"\xff\n"))
    assert cts.log(JOB, 2, "stderr", seek=5, length=2) == b"\xff\n"
    assert desk.asked[0].url.query == b"seek=5&length=2"
    assert cts.log(JOB, length=0) == b""
    with pytest.raises(CTSError, match="stdout"):
        cts.log(JOB, 0, "stdin")


def test_a_service_without_dry_runs_is_told_to_cancel(cts: Facade, desk: Desk):
    desk.on("POST /jobs", reply({"job_id": JOB}))
    desk.on("PUT /jobs/job-1/cancel", reply())
    with pytest.raises(UnexpectedReply, match=r"too old.*job-1"):
        cts.check({})
    assert desk.left == []


def test_a_cancellation_whose_reply_was_lost(cts: Facade, desk: Desk):
    desk.on("PUT /jobs/job-1/cancel", httpx.ReadTimeout("t"), refusal(400, 30300))
    desk.on("GET /jobs/job-1/status", reply(status("canceled")))
    cts.cancel(JOB)
    desk.on("PUT /jobs/job-1/cancel", httpx.ReadTimeout("t"), refusal(400, 30300))
    desk.on("GET /jobs/job-1/status", reply(status("complete")))
    with pytest.raises(InvalidState):
        cts.cancel(JOB)
    desk.on("PUT /jobs/job-1/cancel", refusal(400, 30300))
    with pytest.raises(InvalidState):
        cts.cancel(JOB)
    assert desk.left == []


def test_a_removal_whose_reply_was_lost(cts: Facade, desk: Desk):
    desk.on("DELETE /admin/images/i", httpx.ReadError("t"), refusal(404, 40030))
    cts.admin.delete_image("i")
    desk.on("DELETE /admin/images/i", refusal(404, 40030))
    with pytest.raises(NoSuchImage):
        cts.admin.delete_image("i")


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("images", "ghcr.io/a/b:1@sha256:0f"), "/images/ghcr.io/a/b:1@sha256:0f"),
        (("refdata", "path", "bucket/a b?c#d%e'ü"), "/refdata/path/bucket/a%20b%3Fc%23d%25e%27%C3%BC"),
        (("jobs", "j", "log", 0, "stdout"), "/jobs/j/log/0/stdout"),
    ],
)
def test_names_stay_in_their_place(parts: tuple[str, ...], path: str):
    assert path_of(*parts) == path


@pytest.mark.parametrize(
    "call", [lambda c: c.job(""), lambda c: c.job(".."), lambda c: c.job("a/b"), lambda c: c.job("/")]
)
def test_what_would_be_another_url_is_refused(cts: Facade, call: Any):
    with pytest.raises(ValueError, match=r"part of a URL|slash"):
        call(cts)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>log in</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"id": JOB}),
        httpx.Response(200, json={**status(), "transition_times": [{"state": "created", "time": "noon"}]}),
        httpx.Response(302, headers={"location": "https://elsewhere.test/"}),
    ],
)
def test_what_is_no_service(cts: Facade, desk: Desk, answer: httpx.Response):
    desk.on("GET /jobs/job-1/status", answer)
    with pytest.raises(UnexpectedReply):
        cts.status(JOB)
    assert len(desk.asked) == 1


def test_clients_can_be_used_by_with(cts: Facade, desk: Desk):
    assert repr(cts._client).endswith(f"({URL!r})")
    assert cts.url == URL
    cts.close()
    assert cts._client._driver._service.is_closed
    assert cts._client._driver._store.is_closed


def test_classes_of_errors_of_files_are_also_the_usual_ones():
    assert issubclass(ChecksumMismatch, CTSError)
    assert issubclass(NoSuchImage, NotFound)
    assert not issubclass(Conflict, NotFound)
