"""What is asked of a site that keeps reference data, in the forms that `cdmtaskservice.executor.remote` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cdmtaskservice.domain.refdata import RefdataRecord, StagingRecord
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.sites.tasks import Plan, TaskPlace

_SLOWEST = 5_000_000
"""Bytes a second at which data must come, and be unpacked."""
_LARGEST_RATIO = 4
"""How much larger than its archive data is taken to be."""

STAGE, REMOVE, COPY = "refdata", "remove", "copy"
"""Kinds of tasks. The last one is no remote code: JAWS is asked to copy what lies at NERSC to another site."""


@dataclass(frozen=True)
class StagingLimits:
    """connections: ranges that come at once. piece_size: bytes of a range. patience: seconds without a byte.

    max_files, max_bytes: of what is unpacked.
    """

    connections: int
    piece_size: int
    patience: float
    max_files: int
    max_bytes: int


class RefdataPlace(TaskPlace, Protocol):
    """Where the tasks for a site's reference data are done."""

    @property
    def copies(self) -> bool:
        """Whether what is staged, or removed, must then be copied to the site."""
        ...

    def root(self) -> str:
        """The directory that holds the data, each below its ID, where the tasks are done."""
        ...

    async def require_up(self) -> None:
        """Raises: SiteUnreachableError where no task should be begun now."""
        ...


def stage(refdata: RefdataRecord, root: str, url: str, limits: StagingLimits) -> Plan:
    """How a file comes from S3 to its place, unpacked. url: a presigned GET of it."""
    return {
        "root": root,
        "id": refdata.id,
        "file": refdata.file,
        "url": url,
        "size": refdata.size,
        "crc64nvme": refdata.crc64nvme,
        "unpack": refdata.archive_format,
        "connections": limits.connections,
        "piece_size": limits.piece_size,
        "patience": limits.patience,
        "max_files": limits.max_files,
        "max_bytes": limits.max_bytes,
        "time_limit": time_limit(refdata, limits.patience),
    }


def clean(refdata_id: str, root: str) -> Plan:
    """What staging has left is removed, and not the data."""
    return {"trees": [{"root": f"{root}/.cts/incoming", "name": refdata_id, "lock": True}], "expired": []}


def remove(staging: StagingRecord, root: str) -> Plan:
    """The data of a staging is removed, and all that belongs to it. If it is complete, then it must be known there."""
    name = staging.refdata_id
    complete = staging.state is RefdataState.COMPLETE
    return {
        "manifests": [{"root": f"{root}/.cts/manifests", "name": name, "required": complete}],
        "trees": [*clean(name, root)["trees"], {"root": root, "name": name}],
        "expired": [],
    }


def time_limit(refdata: RefdataRecord, patience: float) -> float:
    """Seconds after which one try is ended, whatever it does."""
    work = 1 + _LARGEST_RATIO if refdata.unpack else 1
    return 2 * patience + work * refdata.size / _SLOWEST
