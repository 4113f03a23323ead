"""Where input files go below the input mount point, and which container gets which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cdmtaskservice.domain.errors import IllegalParameterError

RESERVED_DIR = ".cts"
"""The directory below the input mount point that is the service's own: manifests go there."""

_MAX_NAME_BYTES = 255  # what Linux file systems take as the name of one file
_SURELY_SHORT = _MAX_NAME_BYTES // 4  # no character takes more than 4 bytes of UTF-8
# Stands for '/' where paths are sorted: no S3 key holds it and it sorts before everything a key can hold, so that all
# that lies below a directory directly follows the directory.
_SEPARATOR = "\0"


def place_inputs(files: Sequence[str], roots: Sequence[str]) -> list[str]:
    """The path of each file relative to the input mount point, in the order of `files`.

    files: checked S3 paths. roots: checked input roots (`bucket`, `bucket/prefix`, with or without a trailing `/`).
    A file below a root, by whole segments, keeps its path below it; the longest root that is not the file itself wins;
    every path is below the root `""`, which keeps the bucket too. Other files land flat under their last segment.
    Where a file goes depends on no other file.

    Raises IllegalParameterError, naming the files, where two files would be at one place, one where another needs a
    directory, one in the reserved directory `.cts`, or where a path names no file or has a segment of more than 255
    bytes, which no file system takes.
    """
    places = _below_roots(files, roots) if roots else [f.rsplit("/", 1)[-1] for f in files]
    for file, place in zip(files, places, strict=True):
        _check_place(file, place)
    _check_distinct(files, places)
    return places


def split_files(count: int, containers: int) -> list[range]:
    """The positions of each container's files, by container number.

    count: number of files, at least `containers`. containers: at least 1. In order and as evenly as possible, the
    earlier containers taking the extra ones.
    """
    size, extra = divmod(count, containers)
    starts = [n * size + min(n, extra) for n in range(containers + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def _below_roots(files: Sequence[str], roots: Sequence[str]) -> list[str]:
    """One walk over files and roots in tree order, holding the roots that the walk is inside of."""
    inside = {r.rstrip("/").replace("/", _SEPARATOR) + _SEPARATOR if r else "" for r in roots}
    walk = [(root, -1) for root in inside]
    walk += [(file.replace("/", _SEPARATOR), i) for i, file in enumerate(files)]
    walk.sort()
    places = [""] * len(files)
    stack: list[str] = []
    for path, i in walk:
        while stack and not path.startswith(stack[-1]):
            stack.pop()
        if i < 0:
            stack.append(path)
        elif stack:
            places[i] = files[i][len(stack[-1]) :]
        else:
            places[i] = files[i].rsplit("/", 1)[-1]
    return places


def _check_place(file: str, place: str) -> None:
    if not place or place.endswith("/"):
        raise IllegalParameterError(
            f"input_files: '{file}' ends with '/' and so names a directory: list the files in it one by one"
        )
    if place.startswith(RESERVED_DIR) and place.split("/", 1)[0] == RESERVED_DIR:
        raise IllegalParameterError(
            f"input_files: '{file}' would be placed at '{place}', but the directory '{RESERVED_DIR}' of the input "
            "mount point is reserved for the service: rename the file, or give other input_roots"
        )
    if len(place) > _SURELY_SHORT:
        for segment in place.split("/"):
            if len(segment) > _SURELY_SHORT and len(segment.encode()) > _MAX_NAME_BYTES:
                raise IllegalParameterError(
                    f"input_files: '{file}' would be placed at '{place}', but no file system takes the name "
                    f"'{segment}', longer than {_MAX_NAME_BYTES} bytes: rename the file, or give other input_roots"
                )


def _check_distinct(files: Sequence[str], places: Sequence[str]) -> None:
    by_place: dict[str, str] = {}
    for file, place in zip(files, places, strict=True):
        if place in by_place:
            raise IllegalParameterError(_same_place(by_place[place], file, place))
        by_place[place] = file
    in_tree = sorted(by_place, key=lambda place: place.replace("/", _SEPARATOR))
    for above, below in pairwise(in_tree):
        if below.startswith(f"{above}/"):
            raise IllegalParameterError(
                f"input_files: '{by_place[above]}' would be placed at '{above}', where '{by_place[below]}' needs a "
                f"directory to be placed at '{below}': rename one of them, or give input_roots that keep them apart"
            )


def _same_place(one: str, other: str, place: str) -> str:
    if one == other:
        return f"input_files: '{one}' is listed twice: list each file once"
    return (
        f"input_files: '{one}' and '{other}' would both be placed at '{place}' below the input mount point: give "
        'input_roots that keep them apart, such as the bucket or "", or rename one of them'
    )
