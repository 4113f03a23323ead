"""Which field of a form a fault is shown at. The words are those of the API, and its rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    ImageNameParseError,
    InvalidRefdataStateError,
    NoSuchBucketError,
    NoSuchImageError,
    NoSuchS3PathError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
    SiteInactiveError,
    SiteUnavailableError,
    UnauthorizedError,
)
from cdmtaskservice.web.job_form import NAMES, Fields, line_numbers

Faults: TypeAlias = dict[str, list[str]]
"""By field, in order; those of no field under the empty name."""

MOST = 20
"""Faults of one field that are told."""

_IN_LINES = frozenset({"args", "tags", "input_roots", "input_files"})
_NAMED = re.compile(r"(?:params\.)?([a-z_]+): ")
_BY_KIND: Sequence[tuple[type[CTSError], str]] = (
    (NoSuchImageError, "image"),
    (ImageNameParseError, "image"),
    (InvalidRefdataStateError, "image"),
    (SiteInactiveError, "cluster"),
    (SiteUnavailableError, "cluster"),
    (UnauthorizedError, "cluster"),
    (ChecksumMismatchError, "input_files"),
    (NoSuchS3PathError, "input_files"),
    (S3PathInaccessibleError, "input_files"),
)
_BY_WORDS = (("There is no site", "cluster"), ("The job asks for", "runtime"))


def of_validation(error: ValidationError, fields: Fields) -> Faults:
    """The faults of a request that is not valid, at the fields of the form that it was made of."""
    faults: Faults = {}
    lines: dict[str, list[int]] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        name, inside = _field_of(fault["loc"])
        told = faults.setdefault(name, [])
        if len(told) == MOST:
            continue
        if name in _IN_LINES and name not in lines:
            lines[name] = line_numbers(fields.get(name, ""))
        text = str(fault["msg"]).removeprefix("Value error, ")
        told.append(f"{_words(inside, lines.get(name))}{text}")
    return faults


def of_service(error: CTSError, fields: Mapping[str, str]) -> Faults:
    """The fault that a use case has found."""
    return {_field(error, fields): [error.message]}


def _field_of(location: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The field of a place in a request, and the place within it; without a field, the whole place as one text."""
    parts = list(location)
    if parts and parts[0] == "params":
        parts = parts[1:] or ["args"]
    if not parts or parts[0] not in NAMES:
        return "", [".".join(map(str, location))] if location else []
    return parts[0], [part for part in parts[1:] if part not in {"text", "parameter", "[key]"}]


def _words(inside: Sequence[Any], lines: Sequence[int] | None) -> str:
    """Where in a field something is. lines: the numbers of its lines that count, where it is made of lines."""
    if not inside:
        return ""
    where = ""
    if lines is not None and isinstance(inside[0], int):
        where = f"line {lines[inside[0]]}" if inside[0] < len(lines) else f"entry {inside[0]}"
        inside = inside[1:]
    named = " ".join(str(part) for part in inside if part != "file")
    return f"{' '.join(filter(None, (where, named)))}: "


def _field(error: CTSError, fields: Mapping[str, str]) -> str:
    named = _NAMED.match(error.message)
    if named:
        return named[1] if named[1] in NAMES else "args" if named[1] == "params" else ""
    if isinstance(error, NoSuchBucketError | S3BucketInaccessibleError):
        bucket = fields.get("output_dir", "").strip().partition("/")[0]
        return "output_dir" if f"'{bucket}'" in error.message else "input_files"
    for kind, name in _BY_KIND:
        if isinstance(error, kind):
            return name
    return next((name for words, name in _BY_WORDS if error.message.startswith(words)), "")
