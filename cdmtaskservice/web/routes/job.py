"""One job: its timeline, usage, containers, files and logs. Administrators see anybody's, with more."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import CTSError
from cdmtaskservice.domain.records import ContainerRecord, JobRecord
from cdmtaskservice.domain.states import CONTAINER_STATES, JobState
from cdmtaskservice.services.jobs import FileKind
from cdmtaskservice.web.form_data import whole_number
from cdmtaskservice.web.rendering import linked
from cdmtaskservice.web.routes.live import container_number
from cdmtaskservice.web.visit import Pages, Visit, page

FILES_SHOWN = 10
"""Files on a job's page; all of them are on pages of their own."""
FILES_PAGE = 200
FAILED_SHOWN = 10
"""Failed containers that a job's page tells of in words."""
CONTAINERS_PAGE = 100

_FAILED = frozenset({JobState.ERROR, JobState.ERROR_PROCESSING_SUBMITTING, JobState.ERROR_PROCESSING_SUBMITTED})


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [*_JobPages("/jobs", admin=False).routes(pages), *_JobPages("/admin/jobs", admin=True).routes(pages)]


@dataclass(frozen=True)
class Step:
    """A state that a job has been in. start, width: of it, in thousandths of the whole time; seconds: how long."""

    state: JobState
    time: datetime.datetime
    seconds: float | None
    start: float
    width: float


def steps(job: JobRecord, now: datetime.datetime) -> list[Step]:
    """A job's states with how long each took; None for the last one of a job that is over."""
    over = job.state.is_terminal
    end = job.updated if over else max(now, job.updated)
    begun = job.transitions[0].time
    whole = max((end - begun).total_seconds(), 1e-3)
    found = []
    for n, transition in enumerate(job.transitions):
        last = n == len(job.transitions) - 1
        until = end if last else job.transitions[n + 1].time
        seconds = (until - transition.time).total_seconds()
        start = 1000 * (transition.time - begun).total_seconds() / whole
        found.append(
            Step(
                transition.state,
                transition.time,
                None if last and over else seconds,
                round(start, 2),
                round(1000 * seconds / whole, 2),
            )
        )
    return found


@dataclass(frozen=True)
class _JobPages:
    """The pages of jobs below `root`. admin: of anybody's."""

    root: str
    admin: bool

    def routes(self, pages: Pages) -> list[Route]:
        """The routes."""
        job = self.root + "/{job_id}"
        every = [
            (job, self._job, None),
            (f"{job}/cancel", self._ask_cancel, self._cancel),
            (f"{job}/containers", self._containers, None),
            (f"{job}/containers/{{number}}", self._container, None),
            (f"{job}/files/{{kind}}", self._files, None),
            (f"{job}/download", self._download, None),
        ]
        return [page(pages, path, show, submit, admin=self.admin) for path, show, submit in every]

    def viewer(self, visit: Visit) -> Principal | None:
        """Who must own the job; None for an administrator."""
        return None if self.admin else visit.user

    async def _find(self, visit: Visit) -> JobRecord:
        return await visit.services.jobs.status(self.viewer(visit), visit.path("job_id"))

    async def _job(self, visit: Visit) -> Response:
        job = await self._find(visit)
        containers = await visit.services.jobs.containers(self.viewer(visit), job.id)
        state = _container_state(visit)
        outputs = await visit.services.jobs.files(self.viewer(visit), job.id, "outputs", 0, FILES_SHOWN)
        inputs = await visit.services.jobs.files(self.viewer(visit), job.id, "inputs", 0, FILES_SHOWN)
        failed = [c for c in containers if c.state in _FAILED]
        return visit.html(
            "admin_job.html" if self.admin else "job.html",
            job=job,
            root=f"{self.root}/{job.id}",
            admin=self.admin,
            steps=steps(job, visit.services.info.now()),
            containers=[c for c in containers if state is None or c.state is state],
            chosen=state,
            counts=_counted(containers),
            failed=failed[:FAILED_SHOWN],
            failed_count=len(failed),
            outputs=outputs,
            inputs=inputs,
            runner=await self._runner(visit, job) if self.admin else None,
        )

    @staticmethod
    async def _runner(visit: Visit, job: JobRecord) -> object:
        if "runner" not in visit.query:
            return None
        number = whole_number(visit.query["runner"]) or 0
        try:
            return await visit.services.admin_jobs.runner_status(job.id, number)
        except CTSError as error:
            return error.message

    async def _ask_cancel(self, visit: Visit) -> Response:
        job = await self._find(visit)
        name = job.input.get("name") or job.id
        return visit.confirm(
            "Cancel the job?",
            [
                f"The job {name} and all of its {job.containers} containers will be stopped.",
                "What it has computed is lost. You can submit it again afterwards.",
            ],
            "Cancel the job",
            here=f"{self.root}/{job.id}/cancel",
            back=f"{self.root}/{job.id}",
        )

    async def _cancel(self, visit: Visit) -> Response:
        job_id = visit.path("job_id")
        await visit.services.jobs.cancel(self.viewer(visit), job_id)
        return visit.go(f"{self.root}/{job_id}?done=canceling")

    async def _containers(self, visit: Visit) -> Response:
        job = await self._find(visit)
        every = await visit.services.jobs.containers(self.viewer(visit), job.id)
        state = _container_state(visit)
        chosen = [c for c in every if state is None or c.state is state]
        number = _page_number(visit, len(chosen), CONTAINERS_PAGE)
        begin = number * CONTAINERS_PAGE
        return visit.html(
            "containers.html",
            job=job,
            root=f"{self.root}/{job.id}",
            containers=chosen[begin : begin + CONTAINERS_PAGE],
            counts=_counted(every),
            chosen=state,
            words=_range_words(begin, CONTAINERS_PAGE, len(chosen), "containers"),
            links=self._pages(
                visit,
                f"{self.root}/{job.id}/containers",
                number,
                len(chosen),
                CONTAINERS_PAGE,
                state.value if state else "",
            ),
        )

    async def _container(self, visit: Visit) -> Response:
        job = await self._find(visit)
        number = container_number(visit.path("number"))
        container = await visit.services.jobs.container(self.viewer(visit), job.id, number)
        return visit.html(
            "container.html",
            job=job,
            root=f"{self.root}/{job.id}",
            admin=self.admin,
            container=container,
            stream="stderr" if visit.query.get("stream") == "stderr" else "stdout",
            reached=[(s, container.reached[s].time) for s in CONTAINER_STATES if s in container.reached],
        )

    async def _files(self, visit: Visit) -> Response:
        job = await self._find(visit)
        kind = _kind(visit.path("kind"))
        total = job.input_file_count if kind == "inputs" else job.output_file_count or 0
        number = _page_number(visit, total, FILES_PAGE)
        begin = number * FILES_PAGE
        return visit.html(
            "files.html",
            job=job,
            root=f"{self.root}/{job.id}",
            kind=kind,
            begin=begin,
            files=await visit.services.jobs.files(self.viewer(visit), job.id, kind, begin, FILES_PAGE),
            words=_range_words(begin, FILES_PAGE, total, "files"),
            links=self._pages(visit, f"{self.root}/{job.id}/files/{kind}", number, total, FILES_PAGE, ""),
        )

    async def _download(self, visit: Visit) -> Response:
        """To S3, by a link that is made now and stands on no page."""
        kind, number = _kind(visit.query.get("kind", "")), whole_number(visit.query.get("n", ""))
        link = None
        if number is not None:
            link = await visit.services.jobs.link(self.viewer(visit), visit.path("job_id"), kind, number)
        if link is None:
            raise HTTPException(404, "There is no such file")
        return RedirectResponse(link, 303, {"Cache-Control": "no-store"})

    @staticmethod
    def _pages(visit: Visit, path: str, number: int, total: int, size: int, state: str) -> list[tuple[str, str]]:
        links = []
        if number > 0:
            links.append(("Previous", linked(visit.base + path, {"state": state, "page": number})))
        if (number + 1) * size < total:
            links.append(("Next", linked(visit.base + path, {"state": state, "page": number + 2})))
        return links


def _counted(containers: Sequence[ContainerRecord]) -> list[tuple[JobState, int]]:
    """How many containers there are in each state, in the order of states; those that need a look first."""
    counts = Counter(c.state for c in containers)
    order = sorted((*CONTAINER_STATES, JobState.CANCELED), key=lambda s: s not in _FAILED)
    return [(state, counts[state]) for state in order if counts[state]]


def _container_state(visit: Visit) -> JobState | None:
    try:
        return JobState(visit.query.get("state", ""))
    except ValueError:
        return None


def _kind(text: str) -> FileKind:
    if text == "inputs":
        return "inputs"
    if text == "outputs":
        return "outputs"
    raise HTTPException(404, "There are inputs and outputs, no other files")


def _page_number(visit: Visit, total: int, size: int) -> int:
    """The page that is asked for, from 0; the last one where it is beyond."""
    asked = whole_number(visit.query.get("page", "")) or 1
    return max(0, min(asked - 1, (total - 1) // size))


def _range_words(begin: int, size: int, total: int, what: str) -> str:
    if not total:
        return f"no {what}"
    return f"{begin + 1:,} to {min(begin + size, total):,} of {total:,} {what}"
