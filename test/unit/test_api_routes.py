"""Every route: what it asks of the services, who may call it, and what it answers."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
from pydantic import BaseModel

from cdmtaskservice.api import models, worker_models
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import JobState, RefdataState
from cdmtaskservice.domain.worker_calls import WorkRequest
from test.unit.api_fakes import Client, Fake, FakeServices
from test.unit.api_records import CALLERS, CRC, DIGEST, JOB_INPUT

ANN, ADAM, EXEC, CONTAINER = (CALLERS[t] for t in ("ann", "admin", "executor", "container"))
UPDATE = {"time": "2030-01-02T03:04:05Z"}
CLAIM = {"claim": "0" * 32}
BEAT = {"phase": "running", "bytes_done": 1, "bytes_total": 2}
COMPLETE = {"files": [{"path": "o.txt", "crc64nvme": CRC, "upload_id": "u", "etags": ['"e"']}]}
WORK = "/external_exec/jobs/job1/container/0"
STAGER = "/external_exec/refdata"
STAGERS_CLAIM = {"claim": "c", "root": "/data/ref", "room": 2}
STAGED = {"task": "1-refdata-1", "claim": "c"}

ANYONE = frozenset({None, "ann", "admin", "executor", "refserv", "container"})
USERS = frozenset({"ann", "admin", "executor", "refserv"})
ADMINS = frozenset({"admin"})
WORKERS = frozenset({"executor", "container"})
REFSERV = frozenset({"refserv"})


@dataclasses.dataclass(frozen=True)
class Route:
    """A request that succeeds. called: (service, method, arguments as they start). model: of the body."""

    method: str
    path: str
    who: frozenset[str | None]
    status: int = 200
    body: Any = None
    called: tuple[str, str, tuple[Any, ...]] | None = None
    model: type[BaseModel] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


ROUTES = [
    Route("GET", "/", ANYONE, model=models.Root),
    Route("GET", "/whoami", USERS, model=models.WhoAmI),
    Route("GET", "/sites", ANYONE, called=("sites", "list", ()), model=models.Sites),
    Route("POST", "/jobs", USERS, body=JOB_INPUT, called=("submission", "submit", ()), model=models.JobId),
    Route("GET", "/jobs", USERS, called=("jobs", "list", ()), model=models.JobList),
    Route("GET", "/jobs/job1", USERS, called=("jobs", "get", ()), model=models.Job),
    Route("GET", "/jobs/job1/status", USERS, called=("jobs", "status", ()), model=models.JobStatus),
    Route("GET", "/jobs/job1/exit_codes", USERS, called=("jobs", "exit_codes", ()), model=models.ExitCodes),
    Route(
        "POST", "/jobs?dry_run=true", USERS, body=JOB_INPUT, called=("submission", "dry_run", ()), model=models.DryRun
    ),
    Route("GET", "/jobs/job1/containers", USERS, called=("jobs", "containers", ()), model=models.Containers),
    Route("GET", "/jobs/job1/files", USERS, called=("jobs", "files", ()), model=models.JobFiles),
    Route("GET", "/jobs/job1/log/0/stdout", USERS, called=("jobs", "log", ())),
    Route("GET", "/jobs/job1/log/0/stderr", USERS, called=("jobs", "log", ())),
    Route("GET", "/jobs/job1/log/0/stdout?follow=true", USERS, called=("live_logs", "follow", ())),
    Route("GET", "/jobs/job1/log/0/stderr?follow=true", USERS, called=("live_logs", "follow", ())),
    Route("GET", "/jobs/job1/events", USERS, called=("events", "watch", ())),
    Route("PUT", "/jobs/job1/cancel", USERS, 204, called=("jobs", "cancel", ())),
    *(
        Route("GET", f"/callback/{step}/job1", ANYONE, 204, called=("callbacks", "news_of_job", ("job1",)))
        for step in ("download", "job", "upload", "errlogs")
    ),
    Route(
        "GET",
        "/admin/clients/nersc?require_lifetime=PT1H",
        ADMINS,
        called=("nersc_client", "lifetime", (datetime.timedelta(hours=1),)),
        model=models.NerscClient,
    ),
    Route("GET", "/images", ANYONE, called=("images", "list", ()), model=models.Images),
    Route(
        "GET",
        f"/images/ghcr.io/kbase/tool:1@{DIGEST}",
        ANYONE,
        called=("images", "get", (f"ghcr.io/kbase/tool:1@{DIGEST}",)),
        model=models.Image,
    ),
    Route(
        "POST",
        "/admin/images/ghcr.io/kbase/tool:1",
        ADMINS,
        called=("images", "approve", (ADAM, "ghcr.io/kbase/tool:1", ImageApproval(), None, None)),
        model=models.Image,
    ),
    Route(
        "DELETE",
        "/admin/images/ghcr.io/kbase/tool:1",
        ADMINS,
        204,
        called=("images", "delete", ("ghcr.io/kbase/tool:1",)),
    ),
    Route("GET", "/refdata", ANYONE, called=("refdata", "list", ()), model=models.AllReferenceData),
    Route("GET", "/refdata/id/ref1", ANYONE, called=("refdata", "get", ("ref1",)), model=models.ReferenceData),
    Route(
        "GET",
        "/refdata/path/cts-data/ref/db.tar.gz",
        ANYONE,
        called=("refdata", "list", ("cts-data/ref/db.tar.gz",)),
        model=models.AllReferenceData,
    ),
    Route("GET", "/admin/refdata", ADMINS, called=("refdata", "list", ()), model=models.AllAdminReferenceData),
    Route("GET", "/admin/refdata/ref1", ADMINS, called=("refdata", "get", ("ref1",)), model=models.AdminReferenceData),
    Route(
        "POST",
        "/admin/refdata/cts-data/ref/db.tar.gz",
        ADMINS,
        called=("refdata", "register", (ADAM, "cts-data/ref/db.tar.gz", None, False)),
        model=models.ReferenceData,
    ),
    *(
        Route(method, f"/admin/refdata/ref1/kbase/{verb}{query}", ADMINS, 204, called=("refdata", verb, given))
        for method, verb in (("PUT", "recover"), ("DELETE", "clean"))
        for query, given in (
            ("", (ADAM, "ref1", "kbase", False)),
            ("?force=true", (ADAM, "ref1", "kbase", True)),
        )
    ),
    Route("DELETE", "/admin/refdata/ref1", ADMINS, 204, called=("refdata", "retire", (ADAM, "ref1"))),
    Route(
        "POST",
        f"{STAGER}/kbase/work",
        REFSERV,
        200,
        STAGERS_CLAIM,
        ("refdata_desk", "work", ("kbase", RefdataWorkRequest.model_validate(STAGERS_CLAIM))),
        worker_models.RefdataWork,
    ),
    Route(
        "POST",
        f"{STAGER}/ref1/kbase/progress",
        REFSERV,
        200,
        STAGED,
        ("refdata_desk", "progress", ("ref1", "kbase", RefdataProgress.model_validate(STAGED))),
        worker_models.RefdataProgressAnswer,
    ),
    Route(
        "PUT",
        f"{STAGER}/ref1/kbase/update/complete",
        REFSERV,
        204,
        STAGED,
        (
            "refdata_desk",
            "update",
            ("ref1", "kbase", RefdataState.COMPLETE, RefdataUpdate.model_validate(STAGED)),
        ),
    ),
    Route(
        "GET",
        "/callback/refdata_download/ref1/kbase",
        ANYONE,
        204,
        called=("callbacks", "news_of_refdata", ("ref1", "kbase")),
    ),
    Route("GET", "/admin/jobs", ADMINS, called=("admin_jobs", "list", (JobFilter(), "admin")), model=models.JobList),
    Route(
        "GET",
        "/admin/jobs/job1",
        frozenset({"admin", "executor"}),
        called=("admin_jobs", "get", ("job1",)),
        model=models.AdminJobDetails,
    ),
    Route(
        "GET",
        "/admin/jobs/job1/exit_codes",
        ADMINS,
        called=("admin_jobs", "exit_codes", ("job1",)),
        model=models.ExitCodes,
    ),
    Route("PUT", "/admin/jobs/job1/cancel", ADMINS, 204, called=("admin_jobs", "cancel", ("job1",))),
    Route(
        "GET",
        "/admin/jobs/job1/container",
        ADMINS,
        called=("admin_jobs", "containers", ("job1",)),
        model=models.SubJobs,
    ),
    Route(
        "GET",
        "/admin/jobs/job1/container/3",
        ADMINS,
        called=("admin_jobs", "container", ("job1", 3)),
        model=models.SubJob,
    ),
    Route(
        "GET",
        "/admin/jobs/job1/runner_status?container_number=3",
        ADMINS,
        called=("admin_jobs", "runner_status", ("job1", 3)),
    ),
    Route(
        "PUT",
        "/admin/jobs/job1/meta",
        ADMINS,
        204,
        {"set_fields": {"a": "b", "n": 1, "f": 1.5}, "unset_keys": ["c"]},
        ("admin_jobs", "set_meta", ("job1", {"a": "b", "n": 1, "f": 1.5}, ["c"])),
    ),
    Route(
        "PUT",
        "/admin/jobs/job1/notify?state=complete",
        ADMINS,
        204,
        called=("admin_jobs", "notify", ("job1", JobState.COMPLETE)),
    ),
    Route("DELETE", "/admin/jobs/job1/clean", ADMINS, 204, called=("admin_jobs", "clean", ("job1", False))),
    Route("DELETE", "/admin/jobs/job1/clean?force=true", ADMINS, 204, called=("admin_jobs", "clean", ("job1", True))),
    Route(
        "POST",
        "/admin/unsent_notifications",
        ADMINS,
        called=("admin_jobs", "unsent", (datetime.timedelta(minutes=10),)),
        model=models.Unsent,
    ),
    Route("PUT", "/admin/sites/kbase/active", ADMINS, 204, called=("sites", "set_active", ("kbase", True))),
    Route("DELETE", "/admin/sites/kbase/active", ADMINS, 204, called=("sites", "set_active", ("kbase", False))),
    Route("PUT", f"{WORK}/update/complete", WORKERS, 204, UPDATE, ("workers", "update", ())),
    Route(
        "POST",
        f"{WORK}/work",
        frozenset({"executor"}),
        200,
        CLAIM,
        ("workers", "work", ("job1", 0, WorkRequest(claim="0" * 32))),
        worker_models.WorkOrder,
    ),
    Route("POST", f"{WORK}/heartbeat", WORKERS, 200, BEAT, ("workers", "heartbeat", ()), worker_models.HeartbeatAnswer),
    Route("POST", f"{WORK}/uploads", WORKERS, 200, {}, ("workers", "uploads", ()), worker_models.Uploads),
    Route("POST", f"{WORK}/uploads/complete", WORKERS, 204, COMPLETE, ("workers", "complete_uploads", ())),
    Route(
        "POST",
        f"{WORK}/inputs",
        WORKERS,
        200,
        {"files": ["cts-data/a.fa"]},
        ("workers", "inputs", ()),
        worker_models.FreshInputs,
    ),
    Route("GET", "/external_exec/files/condor/executable.sh", ANYONE),
    Route("GET", "/external_exec/files/code_archive.tgz", ANYONE),
    Route("GET", "/health/live", ANYONE, called=None, model=models.Alive),
    Route("GET", "/health/ready", ANYONE, called=("health", "ready", ()), model=models.Readiness),
    Route("GET", "/metrics", ANYONE, called=("health", "gauges", ())),
]


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


def _fake(services: FakeServices, name: str) -> Fake:
    fake = getattr(services, name)
    assert isinstance(fake, Fake)
    return fake


@pytest.mark.parametrize("route", ROUTES, ids=str)
async def test_route_serves_those_who_may(route: Route, services: FakeServices, client: Client) -> None:
    for token in (None, *CALLERS):
        response = await client.send(route.method, route.path, token, json=route.body)
        if token in route.who:
            assert response.status_code == route.status, response.text
            if route.status == 204:
                assert response.content == b""
                assert "content-type" not in response.headers
            if route.model is not None:
                assert response.headers["content-type"] == "application/json"
                route.model.model_validate_json(response.content)
                assert b"null" not in response.content.replace(b"[0,null]", b"") or route.path.startswith(
                    "/external_exec"
                )
        elif token is None:
            assert (response.status_code, response.json()["error"]["appcode"]) == (401, 10010)
            assert response.headers["www-authenticate"] == "Bearer"
        else:
            assert (response.status_code, response.json()["error"]["appcode"]) == (403, 20000)
    if route.called is not None:
        service, method, arguments = route.called
        calls = _fake(services, service).calls
        assert [name for name, _ in calls] == [method] * len(route.who)
        assert all(given[: len(arguments)] == arguments for _, given in calls)


@pytest.mark.parametrize("route", ROUTES, ids=str)
async def test_bad_token_is_refused_everywhere(route: Route, client: Client) -> None:
    response = await client.send(route.method, route.path, "nobody", json=route.body)
    assert (response.status_code, response.json()["error"]["appcode"]) == (401, 10020)


def test_every_documented_operation_is_tried(services: FakeServices) -> None:
    document = services.app().openapi()
    documented = sum(len(methods) for methods in document["paths"].values())
    twice = 6  # cleaning of both kinds and recovery by force too, submission without storing, logs that are followed
    assert len(ROUTES) == documented + twice
