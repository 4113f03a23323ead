"""What the service tells administrators."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from cdmtaskservice.client.models import Job, OutputFile, RefdataStatus, ReferenceData, Transition
from cdmtaskservice.client.reading import Model


@dataclass(frozen=True, kw_only=True)
class AdminTransition(Transition):
    """A transition with its message. notif_sent: whether the broker has acknowledged it."""

    trans_id: str
    notif_sent: bool


@dataclass(frozen=True, kw_only=True)
class AdminJob(Job):
    """A job as administrators see it. cleaned: whether its files were removed from the site.

    htcondor_details, jaws_details, nersc_details: IDs at the engine, one entry an attempt.
    """

    transition_times: tuple[AdminTransition, ...]
    admin_error: str | None = None
    traceback: str | None = None
    cleaned: bool = False
    htcondor_details: Mapping[str, tuple[int | str, ...]] | None = None
    jaws_details: Mapping[str, tuple[str, ...]] | None = None
    nersc_details: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class LostAttempt(Model):
    """An attempt at a container that came to no result."""

    attempt: int
    time: datetime.datetime
    why: str


@dataclass(frozen=True, kw_only=True)
class SubJob(Model):
    """A container. id: the job's; sub_id: the container's number. attempt: where it is not the first one."""

    id: str
    sub_id: int
    state: str
    transition_times: tuple[Transition, ...] = ()
    exit_code: int | None = None
    outputs: tuple[OutputFile, ...] | None = None
    admin_error: str | None = None
    traceback: str | None = None
    attempt: int = 1
    lost_attempts: tuple[LostAttempt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RefdataTransfer(Model):
    """How far a transfer has come. bytes_per_second: lately. time: when this was so."""

    phase: str
    percent: float
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    files_done: int
    bytes_unpacked: int
    time: datetime.datetime


@dataclass(frozen=True, kw_only=True)
class AdminRefdataStatus(RefdataStatus):
    """Reference data at one site, as administrators see it. files, bytes: of the data, once it is staged."""

    cleaned: bool = False
    nersc_download_task_id: tuple[str, ...] = ()
    admin_error: str | None = None
    traceback: str | None = None
    waiting: str | None = None
    progress: RefdataTransfer | None = None
    files: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class AdminReferenceData(ReferenceData):
    """Reference data as administrators see it. size: bytes of the file in S3."""

    size: int | None = None
    statuses: tuple[AdminRefdataStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unsent(Model):
    """What was published because it was overdue."""

    jobs: int
    transitions: int


@dataclass(frozen=True, kw_only=True)
class NerscClient(Model):
    """The client of NERSC's Superfacility API with which the service works."""

    id: str
    expires_at: datetime.datetime
    expires_in: datetime.timedelta
