"""What administrators do with a job: notes, messages, cleaning."""

from __future__ import annotations

import re

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.api.models import MetaUpdate
from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.web.visit import Pages, Visit, page

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_FLOAT = re.compile(r"-?[0-9]{1,30}\.[0-9]{1,30}", re.ASCII)


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    job = "/admin/jobs/{job_id}"
    return [
        page(pages, f"{job}/meta", None, _note, admin=True),
        page(pages, f"{job}/notify", None, _notify, admin=True),
        page(pages, f"{job}/clean", _ask_clean, _clean, admin=True),
    ]


async def _note(visit: Visit) -> Response:
    """Set one key, or remove it."""
    job_id, key = visit.path("job_id"), visit.sent.text("key").strip()
    try:
        if visit.sent.text("do") == "unset":
            update = MetaUpdate(unset_keys=[key])
        else:
            update = MetaUpdate(set_fields={key: _value(visit.sent.text("value"))})
    except ValidationError as error:
        raise IllegalParameterError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    await visit.services.admin_jobs.set_meta(job_id, update.set_fields, update.unset_keys)
    return visit.go(f"/admin/jobs/{job_id}?done=noted")


def _value(text: str) -> str | int | float:
    """A number where it looks like one."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


async def _notify(visit: Visit) -> Response:
    job_id = visit.path("job_id")
    try:
        state = JobState(visit.sent.text("state"))
    except ValueError:
        raise HTTPException(400, "There is no such state") from None
    await visit.services.admin_jobs.notify(job_id, state)
    return visit.go(f"/admin/jobs/{job_id}?done=published")


async def _ask_clean(visit: Visit) -> Response:
    job = await visit.services.jobs.status(None, visit.path("job_id"))
    return visit.confirm(
        "Remove the job's files at its site?",
        [f"Job {job.id} at {job.site}. Outputs in S3 stay."],
        "Remove the files",
        here=f"/admin/jobs/{job.id}/clean",
        back=f"/admin/jobs/{job.id}",
        switches={} if job.state.is_terminal else {"force": "Even though the job is not over"},
    )


async def _clean(visit: Visit) -> Response:
    job_id = visit.path("job_id")
    await visit.services.admin_jobs.clean(job_id, "force" in visit.sent)
    return visit.go(f"/admin/jobs/{job_id}?done=cleaned")
