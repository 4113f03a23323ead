"""What pages read as it comes: a job's events, and containers' logs. As the API gives it, for whoever is signed in."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cdmtaskservice.api.parameters import MAX_OFFSET
from cdmtaskservice.api.streams import LogResponse, events_response, followed_response
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import NoLogsError, NoSuchSubJobError, UnsupportedOperationError
from cdmtaskservice.services.jobs import LogStream
from cdmtaskservice.web.form_data import whole_number
from cdmtaskservice.web.visit import Pages, Visit, page

TAIL = 1_000_000
"""Bytes at the end of a log with which a page begins; it holds no more either."""


def routes(pages: Pages) -> list[Route]:
    """These routes."""
    return [*_Streams("/jobs", admin=False).routes(pages), *_Streams("/admin/jobs", admin=True).routes(pages)]


def container_number(text: str) -> int:
    """The number of a container, as it stands in a path. Raises: NoSuchSubJobError."""
    number = whole_number(text)
    if number is None:
        raise NoSuchSubJobError(f"Containers have numbers, from 0; {text[:50]!r} is none")
    return number


@dataclass(frozen=True)
class _Streams:
    root: str
    admin: bool

    def routes(self, pages: Pages) -> list[Route]:
        """The routes."""
        job = self.root + "/{job_id}"
        return [
            page(pages, f"{job}/events", self._events, admin=self.admin),
            page(pages, f"{job}/log/{{number}}/{{stream}}", self._log, admin=self.admin),
        ]

    def _viewer(self, visit: Visit) -> Principal | None:
        return None if self.admin else visit.user

    async def _events(self, visit: Visit) -> Response:
        news = await visit.services.events.watch(visit.user, visit.path("job_id"), any_job=self.admin)
        return events_response(news, visit.request.headers.get("last-event-id"))

    async def _log(self, visit: Visit) -> Response:
        """`whole`: the log as a file. Else it is followed from `seek` on; once it is over, from near its end on."""
        job_id, stream = visit.path("job_id"), _stream(visit.path("stream"))
        number = container_number(visit.path("number"))
        viewer = self._viewer(visit)
        if "whole" in visit.query:
            chunks = await visit.services.jobs.log(viewer, job_id, number, stream)
            return LogResponse(chunks, job_id, number, stream)
        try:
            return await self._followed(visit, viewer, job_id, number, stream)
        except (NoLogsError, UnsupportedOperationError) as error:
            # No fault of the page, which asks without knowing.
            return PlainTextResponse(f"{error.message}.\n", headers={"CTS-Log-Missing": "yes"})

    async def _followed(
        self, visit: Visit, viewer: Principal | None, job_id: str, number: int, stream: LogStream
    ) -> Response:
        container = await visit.services.jobs.container(viewer, job_id, number)
        seek = _seek(visit.query.get("seek", ""))
        if container.state.is_terminal:
            # A page that was hidden may ask from where it was, long before the end of what was written meanwhile.
            seek = max(seek or 0, await visit.services.jobs.log_size(viewer, job_id, number, stream) - TAIL)
        followed = await visit.services.live_logs.follow(
            visit.user, job_id, number, stream, seek or 0, any_job=self.admin
        )
        response = followed_response(followed, job_id, number, stream)
        # The end of an answer may be that of an attempt only; this tells whether it is that of the container.
        response.headers["CTS-Container-Over"] = "yes" if container.state.is_terminal else "no"
        return response


def _seek(text: str) -> int | None:
    number = whole_number(text, 16)
    return number if number is not None and number <= MAX_OFFSET else None


def _stream(text: str) -> LogStream:
    if text == "stdout":
        return "stdout"
    if text == "stderr":
        return "stderr"
    raise HTTPException(404, "There are stdout and stderr, no other logs")
