"""A job as it is submitted. The fields are the contract's; each may also be given as plain JSON."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from cdmtaskservice.client.reading import Model

InputFilesFormat = Literal["comma_separated_list", "space_separated_list", "repeat_parameter"]
ManifestFormat = Literal["files", "data_ids"]


@dataclass(frozen=True, kw_only=True)
class Parameter(Model):
    """A value that the service fills in for each container. Best made by one of the class methods."""

    type: str
    """`input_files`, `manifest_file` or `container_number`."""
    flag: str | None = None
    """In arguments only: goes before the value, joined with it where it ends in `=`."""
    input_files_format: str | None = None
    manifest_file_format: str | None = None
    manifest_file_header: str | None = None
    container_num_prefix: str | None = None
    container_num_suffix: str | None = None

    @classmethod
    def input_files(cls, how: InputFilesFormat = "space_separated_list", *, flag: str | None = None) -> Self:
        """The paths of the container's input files."""
        return cls(type="input_files", input_files_format=how, flag=flag)

    @classmethod
    def manifest(cls, lists: ManifestFormat = "files", *, header: str | None = None, flag: str | None = None) -> Self:
        """The path of a text file that lists the container's input files, or their data IDs, one a line."""
        return cls(type="manifest_file", manifest_file_format=lists, manifest_file_header=header, flag=flag)

    @classmethod
    def container_number(cls, *, prefix: str | None = None, suffix: str | None = None, flag: str | None = None) -> Self:
        """The container's number, from 0, between prefix and suffix."""
        return cls(type="container_number", container_num_prefix=prefix, container_num_suffix=suffix, flag=flag)

    def to_json(self) -> dict[str, Any]:
        """As the service reads it."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class Parameters(Model):
    """How the container is called, and where it finds and leaves its files."""

    args: tuple[str | Parameter, ...] | None = None
    environment: Mapping[str, str | Parameter] | None = None
    input_mount_point: str | None = None
    output_mount_point: str | None = None
    refdata_mount_point: str | None = None
    declobber: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the service reads it."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class InputFile(Model):
    """A file in S3 to work on. `crc64nvme` is base64, 12 characters."""

    file: str
    data_id: str | None = None
    crc64nvme: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the service reads it."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class JobInput:
    """A job to submit. The defaults are the service's; what they mean and their limits: docs/user-guide.md.

    memory: per container, bytes or such as "2GB". runtime: per container, a timedelta, seconds, or ISO 8601.
    input_files: all paths (`bucket/key`) or all `InputFile`s.
    """

    cluster: str
    image: str
    input_files: Sequence[str | InputFile | Mapping[str, Any]]
    output_dir: str
    params: Parameters | Mapping[str, Any] = Parameters()
    num_containers: int | None = None
    cpus: int | None = None
    memory: int | str | None = None
    runtime: datetime.timedelta | float | str | None = None
    gpus: int | None = None
    input_roots: Sequence[str] | None = None
    name: str | None = None
    tags: Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The body of a submission."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class AcceptedInput(Model):
    """What a job was asked to be, as the service shows it: defaults filled in. It can be submitted again.

    memory: bytes per container. input_files: None in lists of jobs, where they are left out.
    """

    cluster: str
    image: str
    params: Parameters
    output_dir: str
    num_containers: int
    cpus: int
    memory: int
    runtime: datetime.timedelta
    gpus: int = 0
    input_roots: tuple[str, ...] | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    input_files: tuple[InputFile, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The body of a submission."""
        return dict(self.raw) or _given(self)


def job_body(job: JobInput | AcceptedInput | Mapping[str, Any]) -> dict[str, Any]:
    """The body of a submission, as JSON has it."""
    return job.to_json() if isinstance(job, JobInput | AcceptedInput) else _plain(dict(job))


def format_duration(duration: datetime.timedelta) -> str:
    """ISO 8601 in days and seconds, which every reader of durations understands."""
    seconds = f"{duration.seconds}" + (f".{duration.microseconds:06}".rstrip("0") if duration.microseconds else "")
    return (f"P{duration.days}D" if duration.days else "P") + f"T{seconds}S"


def _given(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that were set, as JSON has them."""
    found = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "raw"}
    return {name: _plain(v) for name, v in found.items() if v is not None and v != ()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.timedelta):
        return format_duration(value)
    if isinstance(value, JobInput | AcceptedInput | Parameters | Parameter | InputFile):
        return value.to_json()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
