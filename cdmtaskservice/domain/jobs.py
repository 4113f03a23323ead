"""A job as a client asks for it: the body of `POST /jobs`, and the form of it that replies show.

Replies show `job.model_dump(mode="json", exclude_none=True)`: defaults filled in, memory in bytes, durations as ISO
8601, every input file an object; `gpus`, `name` and `tags` only where they were set.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from cdmtaskservice.domain.parameters import (
    InputFilesFormat,
    ManifestFileFormat,
    MountPoint,
    Parameter,
    Parameters,
    ParameterType,
    ParameterValue,
    ParameterWithFlag,
    StrictModel,
    check_text,
    must_be_list,
)
from cdmtaskservice.domain.quantities import Memory, Runtime
from cdmtaskservice.domain.s3_paths import MAX_KEY_BYTES, InputRoot, OutputDir, S3Path
from cdmtaskservice.domain.wording import shown

__all__ = [
    "MAX_INPUT_FILES",
    "InputFile",
    "InputFilesFormat",
    "JobInput",
    "JobInputPreview",
    "ManifestFileFormat",
    "MountPoint",
    "Parameter",
    "ParameterType",
    "ParameterValue",
    "ParameterWithFlag",
    "Parameters",
    "cpu_hours",
]

MAX_INPUT_FILES = 10_000

_MAX_COUNT = 2**31 - 1  # of CPUs, of GPUs: what every engine's integers hold; a site's own limit is far below
_CRC64NVME = re.compile(r"[A-Za-z0-9+/]{11}=")


def _check_crc64nvme(text: str) -> str:
    if not _CRC64NVME.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is no CRC64NVME: it must be the 12 characters of base64 that 8 bytes make, such as "
            "'S8AXmd7A3f8='"
        )
    return text


def _as_objects(value: object) -> object:
    """Input files that are all strings as objects. What is neither of the two forms is refused in words."""
    if not isinstance(value, list | tuple):
        raise ValueError("input_files must be a list: of S3 paths, or of objects with a file each")
    if not 1 <= len(value) <= MAX_INPUT_FILES:
        raise ValueError(f"there are {len(value)} input files: from 1 to {MAX_INPUT_FILES} are possible")
    strings = sum(isinstance(f, str) for f in value)
    if strings == len(value):
        return [{"file": f} for f in value]
    if strings:
        first = isinstance(value[0], str)
        odd = next(i for i, f in enumerate(value) if isinstance(f, str) is not first)
        kinds = ("a string", "none") if first else ("no string", "one")
        raise ValueError(
            "input_files must be either all strings or all objects: the first entry (number 0) is "
            f"{kinds[0]}, entry number {odd} is {kinds[1]}"
        )
    return value


_Label = Annotated[str, AfterValidator(check_text)]
Crc64nvme = Annotated[
    str,
    AfterValidator(_check_crc64nvme),
    Field(json_schema_extra={"pattern": f"^{_CRC64NVME.pattern}$", "minLength": 12, "maxLength": 12}),
]


class InputFile(StrictModel):
    """One input file."""

    file: S3Path
    data_id: Annotated[_Label, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="What the file is called outside of S3. On all files of a job or on none."
    )
    crc64nvme: Crc64nvme | None = Field(
        default=None,
        description="The checksum that the file must have in S3, base64.",
        examples=["S8AXmd7A3f8="],
    )


class JobInputPreview(StrictModel):
    """What a job was asked to be, without its input files."""

    cluster: Annotated[_Label, Field(min_length=1, max_length=256)] = Field(
        description="The site to run at", examples=["kbase", "perlmutter-jaws", "lawrencium-jaws"]
    )
    image: Annotated[_Label, Field(min_length=1, max_length=1000)] = Field(
        description="An approved image, `host/path[:tag][@sha256:…]`", examples=["ghcr.io/kbase/checkm2:1.0.2"]
    )
    params: Parameters = Field(description="How the container is called")
    num_containers: int = Field(
        default=1, ge=1, le=1000, description="How many containers share the input files, at least one file each"
    )
    cpus: int = Field(default=1, ge=1, le=_MAX_COUNT, description="CPUs per container")
    memory: Memory = Field(
        default=10_000_000,
        description="Memory per container: bytes, or a number with a decimal unit",
        examples=["2GB"],
    )
    runtime: Runtime = Field(
        default=datetime.timedelta(seconds=60),
        description="Time limit per container: seconds, or an ISO 8601 duration. Enforced.",
        examples=["PT5M"],
    )
    input_roots: (
        Annotated[tuple[InputRoot, ...], Field(max_length=MAX_INPUT_FILES), BeforeValidator(must_be_list)] | None
    ) = Field(
        default=None,
        description="S3 prefixes: files under one keep their path below it, the longest root wins. With an empty "
        "string the whole path is kept, bucket included. Files under none are placed flat.",
        examples=[["cts-data/reads"]],
    )
    output_dir: OutputDir = Field(
        description="S3 directory for the outputs, `bucket/prefix`", examples=["cts-data/results/run1/"]
    )
    gpus: int = Field(
        default=0, ge=0, le=_MAX_COUNT, exclude_if=lambda gpus: not gpus, description="GPUs per container"
    )
    name: Annotated[_Label, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="What people call the job"
    )
    tags: Annotated[
        tuple[Annotated[_Label, Field(min_length=1, max_length=50)], ...],
        Field(max_length=20),
        BeforeValidator(must_be_list),
    ] = Field(default=(), exclude_if=lambda tags: not tags, description="Labels to find the job by")


class JobInput(JobInputPreview):
    """The body of `POST /jobs`."""

    input_files: Annotated[
        tuple[InputFile, ...],
        BeforeValidator(
            _as_objects,
            json_schema_input_type=Annotated[list[S3Path], Field(min_length=1, max_length=MAX_INPUT_FILES)]
            | Annotated[list[InputFile], Field(min_length=1, max_length=MAX_INPUT_FILES)],
        ),
    ] = Field(description="Files to process: either all S3 paths or all objects; no file twice")

    @property
    def files(self) -> list[str]:
        """The S3 paths of the input files, in the order in which they are split over the containers."""
        return [f.file for f in self.input_files]

    def preview(self) -> JobInputPreview:
        """The same without the input files."""
        set_ = self.model_fields_set - {"input_files"}
        values = {name: getattr(self, name) for name in JobInputPreview.model_fields}
        return JobInputPreview.model_construct(_fields_set=set_, **values)

    @field_validator("input_files")
    @classmethod
    def _check_files(cls, files: tuple[InputFile, ...], info: ValidationInfo) -> tuple[InputFile, ...]:
        # The fields above this one are in info.data where they were legal by themselves.
        _refuse_repeats(files)
        with_ids = sum(f.data_id is not None for f in files)
        if with_ids not in {0, len(files)}:
            bare = next(f.file for f in files if f.data_id is None)
            raise ValueError(
                f"{with_ids} of {len(files)} input files have a data_id: give one to every file or to none; the first "
                f"without is {shown(bare, MAX_KEY_BYTES)}"
            )
        containers = info.data.get("num_containers", 1)
        if containers > len(files):
            raise ValueError(
                f"num_containers is {containers}, more than the {len(files)} input files: every container needs a file"
            )
        params = info.data.get("params")
        if isinstance(params, Parameters) and not with_ids:
            asked = params.file_parameter
            if asked and asked.manifest_file_format is ManifestFileFormat.DATA_IDS:
                raise ValueError("a manifest with the format data_ids needs a data_id on every input file")
        return files


def cpu_hours(job: JobInputPreview) -> float:
    """The most CPU hours that a job can use: cpus × num_containers × runtime in hours."""
    return job.cpus * job.num_containers * (job.runtime.total_seconds() / 3600)


def _refuse_repeats(files: tuple[InputFile, ...]) -> None:
    if len({f.file for f in files}) == len(files):
        return
    seen: dict[str, int] = {}
    for number, file in enumerate(files):
        first = seen.setdefault(file.file, number)
        if first != number:
            raise ValueError(
                f"the file {shown(file.file, MAX_KEY_BYTES)} is listed twice, as number {first} and number {number}: "
                "list each file once"
            )
