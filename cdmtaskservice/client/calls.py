"""What users call, as flows: the one place where each call's request and reply are written down."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from cdmtaskservice.client.effects import Emit, Flow, Items
from cdmtaskservice.client.errors import CTSError, InvalidState, UnexpectedReply
from cdmtaskservice.client.job_input import AcceptedInput, JobInput, job_body
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
from cdmtaskservice.client.reading import Model, member, read_list
from cdmtaskservice.client.requests import Request, get, id_of, path_of, post, put
from cdmtaskservice.client.retrying import Retrying

AnyJob = JobInput | AcceptedInput | Mapping[str, Any]
"""A job to submit: a dataclass, or what JSON has."""
Time = datetime.datetime | str
LogStream = Literal["stdout", "stderr"]
FileKind = Literal["outputs", "inputs"]

PAGE = 1000
"""Entries that are asked for at once, the service's most."""

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Calls:
    """All calls. clock: seconds since whenever. new_key: makes idempotency keys."""

    retrying: Retrying
    clock: Callable[[], float]
    new_key: Callable[[], str] = lambda: uuid.uuid4().hex

    def json(self, request: Request) -> Flow[Any]:
        """The body of the reply."""
        return (yield from self.retrying.call(request)).json()

    def model(self, model: type[M], request: Request) -> Flow[M]:
        """The reply as that model."""
        return model.read((yield from self.json(request)))

    def list_of(self, model: type[M], request: Request, name: str) -> Flow[list[M]]:
        """The list in the reply."""
        return read_list(model, (yield from self.json(request)), name)

    def nothing(self, request: Request) -> Flow[None]:
        """For a reply without a body."""
        yield from self.retrying.call(request)

    def service(self) -> Flow[dict[str, Any]]:
        """GET /."""
        found = yield from self.json(get("/"))
        member(found, "service_name", str)
        return dict(found)

    def whoami(self) -> Flow[WhoAmI]:
        """GET /whoami."""
        return self.model(WhoAmI, get("/whoami"))

    def submit(self, job: AnyJob, idempotency_key: str | None) -> Flow[str]:
        """POST /jobs."""
        headers = {"idempotency-key": self.new_key() if idempotency_key is None else idempotency_key}
        request = post("/jobs", body=job_body(job), repeatable=True, headers=headers)
        return member((yield from self.json(request)), "job_id", str)

    def check(self, job: AnyJob) -> Flow[DryRun]:
        """POST /jobs?dry_run=true."""
        # The key is for services that do not know dry runs yet: they submit, and repeating must not do it twice.
        headers = {"idempotency-key": self.new_key()}
        request = post("/jobs", {"dry_run": True}, job_body(job), repeatable=True, headers=headers)
        found = yield from self.json(request)
        if isinstance(found, dict) and found.get("dry_run") is not True and isinstance(found.get("job_id"), str):
            yield from self.cancel(found["job_id"])
            raise UnexpectedReply(
                "This service is too old to check a job without submitting it; the job that it has made of it, "
                f"{found['job_id']}, was canceled at once"
            )
        return DryRun.read(found)

    def status(self, job_id: str) -> Flow[JobStatus]:
        """GET /jobs/{id}/status."""
        return self.model(JobStatus, get(_job(job_id, "status")))

    def job(self, job_id: str) -> Flow[Job]:
        """GET /jobs/{id}."""
        return self.model(Job, get(_job(job_id)))

    def jobs(self, path: str, filters: Mapping[str, object], limit: int | None) -> Items[JobPreview]:
        """GET /jobs or GET /admin/jobs, page by page, at most `limit` jobs in all."""
        left = limit
        cursor: str | None = None
        while left is None or left > 0:
            wanted = PAGE if left is None else min(left, PAGE)
            page = yield from self.json(get(path, {**filters, "limit": wanted, "cursor": cursor}))
            for job in islice(read_list(JobPreview, page, "jobs"), wanted):
                yield Emit(job)
                left = None if left is None else left - 1
            if cursor == (cursor := page.get("next_cursor")) or not cursor:
                return

    def containers(self, job_id: str) -> Flow[list[Container]]:
        """GET /jobs/{id}/containers."""
        return self.list_of(Container, get(_job(job_id, "containers")), "containers")

    def exit_codes(self, path: str) -> Flow[list[int | None]]:
        """GET …/exit_codes."""
        return list(member((yield from self.json(get(path))), "exit_codes", list))

    def log(self, job_id: str, container: int, stream: LogStream, seek: int, length: int | None) -> Flow[bytes]:
        """GET /jobs/{id}/log/{n}/stdout or stderr."""
        if length == 0:
            return b""
        request = log_request(job_id, container, stream, {"seek": seek or None, "length": length})
        return (yield from self.retrying.call(request)).body

    def files(self, job_id: str, kind: FileKind) -> Items[OutputFile]:
        """GET /jobs/{id}/files, page by page."""
        offset: int | None = 0
        while offset is not None:
            page = yield from self.files_page(job_id, kind, offset)
            yield from map(Emit, read_list(OutputFile, page, "files"))
            following = page.get("next_offset")
            offset = following if isinstance(following, int) and following > offset else None

    def files_page(self, job_id: str, kind: FileKind, offset: int) -> Flow[Any]:
        """One page of files, with fresh URLs."""
        return self.json(get(_job(job_id, "files"), {"kind": kind, "offset": offset, "limit": PAGE}))

    def cancel(self, job_id: str, of: tuple[str, ...] = ("jobs",)) -> Flow[None]:
        """PUT /jobs/{id}/cancel."""
        try:
            yield from self.nothing(put(path_of(*of, id_of(job_id), "cancel")))
        except InvalidState as e:
            # A reply may have been lost, and the job have got to its end since.
            if not e.repeated:
                raise
            status = yield from self.json(get(path_of(*of, id_of(job_id), *(("status",) if of == ("jobs",) else ()))))
            if member(status, "state", str) not in {"canceling", "canceled"}:
                raise

    def images(self) -> Flow[list[Image]]:
        """GET /images."""
        return self.list_of(Image, get("/images"), "data")

    def image(self, name: str) -> Flow[Image]:
        """GET /images/{name}."""
        return self.model(Image, get(path_of("images", name)))

    def refdata(self) -> Flow[list[ReferenceData]]:
        """GET /refdata."""
        return self.list_of(ReferenceData, get("/refdata"), "data")

    def refdata_by_id(self, refdata_id: str) -> Flow[ReferenceData]:
        """GET /refdata/id/{id}."""
        return self.model(ReferenceData, get(path_of("refdata", "id", id_of(refdata_id))))

    def refdata_by_path(self, path: str) -> Flow[list[ReferenceData]]:
        """GET /refdata/path/{path}."""
        return self.list_of(ReferenceData, get(path_of("refdata", "path", path)), "data")

    def sites(self) -> Flow[list[Site]]:
        """GET /sites."""
        return self.list_of(Site, get("/sites"), "sites")


def job_filters(
    cluster: str | None, state: str | None, tag: str | None, q: str | None, after: Time | None, before: Time | None
) -> dict[str, object]:
    """The filters of lists of jobs, as queries."""
    return {"cluster": cluster, "state": state, "tag": tag, "q": q, "after": after, "before": before}


def log_request(
    job_id: str, container: int, stream: LogStream, query: Mapping[str, object], read_timeout: float | None = None
) -> Request:
    """A request for a log."""
    if stream not in {"stdout", "stderr"}:
        raise CTSError(f"{stream!r} is no log: there are 'stdout' and 'stderr'")
    headers = {"accept": "text/plain, application/json"}
    return get(_job(job_id, "log", container, stream), query, headers=headers, read_timeout=read_timeout)


def _job(job_id: str, *more: str | int) -> str:
    return path_of("jobs", id_of(job_id), *more)
