"""How values are kept in the database.

Only values that every store behind MongoDB's wire protocol keeps alike: strings, integers, floats, null, and nested
documents and arrays of these. So times are integers, milliseconds since the epoch; flags are 0 and 1; an array is
always written whole, under a compare-and-set, and never pushed to.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeAlias

from cdmtaskservice.domain.records import (
    ContainerRecord,
    ImageRecord,
    JobRecord,
    LostAttempt,
    OutputFiles,
    Progress,
    Reached,
    Transition,
    Usage,
)
from cdmtaskservice.domain.states import JobState

Document: TypeAlias = dict[str, Any]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)


def to_millis(time: datetime.datetime) -> int:
    """An aware time as whole milliseconds since the epoch."""
    return (time - _EPOCH) // _MILLISECOND


def from_millis(millis: int) -> datetime.datetime:
    """The aware UTC time of milliseconds since the epoch."""
    return _EPOCH + int(millis) * _MILLISECOND


def encode_image(image: ImageRecord) -> Document:
    """An image as a document; null fields are left out."""
    document = {
        "name": image.name,
        "digest": image.digest,
        "tag": image.tag,
        "entrypoint": list(image.entrypoint),
        "registered_by": image.registered_by,
        "registered_on": to_millis(image.registered_on),
        "refdata_id": image.refdata_id,
        "default_refdata_mount_point": image.default_refdata_mount_point,
        "urls": None if image.urls is None else list(image.urls),
        "usage_notes": image.usage_notes,
    }
    return {k: v for k, v in document.items() if v is not None}


def decode_image(document: Mapping[str, Any]) -> ImageRecord:
    """The image of a document made by `encode_image`."""
    return ImageRecord(
        name=document["name"],
        digest=document["digest"],
        tag=document.get("tag"),
        entrypoint=tuple(document["entrypoint"]),
        registered_by=document["registered_by"],
        registered_on=from_millis(document["registered_on"]),
        refdata_id=document.get("refdata_id"),
        default_refdata_mount_point=document.get("default_refdata_mount_point"),
        urls=document.get("urls"),
        usage_notes=document.get("usage_notes"),
    )


def encode_transition(transition: Transition) -> Document:
    """A transition as a document."""
    return {
        "state": transition.state.value,
        "time": to_millis(transition.time),
        "trans_id": transition.trans_id,
    }


def decode_job(document: Mapping[str, Any]) -> JobRecord:
    """The job of a document of the `jobs` collection."""
    next_look = document.get("next_look")  # 0 means at once
    return JobRecord(
        id=document["_id"],
        user=document["user"],
        site=document["site"],
        input=document["input"],
        image=decode_image(document["image"]),
        input_file_count=document["input_file_count"],
        containers=document["containers"],
        runtime=document["runtime"],
        state=JobState(document["state"]),
        transitions=tuple(
            Transition(JobState(t["state"]), from_millis(t["time"]), t["trans_id"]) for t in document["transitions"]
        ),
        published=document["published"],
        next_look=None if next_look is None else from_millis(next_look),
        failures=document.get("failures", 0),
        waiting=document.get("waiting"),
        told=document.get("told"),
        disk=document.get("disk", 0),
        handles={kind: tuple(told.split(",")) for kind, told in (document.get("handles") or {}).items()},
        submitting_until=_optional_time(document.get("submitting_until")),
        flow=document.get("flow") or {},
        admin_meta=document.get("admin_meta") or {},
        error=document.get("error"),
        admin_error=document.get("admin_error"),
        traceback=document.get("traceback"),
        logpath=document.get("logpath"),
        cpu_hours=document.get("cpu_hours"),
        cpu_factor=document.get("cpu_factor"),
        max_memory=document.get("max_memory"),
        output_file_count=document.get("output_file_count"),
        cleaned=bool(document.get("cleaned")),
    )


def decode_container(document: Mapping[str, Any]) -> ContainerRecord:
    """The container of a document of the `containers` collection."""
    lost = document.get("lost") or {}
    outputs = document.get("outputs")
    return ContainerRecord(
        job_id=document["job"],
        number=document["n"],
        state=JobState(document["state"]),
        attempt=document["attempt"],
        reached={
            JobState(state): Reached(from_millis(r["time"]), from_millis(r["at"]))
            for state, r in document["reached"].items()
        },
        run=document.get("run", document["attempt"]),
        lost=tuple(
            LostAttempt(int(n), from_millis(lost[n]["at"]), lost[n]["why"], bool(lost[n].get("blameless")))
            for n in sorted(lost, key=int)
        ),
        claim=document.get("claim"),
        seen=_optional_time(document.get("seen")),
        progress=Progress(**told) if (told := document.get("progress")) else None,
        ending=document.get("ending"),
        exit_code=document.get("exit_code"),
        error=document.get("error"),
        admin_error=document.get("admin_error"),
        traceback=document.get("traceback"),
        usage=Usage(
            document.get("cpu_seconds"),
            document.get("wall_seconds"),
            document.get("max_memory"),
        ),
        outputs=None if outputs is None else OutputFiles(outputs["files"], outputs["crc64nvmes"]),
    )


def _optional_time(millis: int | None) -> datetime.datetime | None:
    return from_millis(millis) if millis else None


def encode_reached(reached: Reached) -> Document:
    """The times at which a container reached a state, as a document."""
    return {"time": to_millis(reached.time), "at": to_millis(reached.at)}
