"""What replies look like, for the OpenAPI document and for tests.

Replies are written by `views` without going through these, which would cost more than all else; tests hold the two
together. A field that may be None here is one that is left out, never null.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from cdmtaskservice.domain.jobs import JobInput, JobInputPreview
from cdmtaskservice.domain.parameters import StrictModel, check_text
from cdmtaskservice.domain.states import JobState, RefdataState

Left = SkipJsonSchema[None]
"""The second half of `T | Left`: the field may be left out."""


def _without_null_defaults(schema: dict[str, Any]) -> None:
    for field in schema.get("properties", {}).values():
        if field.get("default", 0) is None:
            del field["default"]


class Reply(BaseModel):
    """Base of what is sent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null_defaults)


class ErrorDetail(Reply):
    """What went wrong."""

    httpcode: int = Field(examples=[400])
    httpstatus: str = Field(examples=["Bad Request"])
    time: AwareDatetime
    request_id: str = Field(description="Name it when asking the administrators")
    message: str
    appcode: int | Left = Field(default=None, description="The kind of error", examples=[30001])
    apperror: str | Left = Field(default=None, examples=["Illegal input parameter"])
    request_validation_detail: list[dict[str, Any]] | Left = Field(
        default=None, description="Every fault of the request, the first 100 of them"
    )


class ErrorReply(Reply):
    """Every answer with a status of 400 or more."""

    error: ErrorDetail


class Root(Reply):
    """The service."""

    service_name: Literal["CDM Task Service"]
    version: str
    git_hash: str
    server_time: AwareDatetime
    notes: str


class AllowedPath(Reply):
    """A place in S3."""

    path: str
    perm: Literal["write"]


class WhoAmI(Reply):
    """The user of a token."""

    user: str
    roles: list[Literal["full_admin"]] | Left = Field(default=None, description="Where they have any")
    allowed_paths: list[AllowedPath] = Field(description="Where inputs may be read and outputs be written")


class Site(Reply):
    """A place where jobs run."""

    cluster: str
    nodes: int
    cpus_per_node: int
    memory_per_node_gb: int = Field(description="In units of 10⁹ bytes, rounded down")
    max_runtime_min: int = Field(description="In minutes, rounded down")
    gpus_per_node: int | Left = Field(default=None, description="Where there are any")
    notes: list[str]
    active: bool = Field(description="Whether administrators have opened the site")
    available: bool = Field(description="Whether the site answers now")
    unavailable_reason: str | Left = None


class Sites(Reply):
    """All sites."""

    sites: list[Site]


class JobId(Reply):
    """An accepted job."""

    job_id: str


class Manifest(Reply):
    """A file that a container is given beside its inputs."""

    path: str = Field(description="Below the input mount point")
    content: str


class JobExample(Reply):
    """What one container is started with."""

    container_number: int
    args: list[str] = Field(description="To the image's entrypoint")
    environment: dict[str, str]
    input_files: list[str] = Field(description="Below the input mount point, the first 100 of them")
    manifest: Manifest | Left = Field(
        default=None, description="The file that lists the inputs, where one is asked for"
    )


class TransitionTime(Reply):
    """When a state was entered."""

    state: JobState
    time: AwareDatetime


class AdminTransitionTime(TransitionTime):
    """The same with its notification."""

    trans_id: str = Field(description="The ID of the transition's message")
    notif_sent: bool = Field(description="Whether the broker has acknowledged the message")


class JobStatus(Reply):
    """How far a job is."""

    id: str
    user: str
    state: JobState
    transition_times: list[TransitionTime]
    admin_meta: dict[str, str | int | float] = Field(description="What administrators noted")


class JobImage(Reply):
    """The image that a job runs."""

    name: str
    digest: str
    tag: str | Left = None
    entrypoint: list[str]
    refdata_id: str | Left = None
    default_refdata_mount_point: str | Left = None
    registered_by: str
    registered_on: AwareDatetime


class Image(JobImage):
    """An approved image."""

    urls: list[str] | Left = None
    usage_notes: str | Left = None


class Images(Reply):
    """Approved images."""

    data: list[Image]


class RefdataTransitionTime(Reply):
    """When a state was entered."""

    state: RefdataState
    time: AwareDatetime


class RefdataStatus(Reply):
    """Reference data at one site."""

    cluster: str
    state: RefdataState
    transition_times: list[RefdataTransitionTime]
    error: str | Left = None
    removed_on: AwareDatetime | Left = Field(default=None, description="When it was removed, after it was retired")


class RefdataTransfer(Reply):
    """How far a transfer has come."""

    phase: str
    percent: float = Field(description="Of the file that has come")
    bytes_done: int
    bytes_total: int
    bytes_per_second: float = Field(description="Lately")
    files_done: int = Field(description="Files that are unpacked")
    bytes_unpacked: int
    time: AwareDatetime = Field(description="When this was so")


class AdminRefdataStatus(RefdataStatus):
    """The same with what only administrators see."""

    cleaned: bool = Field(description="Whether nothing is left of staging but the data")
    nersc_download_task_id: list[str] = Field(description="Tasks at NERSC, one entry a try")
    admin_error: str | Left = None
    traceback: str | Left = None
    waiting: str | Left = Field(default=None, description="Why it does not go on")
    progress: RefdataTransfer | Left = None
    files: int | Left = Field(default=None, description="How many files it is, once it is staged")
    bytes: int | Left = Field(default=None, description="And how many bytes")


class _ReferenceData(Reply):
    id: str
    file: str
    crc64nvme: str
    unpack: bool
    registered_by: str
    registered_on: AwareDatetime
    retired_by: str | Left = None
    retired_on: AwareDatetime | Left = Field(default=None, description="From then on it can be used no more")


class ReferenceData(_ReferenceData):
    """Reference data, and its state at each site."""

    statuses: list[RefdataStatus]


class AllReferenceData(Reply):
    """Reference data."""

    data: list[ReferenceData]


class AdminReferenceData(_ReferenceData):
    """Reference data, and what there is to know of it at each site."""

    size: int = Field(description="Bytes of the file in S3")
    statuses: list[AdminRefdataStatus]


class AllAdminReferenceData(Reply):
    """Reference data."""

    data: list[AdminReferenceData]


class JobPreview(JobStatus):
    """A job without its files."""

    job_input: JobInputPreview
    image: JobImage
    input_file_count: int
    output_file_count: int | Left = None
    cpu_hours: float | Left = Field(default=None, description="CPU time that the containers used, in hours")
    cpu_factor: float | Left = Field(default=None, description="CPU time ÷ (requested CPUs × wall time)")
    max_memory: int | Left = Field(default=None, description="Bytes that the largest container used")
    error: str | Left = None
    logpath: str | Left = None


class DryRun(Reply):
    """A submission that would be accepted now. Nothing was stored."""

    dry_run: Literal[True]
    job_input: JobInputPreview = Field(description="The request with its defaults filled in")
    image: JobImage
    input_file_count: int
    input_bytes: int
    cpu_hours: float = Field(description="The most CPU hours that the job can use")
    containers: int
    example: JobExample
    warnings: list[str] = Field(description="What is allowed and may not be meant, a sentence each")


class JobList(Reply):
    """Jobs, newest state change first."""

    jobs: list[JobPreview]
    next_cursor: str | Left = Field(default=None, description="Where the next page begins, if there may be one")


class OutputFile(Reply):
    """A file that a container wrote."""

    file: str
    crc64nvme: str


class Job(JobPreview):
    """A job with its files."""

    job_input: JobInput
    outputs: list[OutputFile]
    waiting: str | Left = Field(default=None, description="Why the job does not move on, where something holds it up")


class AdminJobDetails(Job):
    """A job as administrators see it."""

    transition_times: list[AdminTransitionTime]  # type: ignore[assignment]
    admin_error: str | Left = None
    traceback: str | Left = None
    cleaned: bool = Field(description="Whether the job's files were removed from the site")
    htcondor_details: dict[str, list[int | str]] | Left = None
    jaws_details: dict[str, list[str]] | Left = None
    nersc_details: dict[str, list[str]] | Left = None


class ExitCodes(Reply):
    """Exit codes by container number, null where a container has none yet."""

    exit_codes: list[int | None]


class Container(Reply):
    """One container, as the job's owner sees it."""

    container_number: int
    state: JobState = Field(description="`canceled` where the job is canceled and the container came to no end before")
    attempt: int
    time: AwareDatetime = Field(description="Of the last change of its state")
    exit_code: int | Left = None
    error: str | Left = None
    phase: str | Left = Field(
        default=None, description="`downloading`, `pulling`, `running` or `uploading`, where the executor tells"
    )
    bytes_done: int | Left = Field(default=None, description="Of that phase, where it moves any")
    bytes_total: int | Left = None
    cpu_seconds: float | Left = None
    wall_seconds: float | Left = None
    max_memory: int | Left = Field(default=None, description="Bytes")


class Containers(Reply):
    """All containers of a job, by number."""

    containers: list[Container]


class JobFile(Reply):
    """A file of a job."""

    file: str
    crc64nvme: str
    size: int | Left = Field(default=None, description="Bytes; of inputs")
    url: str = Field(description="A presigned GET, good for a while. Whoever has it can read the file.")


class JobFiles(Reply):
    """Some of a job's files."""

    files: list[JobFile]
    total: int = Field(description="Of all such files of the job")
    next_offset: int | Left = Field(default=None, description="Where the next page begins, if there is one")


class LostAttempt(Reply):
    """An attempt at a container that came to no result."""

    attempt: int
    time: AwareDatetime
    why: str


class SubJob(Reply):
    """One container."""

    id: str = Field(description="The job's ID")
    sub_id: int = Field(description="The container's number")
    state: JobState
    transition_times: list[TransitionTime] = Field(description="By the worker's clock where the worker reported them")
    exit_code: int | Left = None
    outputs: list[OutputFile] | Left = None
    admin_error: str | Left = None
    traceback: str | Left = None
    attempt: int | Left = Field(default=None, description="Where it is not the first one")
    lost_attempts: list[LostAttempt] | Left = Field(default=None, description="Those before it")


class SubJobs(Reply):
    """All containers of a job."""

    subjobs: list[SubJob]


class Unsent(Reply):
    """What was published because it was overdue."""

    jobs: int
    transitions: int


class NerscClient(Reply):
    """The client of NERSC's Superfacility API with which the service works."""

    id: str
    expires_at: AwareDatetime
    expires_in: Annotated[str, Field(json_schema_extra={"format": "duration"}, examples=["P1DT3H"])]


class Alive(Reply):
    """The process serves requests."""

    status: Literal["alive"]


class Dependency(Reply):
    """Something that the service needs."""

    name: str
    ok: bool
    required: bool = Field(description="Whether the service is not ready without it")
    detail: str | Left = Field(default=None, description="Why not; for administrators")


class Readiness(Reply):
    """Whether the service can do its work."""

    ready: bool
    dependencies: list[Dependency]


_MAX_INTEGER = 2**63 - 1  # what the store holds


def _check_key(key: str) -> str:
    check_text(key)
    if "." in key or key.startswith("$"):
        raise ValueError("a key may neither have a '.' nor start with '$'")
    return key


def _check_value(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a value must be a text or a number")
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError(f"an integer must be between -{_MAX_INTEGER} and {_MAX_INTEGER}")
    if not math.isfinite(value):
        raise ValueError("a number must be finite")
    return value


_Key = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_check_key)]
_Value = Annotated[Annotated[str, Field(max_length=10_000)] | int | float, BeforeValidator(_check_value)]


class MetaUpdate(StrictModel):
    """The body of `PUT /admin/jobs/{id}/meta`: at least one key in all, and no key in both."""

    set_fields: dict[_Key, _Value] = Field(default={}, max_length=100, examples=[{"ticket": "CTS-1"}])
    unset_keys: list[_Key] = Field(default=[], max_length=100)

    @field_validator("set_fields", "unset_keys", mode="before")
    @classmethod
    def _null_is_none(cls, value: object, info: Any) -> object:
        if value is None:
            return {} if info.field_name == "set_fields" else []
        return value
