"""What a container's command line, environment and manifest are, for its share of the input files.

A command line is a list: nothing is quoted, split or joined except as a format says, so a file's name arrives byte for
byte whatever stands in it. Names that a format cannot carry are refused when the job is submitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.parameters import (
    InputFilesFormat,
    ManifestFileFormat,
    Parameters,
    ParameterType,
    ParameterValue,
    ParameterWithFlag,
)
from cdmtaskservice.domain.placement import RESERVED_DIR, split_files

# Linux starts no program with a longer argument or variable (MAX_ARG_STRLEN: 32 pages, its closing NUL included), ...
_MAX_STRING = 131_072
# ... nor, at the usual stack limit of 8 MiB, with more than a quarter of that of them all, a pointer for each included.
_MAX_TOTAL = 2 * 1024 * 1024
_POINTER = 8


@dataclass(frozen=True)
class PlacedFile:
    """An input file as a container sees it. path: relative to the input mount point."""

    path: str
    data_id: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A text file for a container. path: relative to the input mount point. content: lines, each ended by `\\n`."""

    path: str
    content: str


@dataclass(frozen=True)
class Rendered:
    """What one container is started with. args: to the image's entrypoint."""

    args: tuple[str, ...]
    environment: Mapping[str, str]
    manifest: Manifest | None


def render(parameters: Parameters, container: int, files: Sequence[PlacedFile]) -> Rendered:
    """What container number `container` (from 0) is started with, `files` being its share of the input files.

    files: at least one, in order. Raises IllegalParameterError where a manifest of data IDs meets a file without one.
    """
    share = _Share(parameters.input_mount_point, container, files)
    args: list[str] = []
    for argument in parameters.args or ():
        args += share.arguments(argument) if isinstance(argument, ParameterWithFlag) else (argument,)
    environment = {
        name: share.value(value) if isinstance(value, ParameterValue) else value
        for name, value in (parameters.environment or {}).items()
    }
    asked = parameters.file_parameter
    manifest = share.manifest(asked) if asked and asked.type is ParameterType.MANIFEST_FILE else None
    return Rendered(tuple(args), environment, manifest)


def check_renderable(parameters: Parameters, files: Sequence[PlacedFile], num_containers: int | None = None) -> None:
    """Refuses a job whose arguments could not reach its containers as they were meant.

    files: all input files of the job, in order. num_containers: over which they are split; sizes of command lines and
    environments are checked only where it is given.

    Raises IllegalParameterError, naming the file or the container, for a comma in a name that goes into a
    comma-separated list, a missing data ID, and what is longer than Linux starts a program with.
    """
    asked = parameters.file_parameter
    if asked and asked.input_files_format is InputFilesFormat.COMMA_SEPARATED_LIST:
        for file in files:
            if "," in file.path:
                raise IllegalParameterError(
                    f"input_files: the name of '{file.path}' has a comma, so it cannot be told apart in a "
                    "comma_separated_list: use another input_files_format or a manifest_file, or rename the file"
                )
    if asked and asked.manifest_file_format is ManifestFileFormat.DATA_IDS:
        _data_ids(files)
    if num_containers is not None:
        rest, own = _parted(parameters)
        # Without its files a container is told as much as any other whose number has as many digits.
        sizes: dict[int, _Size] = {}
        for n, share in enumerate(split_files(len(files), num_containers)):
            digits = len(str(n))
            if digits not in sizes:
                sizes[digits] = _size(render(rest, n, files[:1]))
            _check_size(n, sizes[digits], _size(render(own, n, files[share.start : share.stop])))


@dataclass(frozen=True)
class _Share:
    """A container's share of the input files, in every form in which it can be told of them."""

    mount: str
    container: int
    files: Sequence[PlacedFile]

    def arguments(self, parameter: ParameterWithFlag) -> Iterable[str]:
        flag = parameter.flag
        match parameter.input_files_format:
            case InputFilesFormat.SPACE_SEPARATED_LIST:
                first, *more = self._paths()
                return (*_flagged(flag, first), *more)
            case InputFilesFormat.REPEAT_PARAMETER:
                return (argument for path in self._paths() for argument in _flagged(flag, path))
            case _:
                return _flagged(flag, self.value(parameter))

    def value(self, parameter: ParameterValue) -> str:
        match parameter.type:
            case ParameterType.INPUT_FILES:
                return ",".join(self._paths())
            case ParameterType.MANIFEST_FILE:
                return f"{self.mount}/{self._manifest_path()}"
            case ParameterType.CONTAINER_NUMBER:
                before, after = parameter.container_num_prefix or "", parameter.container_num_suffix or ""
                return f"{before}{self.container}{after}"

    def manifest(self, parameter: ParameterValue) -> Manifest:
        by_id = parameter.manifest_file_format is ManifestFileFormat.DATA_IDS
        lines = _data_ids(self.files) if by_id else self._paths()
        if parameter.manifest_file_header is not None:
            lines = [parameter.manifest_file_header, *lines]
        return Manifest(self._manifest_path(), "".join(f"{line}\n" for line in lines))

    def _paths(self) -> list[str]:
        return [f"{self.mount}/{f.path}" for f in self.files]

    def _manifest_path(self) -> str:
        return f"{RESERVED_DIR}/manifest-{self.container}.txt"


def _flagged(flag: str | None, value: str) -> tuple[str, ...]:
    if flag is None:
        return (value,)
    return (flag + value,) if flag.endswith("=") else (flag, value)


def _data_ids(files: Sequence[PlacedFile]) -> list[str]:
    ids = []
    for file in files:
        if file.data_id is None:
            raise IllegalParameterError(
                f"input_files: the file at '{file.path}' has no data_id, but the manifest is to list the data IDs: "
                "give one to every file"
            )
        ids.append(file.data_id)
    return ids


@dataclass(frozen=True)
class _Size:
    """Bytes of the longest argument or variable, and of all together with what the kernel adds to them."""

    longest: int
    total: int


def _parted(parameters: Parameters) -> tuple[Parameters, Parameters]:
    """The parameters without the one that stands for files, and that one alone."""
    asked = parameters.file_parameter
    args, environment = parameters.args or (), parameters.environment or {}

    def part(with_files: bool) -> Parameters:
        return parameters.model_copy(
            update={
                "args": tuple(a for a in args if (a is asked) is with_files),
                "environment": {k: v for k, v in environment.items() if (v is asked) is with_files},
            }
        )

    return part(False), part(True)


def _size(rendered: Rendered) -> _Size:
    strings = [*rendered.args, *(f"{name}={value}" for name, value in rendered.environment.items())]
    sizes = [len(s.encode()) + 1 for s in strings]
    return _Size(max(sizes, default=0), sum(sizes) + _POINTER * len(sizes))


def _check_size(container: int, *sizes: _Size) -> None:
    longest = max(s.longest for s in sizes)
    total = sum(s.total for s in sizes)
    if longest > _MAX_STRING:
        what = f"an argument or environment variable of {longest - 1} bytes, more than the {_MAX_STRING - 1}"
    elif total > _MAX_TOTAL:
        what = f"arguments and environment of {total} bytes together, more than the {_MAX_TOTAL}"
    else:
        return
    raise IllegalParameterError(
        f"params: container {container} would get {what} that Linux starts a program with: use a "
        "manifest_file, or more num_containers"
    )
