"""Services without anything behind them, and a client of an application made of them."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

import httpx
from fastapi import FastAPI

from cdmtaskservice.api.metrics import PrometheusMetrics
from cdmtaskservice.app import create_app
from cdmtaskservice.auth.container_token import ContainerClaim
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.auth.session_seal import SessionSeal
from cdmtaskservice.domain.errors import InvalidTokenError
from cdmtaskservice.domain.records import ContainerRecord, ImageRecord, InputFiles, JobRecord, OutputFiles
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.registry.crane import ImageFacts
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.events import JobNews
from cdmtaskservice.services.health import DependencyState, ServiceInfo
from cdmtaskservice.services.jobs import FilesPage
from cdmtaskservice.services.live_logs import FollowedLog
from cdmtaskservice.services.nersc_client import ClientLifetime
from cdmtaskservice.services.numbers import Gauges, LookLag
from cdmtaskservice.services.refdata import RefdataView
from cdmtaskservice.services.sessions import Sessions
from cdmtaskservice.services.sites import SiteView
from cdmtaskservice.services.submission import Checked
from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.sites.base import SiteHealth, SiteInfo
from test.unit.api_records import (
    BARE_IMAGE,
    CALLERS,
    CRC,
    IMAGE,
    NOW,
    REFDATA,
    STAGING,
    STATES,
    UPLOADS,
    WORK_ORDER,
    container_record,
    finished_job,
    input_files,
    job_record,
)

SEAL = SessionSeal(b"s" * 32)


class Fake:
    """Counts what it is asked and raises what it was told to.

    calls: (method, arguments) in order. raises: by method, the exception.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.raises: dict[str, Exception] = {}

    def note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))
        if name in self.raises:
            raise self.raises[name]


class FakeAuthentication(Fake):
    async def principal(self, token: str) -> Principal | ContainerClaim:
        self.note("principal", token)
        if token not in CALLERS:
            raise InvalidTokenError("Nobody has this token")
        return CALLERS[token]

    def is_admin(self, principal: Principal) -> bool:
        return "admin" in principal.roles

    def is_executor(self, principal: Principal) -> bool:
        return "executor" in principal.roles

    def is_refserv(self, principal: Principal) -> bool:
        return "refserv" in principal.roles

    def allowed_paths(self, principal: Principal) -> Sequence[str]:
        return ["cts-data/", f"home/{principal.user}/"]


class FakeSubmission(Fake):
    async def submit(self, *arguments: Any) -> str:
        self.note("submit", *arguments)
        return "job1"

    async def dry_run(self, *arguments: Any) -> Checked:
        self.note("dry_run", *arguments)
        objects = [S3Object(file, 8, CRC, "e") for file in input_files().files]
        site = SiteInfo("kbase", "htcondor", 2, 64, 256_900_000_000, 86_459.0)
        return Checked(site, IMAGE, ["sample-0.fa", "sample-1.fa"], objects, ["there is something"])


class FakeJobs(Fake):
    """Also the administrators' jobs: they differ in who is named."""

    def __init__(self) -> None:
        super().__init__()
        self.job = finished_job()
        self.listed: Sequence[JobRecord] = [job_record()]
        self.inputs = input_files()
        self.outputs = OutputFiles(["cts-data/out/o.txt"], [CRC])
        self.log_chunks: list[bytes | Exception] = [b"one\n", "zwei \N{GREEK SMALL LETTER MU}\n".encode()]
        self.log_closed = False
        self.found = [container_record(0, exit_code=0, outputs=self.outputs), container_record(1)]
        self.page = FilesPage(["cts-data/out/o.txt"], [CRC], ["http://s3/cts-data/out/o.txt?signed"], None, 1)

    async def status(self, *arguments: Any) -> JobRecord:
        self.note("status", *arguments)
        return self.job

    async def get(self, *arguments: Any) -> tuple[JobRecord, InputFiles, OutputFiles]:
        self.note("get", *arguments)
        return self.job, self.inputs, self.outputs

    async def list(self, *arguments: Any) -> Sequence[JobRecord]:
        self.note("list", *arguments)
        return self.listed

    async def exit_codes(self, *arguments: Any) -> Sequence[int | None]:
        self.note("exit_codes", *arguments)
        return [0, None]

    async def containers(self, *arguments: Any) -> Sequence[ContainerRecord]:
        self.note("containers", *arguments)
        return self.found

    async def files(self, *arguments: Any) -> FilesPage:
        self.note("files", *arguments)
        return self.page

    async def container(self, *arguments: Any) -> ContainerRecord:
        self.note("container", *arguments)
        return self.found[0]

    async def link(self, *arguments: Any) -> str | None:
        self.note("link", *arguments)
        return self.page.urls[0] if self.page.urls else None

    async def log_size(self, *arguments: Any) -> int:
        self.note("log_size", *arguments)
        return 3_000_000

    async def log(self, *arguments: Any) -> AsyncIterator[bytes]:
        self.note("log", *arguments)
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self.log_chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.log_closed = True

    async def cancel(self, *arguments: Any) -> None:
        self.note("cancel", *arguments)


class FakeEvents(Fake):
    def __init__(self) -> None:
        super().__init__()
        running = job_record(states=STATES[:4])
        self.news: Sequence[JobNews | None] = [
            JobNews(job_record(states=STATES[:2]), {JobState.CREATED: 2}),
            None,
            JobNews(dataclasses.replace(running, waiting="db on host x is away"), {JobState.JOB_SUBMITTED: 2}),
            JobNews(running, {JobState.JOB_SUBMITTED: 2}),
            JobNews(running, {JobState.JOB_SUBMITTED: 2}),
            JobNews(finished_job(waiting=None), {JobState.COMPLETE: 2}),
        ]

    async def watch(self, *arguments: Any, any_job: bool = False) -> AsyncGenerator[JobNews | None, None]:
        self.note("watch", *arguments, *([any_job] if any_job else []))
        return self._news()

    async def _news(self) -> AsyncGenerator[JobNews | None, None]:
        for news in self.news:
            yield news


class FakeLiveLogs(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[bytes | Exception] = [b"live\n", b"log\n"]

    async def follow(self, *arguments: Any, any_job: bool = False) -> FollowedLog:
        self.note("follow", *arguments, *([any_job] if any_job else []))
        return FollowedLog(2, 7, self._chunks())

    async def _chunks(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class FakeAdminJobs(FakeJobs):
    async def container(self, *arguments: Any) -> ContainerRecord:
        self.note("container", *arguments)
        return container_record(0, admin_error="disk full", traceback="Traceback …")

    async def runner_status(self, *arguments: Any) -> Mapping[str, object]:
        self.note("runner_status", *arguments)
        return {"JobStatus": 2, "Args": None, "Rank": float("nan"), "Requirements": object}

    async def set_meta(self, *arguments: Any) -> None:
        self.note("set_meta", *arguments)

    async def notify(self, *arguments: Any) -> None:
        self.note("notify", *arguments)

    async def clean(self, *arguments: Any) -> None:
        self.note("clean", *arguments)

    async def unsent(self, *arguments: Any) -> tuple[int, int]:
        self.note("unsent", *arguments)
        return 2, 5


class FakeImages(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.image = IMAGE

    async def get(self, *arguments: Any) -> ImageRecord:
        self.note("get", *arguments)
        return self.image

    async def list(self) -> Sequence[ImageRecord]:
        self.note("list")
        return [self.image, BARE_IMAGE]

    async def inspect(self, *arguments: Any) -> ImageFacts:
        self.note("inspect", *arguments)
        return ImageFacts(IMAGE.name, IMAGE.digest, IMAGE.tag, tuple(IMAGE.entrypoint))

    async def approve(self, *arguments: Any) -> ImageRecord:
        self.note("approve", *arguments)
        return IMAGE

    async def delete(self, *arguments: Any) -> None:
        self.note("delete", *arguments)


class FakeRefdata(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.view = RefdataView(REFDATA, [STAGING])

    async def get(self, *arguments: Any) -> RefdataView:
        self.note("get", *arguments)
        return self.view

    async def list(self, *arguments: Any) -> Sequence[RefdataView]:
        self.note("list", *arguments)
        return [self.view, RefdataView(dataclasses.replace(REFDATA, id="ref2"))]

    async def register(self, *arguments: Any, unpack: bool) -> RefdataView:
        self.note("register", *arguments, unpack)
        return self.view

    async def recover(self, *arguments: Any, force: bool) -> None:
        self.note("recover", *arguments, force)

    async def clean(self, *arguments: Any, force: bool) -> None:
        self.note("clean", *arguments, force)

    async def retire(self, *arguments: Any) -> None:
        self.note("retire", *arguments)


class FakeRefdataDesk(Fake):
    async def work(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("work", *arguments)
        order = {"refdata_id": "ref1", "task": "1-refdata-1", "kind": "refdata", "plan": {"root": "/r", "unpack": None}}
        return {"work": [order], "report_interval": 5.0}

    async def progress(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("progress", *arguments)
        return {"stop": False}

    async def update(self, *arguments: Any) -> None:
        self.note("update", *arguments)


class FakeSites(Fake):
    async def list(self) -> Sequence[SiteView]:
        self.note("list")
        kbase = SiteInfo("kbase", "htcondor", 2, 64, 256_900_000_000, 86_459.0, notes=("first come",))
        jaws = SiteInfo("perlmutter-jaws", "jaws", 3072, 256, 492 * 10**9, 172_800.0, gpus_per_node=4)
        return [
            SiteView(kbase, True, SiteHealth(True)),
            SiteView(jaws, False, SiteHealth(False, "JAWS does not answer")),
        ]

    def availability(self) -> Mapping[str, bool]:
        return {"kbase": True, "perlmutter-jaws": False}

    def info(self, name: str) -> SiteInfo:
        self.note("info", name)
        return SiteInfo(name, "htcondor", 2, 64, 256_900_000_000, 86_459.0)

    async def set_active(self, *arguments: Any) -> None:
        self.note("set_active", *arguments)


class FakeWorkers(Fake):
    async def update(self, *arguments: Any) -> None:
        self.note("update", *arguments)

    async def work(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("work", *arguments)
        return WORK_ORDER

    async def heartbeat(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("heartbeat", *arguments)
        return {"stop": False, "reason": None}

    async def uploads(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("uploads", *arguments)
        return UPLOADS

    async def complete_uploads(self, *arguments: Any) -> None:
        self.note("complete_uploads", *arguments)

    async def inputs(self, *arguments: Any) -> Mapping[str, Any]:
        self.note("inputs", *arguments)
        return {"inputs": [{"file": "cts-data/a.fa", "url": "http://s3/a2"}]}


class FakeCallbacks(Fake):
    def news_of_job(self, *arguments: Any) -> None:
        self.note("news_of_job", *arguments)

    def news_of_refdata(self, *arguments: Any) -> None:
        self.note("news_of_refdata", *arguments)


class FakeNerscClient(Fake):
    async def lifetime(self, *arguments: Any) -> ClientLifetime:
        self.note("lifetime", *arguments)
        return ClientLifetime("abcdefghijklm", NOW, datetime.timedelta(days=1, hours=3, microseconds=5))


class FakeHealth(Fake):
    def __init__(self) -> None:
        super().__init__()
        self.states = [DependencyState("mongodb", True), DependencyState("kafka", True, required=False)]

    async def ready(self) -> Sequence[DependencyState]:
        self.note("ready")
        return self.states

    async def gauges(self) -> Gauges:
        self.note("gauges")
        return Gauges(
            {("kbase", "complete"): 7, ("kbase", "job_submitted"): 4},
            owed=3,
            waiting={("kbase", "job_submitted"): 2},
            oldest={("kbase", "job_submitted"): 3600.5},
            messages=9,
            owed_seconds=12.5,
            lag={"job": LookLag(5, 1.5), "staging": LookLag(0, 0.0)},
            stagings={("kbase", "complete"): 6},
        )


class FakeWorkerFiles(Fake):
    async def build(self) -> FakeWorkerFiles:
        self.note("build")
        return self

    executable = b"#!/bin/sh\n"
    executable_sha256 = "e" * 64
    archive = b"\x1f\x8b archive"
    archive_sha256 = "f" * 64


@dataclasses.dataclass
class FakeServices:
    """The fields of `Services`, all fakes."""

    info: ServiceInfo = dataclasses.field(
        default_factory=lambda: ServiceInfo("0.0.0", "0123abc", "For tests", lambda: NOW)
    )
    authentication: FakeAuthentication = dataclasses.field(default_factory=FakeAuthentication)
    submission: FakeSubmission = dataclasses.field(default_factory=FakeSubmission)
    jobs: FakeJobs = dataclasses.field(default_factory=FakeJobs)
    events: FakeEvents = dataclasses.field(default_factory=FakeEvents)
    live_logs: FakeLiveLogs = dataclasses.field(default_factory=FakeLiveLogs)
    admin_jobs: FakeAdminJobs = dataclasses.field(default_factory=FakeAdminJobs)
    images: FakeImages = dataclasses.field(default_factory=FakeImages)
    refdata: FakeRefdata = dataclasses.field(default_factory=FakeRefdata)
    refdata_desk: FakeRefdataDesk = dataclasses.field(default_factory=FakeRefdataDesk)
    sites: FakeSites = dataclasses.field(default_factory=FakeSites)
    workers: FakeWorkers = dataclasses.field(default_factory=FakeWorkers)
    callbacks: FakeCallbacks = dataclasses.field(default_factory=FakeCallbacks)
    nersc_client: FakeNerscClient = dataclasses.field(default_factory=FakeNerscClient)
    worker_files: FakeWorkerFiles = dataclasses.field(default_factory=FakeWorkerFiles)
    health: FakeHealth = dataclasses.field(default_factory=FakeHealth)
    metrics: PrometheusMetrics = dataclasses.field(default_factory=lambda: PrometheusMetrics("0.0.0", "0123abc"))
    stopping: Callable[[], None] = dataclasses.field(default=lambda: None)

    @property
    def sessions(self) -> Sessions:
        """Real ones, which know the fakes' callers."""
        return Sessions(cast(Authentication, self.authentication), SEAL, self.info.now)

    def app(self, **options: Any) -> FastAPI:
        """An application made of these."""
        return create_app(cast(Services, self), **options)


class Client:
    """Sends requests to an application in this process, as somebody."""

    def __init__(self, services: FakeServices, **options: Any) -> None:
        self.services = services
        self.app = services.app(**options)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://cts")

    async def send(self, method: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """One request; `token` is one of CALLERS, or any other for a bad one."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await self._http.request(method, path, headers=headers, **options)

    async def get(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """A GET."""
        return await self.send("GET", path, token, **options)
