"""What executors send: the bodies of their calls, as docs/executor-protocol.md has them.

Everything has a bound. Words about a failure are the exception: a report of an error must arrive whatever it says, so
they are cut and cleaned, never refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Base64Bytes, BeforeValidator, Field

from cdmtaskservice.domain.parameters import StrictModel, check_text
from cdmtaskservice.domain.quantities import UtcTime
from cdmtaskservice.domain.s3_paths import S3Path, check_output_path

MAX_FILES = 10_000
"""Of files in one call, and of parts in one upload, which is also S3's own limit."""
MAX_WORDS = 20_000
"""Characters that are kept of each text about a failure."""

MAX_PIECE = 1 << 18
"""Bytes of a log that one heartbeat may carry."""

_MAX_INTEGER = 2**63 - 1  # what the store holds
_MAX_OFFSET = 2**53
_CUT = "\n… cut here …\n"


def cut_words(value: object) -> object:
    """Words about a failure as they can be stored: what is not Unicode replaced, the middle left out of a long text.

    Beginning and end are kept, since the one says what was tried and the other what went wrong. Anything that is no
    text is returned as it is, for the model to refuse.
    """
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) <= MAX_WORDS:
        return text
    half = (MAX_WORDS - len(_CUT)) // 2
    return f"{text[:half]}{_CUT}{text[-half:]}"


Words = Annotated[str, BeforeValidator(cut_words)]
_Crc64Nvme = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{11}=$", examples=["S8AXmd7A3f8="])]
_Size = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
_Path = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(check_output_path)]
_Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Opaque = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(check_text)]
_Stream = Literal["stdout", "stderr"]


class OutputFile(StrictModel):
    """An output file in S3."""

    file: S3Path
    crc64nvme: _Crc64Nvme


class UsageReport(StrictModel):
    """What a container used: CPU and wall time in seconds, its peak of memory in bytes."""

    cpu_seconds: _Seconds | None = None
    wall_seconds: _Seconds | None = None
    max_memory: _Size | None = None


class ContainerUpdate(StrictModel):
    """The body of `PUT /update/{state}`."""

    time: UtcTime = Field(description="The worker's clock, with a timezone")
    exit_code: int | None = Field(
        default=None,
        ge=-(2**31),
        le=2**32 - 1,
        description="For `upload_submitting` and `error_processing_submitting`",
    )
    usage: UsageReport | None = Field(default=None, description="With the exit code")
    outputs: tuple[OutputFile, ...] | None = Field(
        default=None, max_length=MAX_FILES, description="For `complete`: every output file"
    )
    error: Words | None = Field(default=None, description="What went wrong, for the job's owner")
    admin_error: Words | None = Field(default=None, description="The same in full, for administrators")
    traceback: Words | None = None


class WorkRequest(StrictModel):
    """The body of `POST /work`."""

    claim: str = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="Chosen once by the executor process, so that a repeated request gets the same work order",
    )
    attempt: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The attempt that the executor was launched for; left out where the engine restarts executors",
    )
    run: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Instead of `attempt`: the engine's run that the executor belongs to, whatever attempt it is",
    )


class LogPiece(StrictModel):
    """Some bytes of a log."""

    stream: _Stream
    offset: int = Field(ge=0, le=_MAX_OFFSET, description="Of the first byte, from the log's beginning")
    data: Annotated[Base64Bytes, Field(min_length=1, max_length=MAX_PIECE)]


class Heartbeat(StrictModel):
    """The body of `POST /heartbeat`."""

    phase: Literal["downloading", "pulling", "running", "uploading"]
    bytes_done: _Size = 0
    bytes_total: _Size = 0
    ending: Words | None = Field(
        default=None,
        description="Why the engine told the executor to end, once it has stopped its container: the attempt is over",
    )
    logs: tuple[LogPiece, ...] = Field(
        default=(), max_length=2, description="What the answer to the heartbeat before asked for"
    )


class PartToUpload(StrictModel):
    """One part of a large file."""

    size: _Size
    crc64nvme: _Crc64Nvme


class _ToUpload(StrictModel):
    size: _Size
    crc64nvme: _Crc64Nvme
    parts: tuple[PartToUpload, ...] | None = Field(default=None, min_length=1, max_length=MAX_FILES)


class FileToUpload(_ToUpload):
    """An output file, by its path below the output mount point."""

    path: _Path


class LogToUpload(_ToUpload):
    """A log."""

    stream: _Stream


class UploadsRequest(StrictModel):
    """The body of `POST /uploads`."""

    files: tuple[FileToUpload, ...] = Field(default=(), max_length=MAX_FILES)
    logs: tuple[LogToUpload, ...] = Field(default=(), max_length=2)


class _Uploaded(StrictModel):
    crc64nvme: _Crc64Nvme
    upload_id: _Opaque
    etags: tuple[_Opaque, ...] = Field(min_length=1, max_length=MAX_FILES)


class UploadedFile(_Uploaded):
    """A file all of whose parts are uploaded."""

    path: _Path


class UploadedLog(_Uploaded):
    """A log all of whose parts are uploaded."""

    stream: _Stream


class UploadsComplete(StrictModel):
    """The body of `POST /uploads/complete`."""

    files: tuple[UploadedFile, ...] = Field(default=(), max_length=MAX_FILES)
    logs: tuple[UploadedLog, ...] = Field(default=(), max_length=2)


class InputsRequest(StrictModel):
    """The body of `POST /inputs`."""

    files: tuple[S3Path, ...] = Field(min_length=1, max_length=MAX_FILES)
