"""Reference data: files that are registered once, and staged at sites for the images that need them.

What is kept of one at one site is its *staging*. All times are the service's, aware UTC with millisecond precision.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import RefdataState

_FORMATS: Sequence[tuple[str, str]] = (
    (".tar.gz", "tar.gz"),
    (".tgz", "tar.gz"),
    (".tar.zst", "tar.zst"),
    (".gz", "gz"),
    (".zip", "zip"),
)
"""By the end of a file's name how it is unpacked. The first that fits counts."""


def archive_format(file: str) -> str:
    """How a file is unpacked, by its name. Raises: IllegalParameterError for one that cannot be."""
    name = file.rpartition("/")[2]
    for suffix, form in _FORMATS:
        if name.endswith(suffix) and name != suffix:
            return form
    raise IllegalParameterError(
        f"unpack: {name!r} is no archive that can be unpacked; its name must end with "
        f"{', '.join(suffix for suffix, _ in _FORMATS)}, or register it without unpack"
    )


@dataclass(frozen=True, slots=True)
class RefdataRecord:
    """Reference data. size: bytes of the file in S3.

    retiring: names the request that is about to retire it, None where there is none; nothing new may come to need it
    meanwhile. retired_on: from then on it may be removed everywhere.
    """

    id: str
    file: str
    crc64nvme: str
    size: int
    unpack: bool
    registered_by: str
    registered_on: datetime.datetime
    retiring: str | None = None
    retired_by: str | None = None
    retired_on: datetime.datetime | None = None

    @property
    def is_current(self) -> bool:
        """Whether images and jobs may come to need it."""
        return self.retiring is None and self.retired_on is None

    @property
    def archive_format(self) -> str | None:
        """How it is unpacked; None for not at all."""
        return archive_format(self.file) if self.unpack else None


@dataclass(frozen=True, slots=True)
class StagingTransition:
    """One state change of a staging."""

    state: RefdataState
    time: datetime.datetime


@dataclass(frozen=True, slots=True)
class StagingProgress:
    """How far the transfer of a staging has come.

    phase: `downloading`, `unpacking` or `finishing`. done, total: bytes of the file in S3. unpacked: bytes of `files`
    files that are written. at: when this was so. rate: bytes a second of the file, lately.
    """

    phase: str
    done: int
    total: int
    files: int
    unpacked: int
    at: datetime.datetime
    rate: float = 0.0

    @property
    def percent(self) -> float:
        """Of the file that has come, 0 to 100."""
        return 100.0 * min(self.done, self.total) / self.total if self.total else 0.0

    def after(self, before: StagingProgress | None, begun: datetime.datetime) -> StagingProgress:
        """The same with its rate: against what was known before of the same transfer, or since it was begun."""
        if before is None or self.done < before.done:
            seconds = (self.at - begun).total_seconds()
            return replace(self, rate=self.done / seconds if seconds > 0 else 0.0)
        seconds = (self.at - before.at).total_seconds()
        if seconds <= 0:
            return replace(self, rate=before.rate)
        lately = (self.done - before.done) / seconds
        # Half of it is the past, so that one slow second is no stop.
        return replace(self, rate=(lately + before.rate) / 2 if before.rate else lately)


@dataclass(frozen=True, slots=True)
class Errand:
    """What the reference data service of a site is asked to do for a staging.

    task: its name, which is never used again. kind: of remote code. claim: who does it, None while nobody has come.
    seen: the last sign of life of that one, or since when the errand waits. outcome: how it ended, None while it goes
    on. unwanted: it is to be stopped.
    """

    task: str
    kind: str
    seen: datetime.datetime
    claim: str | None = None
    outcome: Mapping[str, Any] | None = None
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class StagingRecord:
    """Reference data at one site.

    next_look, failures, waiting, told, flow and handles: as of a job.
    round: how often an administrator has begun it anew. cleaning: an administrator wants its leftovers removed, which
    they are once `cleaned`. removed_on: when the data was removed, after it was retired.
    news: counts what others than looks have written that a look must see.
    files, unpacked: how many files the data is, and their bytes, once it is staged.
    """

    refdata_id: str
    site: str
    state: RefdataState
    transitions: Sequence[StagingTransition]
    next_look: datetime.datetime | None = None
    failures: int = 0
    waiting: str | None = None
    told: str | None = None
    flow: Mapping[str, Any] = field(default_factory=dict)
    handles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    round: int = 0
    cleaning: bool = False
    cleaned: bool = False
    removed_on: datetime.datetime | None = None
    error: str | None = None
    admin_error: str | None = None
    traceback: str | None = None
    progress: StagingProgress | None = None
    errand: Errand | None = None
    news: int = 0
    files: int | None = None
    unpacked: int | None = None

    @property
    def id(self) -> str:
        """Names it among all stagings."""
        return staging_id(self.refdata_id, self.site)

    @property
    def is_over(self) -> bool:
        """Whether it moves on only when an administrator wants it to."""
        return self.state in {RefdataState.COMPLETE, RefdataState.ERROR}

    def overtakes(self, earlier: StagingRecord) -> bool:
        """Whether an administrator has asked for something since, which must not wait."""
        return (self.round, self.cleaning) != (earlier.round, earlier.cleaning)


@dataclass(frozen=True, slots=True)
class RefdataMount:
    """Reference data that a container finds at a mount point."""

    id: str
    mount_point: str


def refdata_of(job: JobRecord) -> RefdataMount | None:
    """The reference data of a job's containers; the job's own mount point goes before the image's. None for none."""
    mount_point = job.input["params"].get("refdata_mount_point") or job.image.default_refdata_mount_point
    if job.image.refdata_id is None or mount_point is None:
        return None
    return RefdataMount(job.image.refdata_id, mount_point)


def staging_id(refdata_id: str, site: str) -> str:
    """The ID of the staging of reference data at a site."""
    return f"{refdata_id}@{site}"
