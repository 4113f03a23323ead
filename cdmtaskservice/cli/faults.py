"""What is said of the faults of a request that has not the right form: where each is, and what."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdmtaskservice.cli.terminal import harmless

if TYPE_CHECKING:
    from cdmtaskservice.cli.job_file import JobFile

_MOST = 20
"""Faults of a job that are told at once."""

_TAGS = frozenset({"text", "parameter"})
"""What the service took an argument or a variable for. It stands in the place of a fault, and in no job."""


def faults_shown(faults: Sequence[Mapping[str, Any]], job: JobFile | None) -> list[str]:
    """Each fault as a line of text, the first ones if there are many. job: where they are to be looked for."""
    found = [_shown(fault, job) for fault in faults]
    if len(found) > _MOST:
        return [*found[:_MOST], f"and {len(found) - _MOST} more"]
    return found


def _shown(fault: Mapping[str, Any], job: JobFile | None) -> str:
    loc = fault.get("loc")
    place = [part for part in loc if isinstance(part, str | int)] if isinstance(loc, list) else []
    inside = place[1:] if place[:1] == ["body"] else place
    if inside[:2] in (["params", "args"], ["params", "environment"]) and inside[3:4] and inside[3] in _TAGS:
        del inside[3]
    line = job.line(inside) if job is not None else None
    told = f"line {line}: " if line else ""
    if job is not None and fault.get("type") == "extra_forbidden" and inside:
        return told + _one_line(_unknown(inside))
    where = ".".join(map(str, inside))
    message = str(fault.get("msg", "")).removeprefix("Value error, ")
    return f"{told}{f'{where}: ' if where else ''}{_one_line(message)}"


def _unknown(place: Sequence[str | int]) -> str:
    """What is said of a field that jobs do not have at this place."""
    *around, name = place
    near = difflib.get_close_matches(str(name), _fields_at(around), 1)
    within = f"{'.'.join(map(str, around))}: " if around else ""
    return f"{within}there is no field {str(name)!r}{f'; did you mean {near[0]!r}?' if near else ''}"


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """The fields of the object at a place of a job."""
    from dataclasses import fields

    from cdmtaskservice.client.job_input import InputFile, JobInput, Parameter, Parameters

    kind: type[JobInput | Parameters | Parameter | InputFile] = JobInput
    if place[:1] == ["input_files"]:
        kind = InputFile
    elif place[:1] == ["params"]:
        kind = Parameter if len(place) > 1 else Parameters
    return [field.name for field in fields(kind)]


def _one_line(text: str) -> str:
    return harmless(" ".join(text.split()))
