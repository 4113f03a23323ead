"""Records as the contract shows them. Null fields are left out.

Times stay times: the writer of JSON makes text of them faster than Python can. It is slow with enums, so states are
already their values here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from cdmtaskservice.domain.jobs import JobInput, cpu_hours
from cdmtaskservice.domain.records import (
    ContainerRecord,
    ImageRecord,
    InputFiles,
    JobRecord,
    OutputFiles,
    Transition,
)
from cdmtaskservice.domain.refdata import RefdataRecord, StagingRecord
from cdmtaskservice.domain.states import CONTAINER_STATES
from cdmtaskservice.services.jobs import FilesPage
from cdmtaskservice.services.refdata import RefdataView
from cdmtaskservice.services.sites import SiteView
from cdmtaskservice.services.submission import Checked

View: TypeAlias = dict[str, Any]

_GB = 10**9
_EXAMPLE_FILES = 100

_WAITING = (
    "The site, or a service that the job needs, does not answer or has no room just now. The job goes on by itself as "
    "soon as it can; an administrator can see what holds it up."
)
"""For the owner. The reason itself is for administrators, as it may name what is inside."""


def job_status(job: JobRecord) -> View:
    """*JobStatus*."""
    return {
        "id": job.id,
        "user": job.user,
        "state": job.state.value,
        "transition_times": [{"state": t.state.value, "time": t.time} for t in job.transitions],
        "admin_meta": dict(job.admin_meta),
    }


def job_preview(job: JobRecord) -> View:
    """*JobPreview*."""
    view = job_status(job)
    view["job_input"] = job.input
    view["image"] = job_image(job.image)
    view["input_file_count"] = job.input_file_count
    _add(view, job, _PREVIEW_OPTIONAL)
    return view


def job_details(job: JobRecord, inputs: InputFiles, outputs: OutputFiles) -> View:
    """*Job*."""
    view = job_preview(job)
    view["job_input"] = {**job.input, "input_files": _input_files(inputs)}
    view["outputs"] = output_files(outputs)
    if (words := waiting(job)) is not None:
        view["waiting"] = words
    return view


def waiting(job: JobRecord) -> str | None:
    """Why a job does not move on, in words for its owner; None while nothing holds it up."""
    return None if job.waiting is None or job.state.is_terminal else job.told or _WAITING


def admin_job(job: JobRecord, inputs: InputFiles, outputs: OutputFiles) -> View:
    """*AdminJobDetails*."""
    view = job_details(job, inputs, outputs)
    view["transition_times"] = [
        _admin_transition(t, number < job.published) for number, t in enumerate(job.transitions)
    ]
    view["cleaned"] = job.cleaned
    _add(view, job, _ADMIN_OPTIONAL)
    if clusters := job.handles.get("htcondor"):
        view["htcondor_details"] = {"cluster_id": [int(cluster) for cluster in clusters]}
    if runs := job.handles.get("jaws"):
        view["jaws_details"] = {"run_id": list(runs)}
    tasks = {name: list(job.handles.get(kind, ())) for kind, name in _NERSC_TASKS.items()}
    if any(tasks.values()):
        view["nersc_details"] = tasks
    return view


def sub_job(container: ContainerRecord) -> View:
    """*SubJob*, its transitions in the order in which a container makes them, whatever order the reports came in."""
    reached = [(s, container.reached[s]) for s in CONTAINER_STATES if s in container.reached]
    view: View = {
        "id": container.job_id,
        "sub_id": container.number,
        "state": container.state.value,
        "transition_times": [{"state": state.value, "time": when.time} for state, when in reached],
    }
    _add(view, container, ("exit_code", "admin_error", "traceback"))
    if container.outputs is not None:
        view["outputs"] = output_files(container.outputs)
    if container.lost:
        view["attempt"] = container.attempt
        view["lost_attempts"] = [{"attempt": a.attempt, "time": a.at, "why": a.why} for a in container.lost]
    return view


def container(record: ContainerRecord) -> View:
    """*Container*."""
    view: View = {
        "container_number": record.number,
        "state": record.state.value,
        "attempt": record.attempt,
        "time": max(when.at for when in record.reached.values()),
    }
    _add(view, record, ("exit_code", "error"))
    if record.progress is not None and not record.state.is_terminal:
        _add(view, record.progress, ("phase", "bytes_done", "bytes_total"))
    _add(view, record.usage, ("cpu_seconds", "wall_seconds", "max_memory"))
    return view


def files_page(page: FilesPage, offset: int) -> View:
    """*Files*, with the offset of the next page where there is one."""
    sizes: Sequence[int | None] = page.sizes or [None] * len(page.files)
    columns = zip(page.files, page.crc64nvmes, sizes, page.urls, strict=True)
    view: View = {
        "files": [
            {"file": file, "crc64nvme": crc, **({} if size is None else {"size": size}), "url": url}
            for file, crc, size, url in columns
        ],
        "total": page.total,
    }
    if offset + len(page.files) < page.total and page.files:
        view["next_offset"] = offset + len(page.files)
    return view


def dry_run(job: JobInput, checked: Checked) -> View:
    """*DryRun*."""
    rendered, places = checked.first_container(job)
    example: View = {
        "container_number": 0,
        "args": rendered.args,
        "environment": dict(rendered.environment),
        "input_files": places[:_EXAMPLE_FILES],
    }
    if rendered.manifest is not None:
        example["manifest"] = {"path": rendered.manifest.path, "content": rendered.manifest.content}
    return {
        "dry_run": True,
        "job_input": job.preview().model_dump(mode="json", exclude_none=True),
        "image": job_image(checked.image),
        "input_file_count": len(checked.found),
        "input_bytes": sum(o.size for o in checked.found),
        "cpu_hours": cpu_hours(job),
        "containers": job.num_containers,
        "example": example,
        "warnings": list(checked.warnings),
    }


def job_image(image: ImageRecord) -> View:
    """*JobImage*."""
    view: View = {"name": image.name, "digest": image.digest}
    _add(view, image, ("tag",))
    view["entrypoint"] = image.entrypoint
    _add(view, image, ("refdata_id", "default_refdata_mount_point"))
    view["registered_by"] = image.registered_by
    view["registered_on"] = image.registered_on
    return view


def image(record: ImageRecord) -> View:
    """*Image*."""
    view = job_image(record)
    _add(view, record, ("urls", "usage_notes"))
    return view


def refdata(view: RefdataView) -> View:
    """*ReferenceData*."""
    return {**_refdata(view.refdata), "statuses": [_staging(s) for s in view.stagings]}


def admin_refdata(view: RefdataView) -> View:
    """*ReferenceData* for administrators."""
    return {
        **_refdata(view.refdata),
        "size": view.refdata.size,
        "statuses": [_admin_staging(s) for s in view.stagings],
    }


def site(view: SiteView) -> View:
    """A site, memory in whole units of 10⁹ bytes and time in whole minutes, both rounded down."""
    info = view.info
    shown: View = {
        "cluster": info.name,
        "nodes": info.nodes,
        "cpus_per_node": info.cpus_per_node,
        "memory_per_node_gb": info.memory_per_node // _GB,
        "max_runtime_min": int(info.max_runtime // 60),
        "notes": info.notes,
        "active": view.active,
        "available": view.health.available,
    }
    if info.gpus_per_node:
        shown["gpus_per_node"] = info.gpus_per_node
    if not view.health.available and view.health.reason is not None:
        shown["unavailable_reason"] = view.health.reason
    return shown


def output_files(outputs: OutputFiles) -> list[View]:
    """Output files with their checksums."""
    return [{"file": file, "crc64nvme": crc} for file, crc in zip(outputs.files, outputs.crc64nvmes, strict=True)]


def _refdata(record: RefdataRecord) -> View:
    view: View = {
        "id": record.id,
        "file": record.file,
        "crc64nvme": record.crc64nvme,
        "unpack": record.unpack,
        "registered_by": record.registered_by,
        "registered_on": record.registered_on,
    }
    _add(view, record, ("retired_by", "retired_on"))
    return view


def _staging(staging: StagingRecord) -> View:
    view: View = {
        "cluster": staging.site,
        "state": staging.state.value,
        "transition_times": [{"state": t.state.value, "time": t.time} for t in staging.transitions],
    }
    _add(view, staging, ("error", "removed_on"))
    return view


def _admin_staging(staging: StagingRecord) -> View:
    view = _staging(staging)
    view["cleaned"] = staging.cleaned
    _add(view, staging, ("admin_error", "traceback", "files"))
    if not staging.is_over or staging.next_look is not None:
        _add(view, staging, ("waiting",))
    if staging.unpacked is not None:
        view["bytes"] = staging.unpacked
    view["nersc_download_task_id"] = list(staging.handles.get("nersc_download", ()))
    if (progress := staging.progress) is not None and not staging.is_over:
        view["progress"] = {
            "phase": progress.phase,
            "percent": round(progress.percent, 1),
            "bytes_done": progress.done,
            "bytes_total": progress.total,
            "bytes_per_second": round(progress.rate, 1),
            "files_done": progress.files,
            "bytes_unpacked": progress.unpacked,
            "time": progress.at,
        }
    return view


_PREVIEW_OPTIONAL: Sequence[str] = (
    "output_file_count",
    "cpu_hours",
    "cpu_factor",
    "max_memory",
    "error",
    "logpath",
)
_NERSC_TASKS = {
    "nersc_download": "download_task_id",
    "nersc_upload": "upload_task_id",
    "nersc_log_upload": "log_upload_task_id",
}
"""What is shown of the tasks at NERSC, by the kind of their IDs among a job's handles."""
_ADMIN_OPTIONAL: Sequence[str] = ("admin_error", "traceback", "waiting")


def _add(view: View, record: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(record, name)
        if value is not None:
            view[name] = value


def _input_files(inputs: InputFiles) -> list[Mapping[str, Any]]:
    if inputs.data_ids is None:
        return [{"file": file, "crc64nvme": crc} for file, crc in zip(inputs.files, inputs.crc64nvmes, strict=True)]
    return [
        {"file": file, "data_id": data_id, "crc64nvme": crc}
        for file, data_id, crc in zip(inputs.files, inputs.data_ids, inputs.crc64nvmes, strict=True)
    ]


def _admin_transition(transition: Transition, sent: bool) -> View:
    return {
        "state": transition.state.value,
        "time": transition.time,
        "trans_id": transition.trans_id,
        "notif_sent": sent,
    }
