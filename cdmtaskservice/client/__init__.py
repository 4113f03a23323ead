"""A client of the CDM Task Service, for scripts and notebooks: docs/client.md.

`Client` waits for each answer, `AsyncClient` is the same for asyncio. Neither needs anything of the service's own code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cdmtaskservice.client.admin_models import (
    AdminJob,
    AdminRefdataStatus,
    AdminReferenceData,
    AdminTransition,
    LostAttempt,
    NerscClient,
    RefdataTransfer,
    SubJob,
    Unsent,
)
from cdmtaskservice.client.errors import (
    AuthenticationError,
    ChecksumMismatch,
    Conflict,
    CTSError,
    DownloadError,
    FileExists,
    InvalidRequest,
    InvalidState,
    JobNotOver,
    LifetimeTooShort,
    NoLogs,
    NoSuchContainer,
    NoSuchFile,
    NoSuchImage,
    NoSuchJob,
    NoSuchReferenceData,
    NotConfigured,
    NotFound,
    ResourceUnavailable,
    ServiceError,
    ServiceUnreachable,
    SiteUnavailable,
    TooManyRequests,
    Unauthorized,
    UnexpectedReply,
    Unsupported,
    WaitTimeout,
)
from cdmtaskservice.client.events import ContainersEvent, EndEvent, Event, StateEvent, WaitingEvent
from cdmtaskservice.client.following import LogChunk
from cdmtaskservice.client.job_input import AcceptedInput, InputFile, JobInput, Parameter, Parameters
from cdmtaskservice.client.models import (
    TERMINAL_STATES,
    AllowedPath,
    Container,
    DryRun,
    Example,
    Image,
    Job,
    JobImage,
    JobPreview,
    JobStatus,
    Manifest,
    OutputFile,
    RefdataStatus,
    ReferenceData,
    Site,
    Transition,
    WhoAmI,
)
from cdmtaskservice.client.profile import Profile, load_profile, remove_profile, save_profile

if TYPE_CHECKING:
    from cdmtaskservice.client.aio import AsyncClient
    from cdmtaskservice.client.blocking import Client

__all__ = [
    "TERMINAL_STATES",
    "AcceptedInput",
    "AdminJob",
    "AdminRefdataStatus",
    "AdminReferenceData",
    "AdminTransition",
    "AllowedPath",
    "AsyncClient",
    "AuthenticationError",
    "CTSError",
    "ChecksumMismatch",
    "Client",
    "Conflict",
    "Container",
    "ContainersEvent",
    "DownloadError",
    "DryRun",
    "EndEvent",
    "Event",
    "Example",
    "FileExists",
    "Image",
    "InputFile",
    "InvalidRequest",
    "InvalidState",
    "Job",
    "JobImage",
    "JobInput",
    "JobNotOver",
    "JobPreview",
    "JobStatus",
    "LifetimeTooShort",
    "LogChunk",
    "LostAttempt",
    "Manifest",
    "NerscClient",
    "NoLogs",
    "NoSuchContainer",
    "NoSuchFile",
    "NoSuchImage",
    "NoSuchJob",
    "NoSuchReferenceData",
    "NotConfigured",
    "NotFound",
    "OutputFile",
    "Parameter",
    "Parameters",
    "Profile",
    "RefdataStatus",
    "RefdataTransfer",
    "ReferenceData",
    "ResourceUnavailable",
    "ServiceError",
    "ServiceUnreachable",
    "Site",
    "SiteUnavailable",
    "StateEvent",
    "SubJob",
    "TooManyRequests",
    "Transition",
    "Unauthorized",
    "UnexpectedReply",
    "Unsent",
    "Unsupported",
    "WaitTimeout",
    "WaitingEvent",
    "WhoAmI",
    "load_profile",
    "remove_profile",
    "save_profile",
]

_LAZY = {"AsyncClient": "aio", "Client": "blocking"}
"""What httpx is imported for, which takes longer than all the rest."""


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
