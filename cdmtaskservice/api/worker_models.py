"""What executors are answered, for the OpenAPI document and for tests. Here fields without a value are null."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of what is sent."""

    model_config = ConfigDict(extra="forbid")


class Refdata(Answer):
    """Reference data that the worker has."""

    id: str
    mount_point: str


class Limits(Answer):
    """Hard limits of the container."""

    cpus: int
    memory: int = Field(description="Bytes")
    runtime: float = Field(description="Seconds")
    gpus: int
    pids: int


class Input(Answer):
    """An input file to download."""

    file: str
    path: str = Field(description="Below the input mount point")
    url: str = Field(description="A presigned GET")
    size: int
    crc64nvme: str


class Manifest(Answer):
    """A file to write below the input mount point."""

    path: str
    content: str


class UploadLimits(Answer):
    """part_size in bytes; batch: files in one call for uploads."""

    part_size: int
    batch: int


class WorkOrder(Answer):
    """Everything that an executor needs for one attempt of a container."""

    job_id: str
    container_number: int
    attempt: int
    token: str = Field(description="Serves for this job, container and attempt only")
    token_expires: AwareDatetime
    image: str = Field(description="By digest")
    args: list[str]
    environment: dict[str, str]
    input_mount_point: str
    output_mount_point: str
    refdata: Refdata | None
    limits: Limits
    network: bool = Field(description="Whether the container may use the network")
    inputs: list[Input]
    manifest: Manifest | None
    upload: UploadLimits
    heartbeat_interval: float = Field(description="Seconds")
    silence_limit: float = Field(
        description="Seconds without an answered call after which nothing may be written to S3 until one is answered"
    )


class HeartbeatAnswer(Answer):
    """Whether to stop, and from where on somebody follows the logs, by stream."""

    stop: bool
    reason: str | None = None
    logs: dict[Literal["stdout", "stderr"], int] | None = None


class PresignedPart(Answer):
    """Where one part goes."""

    url: str
    headers: dict[str, str]


class _Presigned(Answer):
    file: str
    url: str | None
    headers: dict[str, str]
    upload_id: str | None
    parts: list[PresignedPart] | None


class PresignedFile(_Presigned):
    """Where an output goes."""

    path: str


class PresignedLog(_Presigned):
    """Where a log goes."""

    stream: Literal["stdout", "stderr"]


class Uploads(Answer):
    """Presigned uploads, in the order of the request."""

    files: list[PresignedFile]
    logs: list[PresignedLog]


class FreshInput(Answer):
    """A fresh presigned GET."""

    file: str
    url: str


class FreshInputs(Answer):
    """Fresh presigned GETs."""

    inputs: list[FreshInput]


class RefdataOrder(Answer):
    """One task of a reference data service."""

    refdata_id: str
    task: str = Field(description="Its name, which is never used again for this reference data at this site")
    kind: Literal["refdata", "remove"]
    plan: dict[str, Any] = Field(description="For `python -m cdmtaskservice.executor.remote KIND`, see its modules")


class RefdataWork(Answer):
    """What a reference data service is to do, what it has begun included."""

    work: list[RefdataOrder]
    report_interval: float = Field(description="Seconds between two signs of life")


class RefdataProgressAnswer(Answer):
    """Whether to stop."""

    stop: bool
