"""`send`: files that `collect` has found, to where the service says.

Plan: `files`, each with `root`, `path`, `size`, `crc64nvme`, `parts` as `collect` told them, and `upload`: its
presigned `url` and `headers`, or `upload_id` and `parts`, each with `url` and `headers`; `part_size`, `connections`,
`patience` (seconds without an answer), `roots` (directories that are never empty).
Result: `parts`, for every file in its order the ETags of its parts, or null where it went as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checksum import decoded
from ..failures import ABSENT, ContainerFailure
from ..fence import Fence
from ..outputs import look
from ..reporting import Progress
from ..upload import Pending, Source, Uploads
from .task import Task, require_mounted


def work(task: Task) -> Mapping[str, object]:
    """Send the files of the task's plan."""
    task.stop.check()
    plan = task.plan
    try:
        pending = [_pending(file) for file in plan["files"]]
    except ContainerFailure as failure:
        if failure.again == ABSENT:
            require_mounted(plan["roots"])
        raise
    uploads = Uploads(
        _Planned([{"file": f["path"], **f["upload"]} for f in plan["files"]]),
        Progress(),
        plan["part_size"],
        max(1, len(pending)),
        plan["patience"],
        plan["connections"],
        task.log,
    )
    uploads.send_pending(pending, task.stop)
    return {"parts": [[p.etags[n] for n in range(len(p.pieces))] if p.in_parts else None for p in pending]}


def _pending(file: Mapping[str, Any]) -> Pending:
    output = look(file["root"], file["path"])
    if output.size != file["size"]:
        raise ContainerFailure(
            f"The output {file['path']} changed after the container was over.",
            f"{file['root']}/{file['path']} has {output.size} bytes now, and had {file['size']}",
        )
    parts = file["parts"] or [{"size": file["size"], "crc64nvme": file["crc64nvme"]}]
    pieces, offset = [], 0
    for part in parts:
        pieces.append((offset, part["size"], decoded(part["crc64nvme"])))
        offset += part["size"]
    return Pending(Source(file["root"], output), pieces, in_parts=file["parts"] is not None)


class _Planned:
    """Stands for the service: all uploads are in the plan, and only what is left of them is asked for."""

    def __init__(self, slots: Sequence[Mapping[str, Any]]) -> None:
        self.fence = Fence()
        self._slots = {slot["file"]: slot for slot in slots}

    def uploads(
        self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]
    ) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        return [self._slots[str(f["path"])] for f in files], []

    def complete_uploads(self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]) -> None:
        """The service does, once it has the result."""
