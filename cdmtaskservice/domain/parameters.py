"""What a container is told: mount points, arguments and environment.

The patterns of literals and flags take letters and digits of any script (`\\w`), as clients' arguments reach the
container byte for byte whatever they are. Mount points are POSIX portable file names and therefore ASCII only.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from cdmtaskservice.domain.wording import shown

_LITERAL = re.compile(r"[\w./][\w./-]*")
_FLAG = re.compile(r"--?[a-zA-Z0-9][\w.-]*=?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_MOUNT_SEGMENT = re.compile(r"[\w.-]+", re.ASCII)
# Category Cc, and unpaired surrogates, which JSON can carry and UTF-8 cannot.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_TAB = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")

_MAX_LITERAL = 1024
_MAX_MOUNT_POINT = 1024
_MAX_VARIABLE = 256
_MAX_HEADER = 1000
_FLAG_LENGTHS = range(2, 257)


_MAX_ARGS = 10_000
"""Far more than a command line needs; each costs time when a request is checked."""


class StrictModel(BaseModel):
    """A frozen model that refuses fields it does not know, with a message that names them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ParameterType(str, Enum):
    """What a parameter is replaced by."""

    INPUT_FILES = "input_files"
    MANIFEST_FILE = "manifest_file"
    CONTAINER_NUMBER = "container_number"


class InputFilesFormat(str, Enum):
    """How the paths of a container's input files are given to it."""

    COMMA_SEPARATED_LIST = "comma_separated_list"
    SPACE_SEPARATED_LIST = "space_separated_list"
    REPEAT_PARAMETER = "repeat_parameter"


class ManifestFileFormat(str, Enum):
    """What a manifest lists, one a line."""

    FILES = "files"
    DATA_IDS = "data_ids"


def check_text(text: str) -> str:
    """Text without control characters, nor anything that UTF-8 cannot hold. Raises ValueError that names the first."""
    if fault := _CONTROL.search(text):
        raise ValueError(f"{shown(text)} has {_named(fault[0])} at position {fault.start()}: leave it out")
    return text


def must_be_list(value: object) -> object:
    """`value`, for a validator before that of a tuple, whose own message speaks of tuples. Raises ValueError."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, not {shown(value)}")
    return value


def resolve_mount_point(path: str) -> str:
    """An absolute path in a container, without `.` segments, doubled and trailing slashes.

    Raises ValueError where it is longer than 1024 characters, is not absolute, has a `..` segment, comes down to `/`,
    or has characters other than ASCII letters, digits, `_`, `.` and `-`.
    """
    if len(path) > _MAX_MOUNT_POINT:
        raise ValueError(f"mount point {shown(path)} is longer than the {_MAX_MOUNT_POINT} characters allowed")
    if not path.startswith("/"):
        raise ValueError(f"mount point {shown(path)} must be an absolute path, starting with '/'")
    segments = [s for s in path.split("/") if s not in {"", "."}]
    if ".." in segments:
        raise ValueError(f"mount point {shown(path)} has a '..' segment: give the path without it")
    if not segments:
        raise ValueError(f"mount point {shown(path)} is the root of the container: give a directory below it")
    for segment in segments:
        if not _MOUNT_SEGMENT.fullmatch(segment):
            raise ValueError(
                f"mount point {shown(path)}: {shown(segment)} may have only the characters A-Z a-z 0-9 _ . -"
            )
    return "/" + "/".join(segments)


def _named(character: str) -> str:
    kind = "an invalid Unicode" if "\ud800" <= character <= "\udfff" else "a control"
    return f"{kind} character (U+{ord(character):04X})"


def _is_literal(text: str) -> bool:
    return len(text) <= _MAX_LITERAL and _LITERAL.fullmatch(text) is not None


def _is_flag(text: str) -> bool:
    return len(text) in _FLAG_LENGTHS and _FLAG.fullmatch(text) is not None


def _check_argument(text: str) -> str:
    if not _is_literal(text) and not _is_flag(text):
        raise ValueError(
            f"the argument {shown(text)} is neither a literal (1-{_MAX_LITERAL} letters, digits, '_', '.', '/', '-', "
            "not starting with '-') nor a flag (2-256 characters such as '-i', '--in' or '--in=')"
        )
    return text


def _check_literal(text: str) -> str:
    if not _is_literal(text):
        raise ValueError(
            f"the value {shown(text)} is not a literal: 1-{_MAX_LITERAL} letters, digits, '_', '.', '/', '-', not "
            "starting with '-'"
        )
    return text


def _check_flag(text: str) -> str:
    if not _is_flag(text):
        raise ValueError(
            f"{shown(text)} is not a flag: 2-256 characters such as '-i', '--in' or '--in='; one or two dashes, a "
            "letter or digit, then letters, digits, '_', '.', '-', and '=' at most at the end"
        )
    return text


def _check_variable(text: str) -> str:
    if len(text) > _MAX_VARIABLE or not _VARIABLE.fullmatch(text):
        raise ValueError(
            f"the environment variable {shown(text)} must be named by 1-{_MAX_VARIABLE} of the characters A-Z, 0-9 and "
            "'_', not starting with a digit"
        )
    return text


def _check_header(text: str) -> str | None:
    if fault := _CONTROL_BUT_TAB.search(text):
        raise ValueError(
            f"the header {shown(text)} has {_named(fault[0])}: tabs are allowed, no other control characters"
        )
    return text or None


def _kind(value: object) -> Literal["text", "parameter"] | None:
    if isinstance(value, str):
        return "text"
    return "parameter" if isinstance(value, dict | BaseModel) else None


MountPoint = Annotated[
    str,
    AfterValidator(resolve_mount_point),
    Field(
        description="An absolute path in the container",
        examples=["/data/in"],
        json_schema_extra={"pattern": "^/[A-Za-z0-9_./-]*$", "maxLength": _MAX_MOUNT_POINT},
    ),
]
_Flag = Annotated[
    str,
    AfterValidator(_check_flag),
    Field(
        examples=["--in", "-i", "--in="],
        json_schema_extra={"pattern": f"^{_FLAG.pattern}$", "minLength": 2, "maxLength": _FLAG_LENGTHS[-1]},
    ),
]
_LiteralText = Annotated[
    str,
    AfterValidator(_check_literal),
    Field(json_schema_extra={"pattern": f"^{_LITERAL.pattern}$", "minLength": 1, "maxLength": _MAX_LITERAL}),
]
_ArgumentText = Annotated[
    str,
    AfterValidator(_check_argument),
    Field(
        description="A literal or a flag",
        json_schema_extra={
            "pattern": f"^(?:{_LITERAL.pattern}|{_FLAG.pattern})$",
            "minLength": 1,
            "maxLength": _MAX_LITERAL,
        },
    ),
]
_Header = Annotated[str, Field(max_length=_MAX_HEADER, examples=["#files"]), AfterValidator(_check_header)]
_Affix = Annotated[str, Field(max_length=_MAX_LITERAL), AfterValidator(check_text)]
_Variable = Annotated[
    str,
    AfterValidator(_check_variable),
    Field(json_schema_extra={"pattern": f"^{_VARIABLE.pattern}$", "maxLength": _MAX_VARIABLE}),
]


class ParameterValue(StrictModel):
    """A value that the service fills in for each container.

    Fields that belong to another `type` are checked, then left out.
    """

    type: ParameterType
    input_files_format: InputFilesFormat | None = Field(
        default=None, description="How the container's files are listed. Needed by `input_files`."
    )
    manifest_file_format: ManifestFileFormat | None = Field(
        default=None, description="What the manifest lists. Needed by `manifest_file`."
    )
    manifest_file_header: _Header | None = Field(
        default=None, description="First line of the manifest; none where it is empty."
    )
    container_num_prefix: _Affix | None = Field(default=None, description="Goes before the container number.")
    container_num_suffix: _Affix | None = Field(default=None, description="Goes after the container number.")

    @property
    def lists_files(self) -> bool:
        """Whether this stands for the container's input files, as paths or by a manifest."""
        return self.type is not ParameterType.CONTAINER_NUMBER

    @model_validator(mode="after")
    def _check_type(self) -> Self:
        for type_, needed, others in _FIELDS:
            if type_ is self.type:
                if needed and getattr(self, needed) is None:
                    raise ValueError(f"a parameter of type {type_.value} needs {needed}")
            else:
                for name in (needed, *others):
                    if name and getattr(self, name) is not None:
                        object.__setattr__(self, name, None)
                        self.model_fields_set.discard(name)
        return self


_FIELDS = (
    (ParameterType.INPUT_FILES, "input_files_format", ()),
    (ParameterType.MANIFEST_FILE, "manifest_file_format", ("manifest_file_header",)),
    (ParameterType.CONTAINER_NUMBER, None, ("container_num_prefix", "container_num_suffix")),
)


class Parameter(ParameterValue):
    """A parameter as the value of an environment variable: one value, without a flag."""

    @model_validator(mode="after")
    def _check_one_value(self) -> Self:
        match self.input_files_format:
            case InputFilesFormat.REPEAT_PARAMETER:
                raise ValueError(
                    "repeat_parameter needs a flag, which the environment has not: use comma_separated_list or a "
                    "manifest"
                )
            case InputFilesFormat.SPACE_SEPARATED_LIST:
                raise ValueError(
                    "space_separated_list is not possible in the environment: use comma_separated_list or a manifest"
                )
        return self


class ParameterWithFlag(ParameterValue):
    """A parameter as an argument, after its flag if there is one.

    A flag that ends in `=` is joined with its value, any other is an argument of its own before the value. With
    `space_separated_list` only the first of the files has the flag, as a shell would make of `--in=a b c`.
    """

    flag: _Flag | None = None

    @model_validator(mode="after")
    def _check_repeat(self) -> Self:
        if self.input_files_format is InputFilesFormat.REPEAT_PARAMETER and self.flag is None:
            raise ValueError("repeat_parameter needs a flag, which is repeated before every file: give one")
        return self


Argument = Annotated[
    Annotated[_ArgumentText, Tag("text")] | Annotated[ParameterWithFlag, Tag("parameter")],
    Discriminator(
        _kind,
        custom_error_type="illegal_argument",
        custom_error_message="An argument must be a text (a literal or a flag) or a parameter object",
    ),
]
EnvironmentValue = Annotated[
    Annotated[_LiteralText, Tag("text")] | Annotated[Parameter, Tag("parameter")],
    Discriminator(
        _kind,
        custom_error_type="illegal_environment_value",
        custom_error_message="An environment variable's value must be a text (a literal) or a parameter object",
    ),
]


class Parameters(StrictModel):
    """How the container is called and where it finds and leaves its files."""

    input_mount_point: MountPoint = Field(default="/input_files", description="Where the input files are, read only.")
    output_mount_point: MountPoint = Field(
        default="/output_files", description="Where the container leaves its output."
    )
    refdata_mount_point: MountPoint | None = Field(
        default=None, description="Where the image's reference data is, read only."
    )
    declobber: bool = Field(
        default=False, description="Put each container's outputs below its number in the output directory."
    )
    args: Annotated[tuple[Argument, ...], Field(max_length=_MAX_ARGS), BeforeValidator(must_be_list)] | None = Field(
        default=None,
        description="Arguments to the image's entrypoint. They arrive as a list, byte for byte.",
        examples=[["--in", {"type": "input_files", "input_files_format": "comma_separated_list"}]],
    )
    environment: dict[_Variable, EnvironmentValue] | None = Field(
        default=None, examples=[{"NUM": {"type": "container_number", "container_num_prefix": "job-"}}]
    )

    @property
    def file_parameter(self) -> ParameterValue | None:
        """The one parameter that stands for the input files, if there is one."""
        return next(iter(self._file_parameters()), None)

    def _file_parameters(self) -> list[ParameterValue]:
        values = (*(self.args or ()), *(self.environment or {}).values())
        return [v for v in values if isinstance(v, ParameterValue) and v.lists_files]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        found = self._file_parameters()
        if len(found) > 1:
            raise ValueError(
                f"args and environment together have {len(found)} parameters of type input_files or manifest_file: at "
                "most one is possible in a job"
            )
        mounts: dict[str, str] = {}
        for name in ("input_mount_point", "output_mount_point", "refdata_mount_point"):
            path = getattr(self, name)
            if path is not None and mounts.setdefault(path, name) != name:
                raise ValueError(f"{mounts[path]} and {name} are both {shown(path)}: they must differ")
        for name in ("output_mount_point", "refdata_mount_point"):
            path = getattr(self, name)
            if path is not None and path.startswith(f"{self.input_mount_point}/"):
                raise ValueError(
                    f"{name} {shown(path)} is below input_mount_point {shown(self.input_mount_point)}, where nothing "
                    "else can be mounted as it is read-only: move one of them"
                )
        for name in ("input_mount_point", "output_mount_point"):
            if self.refdata_mount_point and getattr(self, name).startswith(f"{self.refdata_mount_point}/"):
                raise ValueError(
                    f"{name} {shown(getattr(self, name))} is below refdata_mount_point "
                    f"{shown(self.refdata_mount_point)}, where nothing else can be mounted as it is read-only: move "
                    "one of them"
                )
        return self
