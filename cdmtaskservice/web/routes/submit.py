"""Submitting a job by a form: pick an image, fill it in, have it checked, submit it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.domain.errors import CTSError, IdempotencyConflictError, ImageNameParseError, NoSuchImageError
from cdmtaskservice.domain.jobs import JobInput, cpu_hours
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.web import faults, job_form, words
from cdmtaskservice.web.faults import Faults
from cdmtaskservice.web.form_data import Sent
from cdmtaskservice.web.job_form import Fields, NotInFormError, UnreadLineError
from cdmtaskservice.web.visit import Pages, Visit, page

MAX_KEY = 64

_FIRST: Mapping[str, str] = {"num_containers": "1", "cpus": "1", "memory": "2GB", "runtime": "PT1H", "declobber": "yes"}
"""What a new form begins with."""

_CHOICES: Mapping[str, Mapping[str, str]] = {
    "files-space": {"type": "input_files", "input_files_format": "space_separated_list"},
    "files-comma": {"type": "input_files", "input_files_format": "comma_separated_list"},
    "files-repeat": {"type": "input_files", "input_files_format": "repeat_parameter"},
    "manifest-files": {"type": "manifest_file", "manifest_file_format": "files"},
    "manifest-ids": {"type": "manifest_file", "manifest_file_format": "data_ids"},
    "number": {"type": "container_number"},
}
"""What can be chosen for an argument that the service fills in."""


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [page(pages, "/submit", _show, _submit, stale=_stale)]


@dataclass
class _Form:
    """A form on its way. as_json: the whole of it is one text, `text`, instead of fields."""

    fields: Fields
    key: str
    text: str = ""
    as_json: bool = False
    faults: Faults = field(default_factory=dict)
    checked: Mapping[str, Any] | None = None
    origin: str = ""

    def job(self) -> JobInput | None:
        """The job; None where there are faults, which are noted."""
        try:
            body = json.loads(self.text) if self.as_json else job_form.body_of(self.fields)
            job = JobInput.model_validate(body)
        except ValidationError as error:
            self.faults = faults.of_validation(error, {} if self.as_json else self.fields)
        except UnreadLineError as error:
            self.faults = {error.field: [str(error)]}
        except (ValueError, RecursionError) as error:
            self.faults = {"": [f"This is no JSON: {error}"]}
        else:
            if self.as_json:
                self.fields = {"output_dir": job.output_dir, "image": job.image, "cluster": job.cluster}
            return job
        if self.as_json:
            told = [f"{name}: {text}" if name else text for name, texts in self.faults.items() for text in texts]
            self.faults = {"json": told}
        return None


async def _show(visit: Visit) -> Response:
    origin = visit.query.get("from")
    if origin:
        form = await _again(visit, origin)
    elif "image" in visit.query:
        sites = await visit.services.sites.list()
        cluster = next((s.info.name for s in sites if s.active and s.health.available), "")
        fields = {**dict.fromkeys(job_form.NAMES, ""), **_FIRST, "image": visit.query["image"], "cluster": cluster}
        form = _Form(fields, _new_key())
    else:
        return visit.html("choose_image.html", images=await visit.services.images.list())
    return await _page(visit, form)


async def _again(visit: Visit, job_id: str) -> _Form:
    """The form of a job that there is. Checksums are not asked for again: the files may have changed, and be meant."""
    job, inputs, _ = await visit.services.jobs.get(visit.user, job_id)
    files: list[Any] = list(inputs.files)
    if inputs.data_ids is not None:
        files = [{"file": f, "data_id": d} for f, d in zip(inputs.files, inputs.data_ids, strict=True)]
    asked = {**job.input, "memory": words.memory(job.input["memory"]), "input_files": files}
    form = _Form({}, _new_key(), origin=job_id)
    try:
        form.fields = job_form.fields_of(asked)
    except NotInFormError as error:
        form.text, form.as_json = json.dumps(asked, indent=2, ensure_ascii=False), True
        form.faults = {"json": [f"{error}; the form has no place for it"]}
    return form


async def _stale(visit: Visit) -> Response:
    """A form that was filled in before signing in anew: show it again, so that nothing is typed twice."""
    form = _sent_form(visit.sent)
    form.faults = {"": ["You have signed in anew since this form was made. Look at it, and submit it once more."]}
    return await _page(visit, form, 403)


def _sent_form(sent: Sent) -> _Form:
    key = sent.text("key")
    return _Form(
        job_form.fields_sent(sent),
        key if 0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable() and " " not in key else _new_key(),
        text=sent.text("json"),
        as_json="json" in sent,
        origin=sent.text("origin"),
    )


async def _submit(visit: Visit) -> Response:
    sent = visit.sent
    form = _sent_form(sent)
    match sent.text("do"):
        case "submit":
            if job_id := await _accepted(visit, form):
                return visit.go(f"/jobs/{job_id}?done=submitted")
        case "check":
            await _check(visit, form)
        case "as-json":
            _to_json(form)
        case "as-form":
            _to_form(form)
        case "add" if not form.as_json:
            _add(form, sent)
    return await _page(visit, form, 400 if form.faults else 200)


async def _accepted(visit: Visit, form: _Form) -> str | None:
    job = form.job()
    if job is None:
        return None
    try:
        return await visit.services.submission.submit(visit.user, job, form.key)
    except IdempotencyConflictError as error:
        # The same page was sent before, with another job in it: that is a new one.
        form.key = _new_key()
        form.faults = {"": [f"{error.message}. Submit once more if this is to be another job."]}
    except CTSError as error:
        _refused(form, error)
    return None


async def _check(visit: Visit, form: _Form) -> None:
    job = form.job()
    if job is None:
        return
    try:
        checked = await visit.services.submission.dry_run(visit.user, job)
    except CTSError as error:
        _refused(form, error)
        return
    rendered, files = checked.first_container(job)
    form.checked = {
        "image": checked.image,
        "bytes": sum(found.size for found in checked.found),
        "count": len(checked.found),
        "hours": cpu_hours(job),
        "containers": job.num_containers,
        "args": rendered.args,
        "environment": rendered.environment,
        "manifest": rendered.manifest,
        "files": files,
        "mount": job.params.input_mount_point,
        "warnings": checked.warnings,
    }


def _refused(form: _Form, error: CTSError) -> None:
    if error.http_status >= 500:
        raise error
    form.faults = faults.of_service(error, form.fields)
    if form.as_json:
        form.faults = {"json": [error.message]}


def _to_json(form: _Form) -> None:
    try:
        form.text = json.dumps(job_form.body_of(form.fields), indent=2, ensure_ascii=False)
        form.as_json = True
    except UnreadLineError as error:
        form.faults = {error.field: [str(error)]}


def _to_form(form: _Form) -> None:
    try:
        form.fields = job_form.fields_of(json.loads(form.text))
        form.as_json = False
    except NotInFormError as error:
        form.faults = {"json": [f"{error}; the form has no place for it"]}
    except (ValueError, RecursionError) as error:
        form.faults = {"json": [f"This is no JSON: {error}"]}


def _add(form: _Form, sent: Sent) -> None:
    """Add a parameter where it was chosen for: a line of the arguments or of the environment."""
    chosen = _CHOICES.get(sent.text("add_what"))
    if chosen is None:
        form.faults = {"add_what": ["Choose what to add"]}
        return
    variable, flag = sent.text("add_variable").strip(), sent.text("add_flag").strip()
    parameter = dict(chosen)
    for name in ("container_num_prefix", "container_num_suffix") if chosen["type"] == "container_number" else ():
        if text := sent.text(f"add_{name}"):
            parameter[name] = text
    if chosen["type"] == "manifest_file" and (header := sent.text("add_manifest_file_header")):
        parameter["manifest_file_header"] = header
    if flag and not variable:
        parameter["flag"] = flag
    name, line = "args", json.dumps(parameter, ensure_ascii=False)
    if variable:
        name, line = "environment", f"{variable}={line}"
    before = form.fields[name].rstrip("\n")
    form.fields[name] = f"{before}\n{line}" if before else line


async def _page(visit: Visit, form: _Form, status: int = 200) -> Response:
    sites = await visit.services.sites.list()
    shown_image, image_fault = await _image(visit, form)
    if image_fault and not form.as_json and "image" not in form.faults:
        form.faults.setdefault("image", []).append(image_fault)
    return visit.html(
        "submit.html",
        status,
        form=form,
        fields=form.fields,
        faults=form.faults,
        checked=form.checked,
        sites=sites,
        site=next((s for s in sites if s.info.name == form.fields.get("cluster")), None),
        image=shown_image,
        images=await visit.services.images.list(),
        paths=visit.services.authentication.allowed_paths(visit.user),
    )


async def _image(visit: Visit, form: _Form) -> tuple[ImageRecord | None, str | None]:
    text = form.fields.get("image", "")
    if not text:
        return None, None
    try:
        return await visit.services.images.get(text), None
    except (NoSuchImageError, ImageNameParseError) as error:
        return None, error.message


def _new_key() -> str:
    return f"page-{uuid.uuid4()}"
