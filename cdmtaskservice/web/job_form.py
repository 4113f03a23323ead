"""A job as a form holds it, every field a text, and as a request to the service.

The form takes nothing away and adds nothing: what can be asked for can be written into it, and what is wrong is found
by the same model that reads requests. Lists are texts of lines. An argument that the service fills in stands on its
line as the JSON object that it is in a request, which no other argument can look like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from cdmtaskservice.domain.jobs import InputFile, JobInput
from cdmtaskservice.domain.parameters import Parameters
from cdmtaskservice.web.form_data import Sent

Body: TypeAlias = dict[str, Any]
Fields: TypeAlias = dict[str, str]

_PLAIN = ("cluster", "image", "num_containers", "cpus", "memory", "runtime", "gpus", "output_dir", "name")
_MOUNTS = ("input_mount_point", "output_mount_point", "refdata_mount_point")
NAMES = (*_PLAIN, *_MOUNTS, "tags", "input_roots", "input_files", "args", "environment", "declobber")
"""All fields of the form."""

EVERYTHING = '""'
"""How the input root of everything, an empty text, is written on a line."""

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?", re.ASCII)


class NotInFormError(ValueError):
    """A request that the form has no place for: it is not in the shape that a job has."""


class UnreadLineError(ValueError):
    """A line of a field that cannot be read. field: its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def fields_sent(sent: Sent) -> Fields:
    """The fields of a form as it was sent."""
    return {name: sent.text(name) for name in NAMES}


def body_of(fields: Fields) -> Body:
    """The request that a form stands for; what is empty is left out. Raises: UnreadLineError."""
    body: Body = {name: fields[name] for name in _PLAIN if fields.get(name)}
    if "runtime" in body and _NUMBER.fullmatch(body["runtime"].strip()):
        body["runtime"] = float(body["runtime"])  # seconds, where a text would have to be ISO 8601
    params: Body = {name: fields[name] for name in _MOUNTS if fields.get(name)}
    if fields.get("declobber"):
        params["declobber"] = True
    if args := [_argument(number, line) for number, line in _lines(fields.get("args", ""))]:
        params["args"] = args
    environment: Body = {}
    for number, line in _lines(fields.get("environment", "")):
        name, value = _variable(number, line)
        if name in environment:
            raise UnreadLineError("environment", f"line {number}: {name} is set on a line before; write it once")
        environment[name] = value
    if environment:
        params["environment"] = environment
    body["params"] = params
    if tags := [line for _, line in _lines(fields.get("tags", ""), strip=False)]:
        body["tags"] = tags
    if roots := [_root(line) for _, line in _lines(fields.get("input_roots", ""), strip=False)]:
        body["input_roots"] = roots
    if files := [_file(line) for _, line in _lines(fields.get("input_files", ""), strip=False)]:
        bare = all(isinstance(file, str) for file in files)
        body["input_files"] = files if bare else [{"file": f} if isinstance(f, str) else f for f in files]
    return body


def fields_of(body: object) -> Fields:
    """The form that a request fills. Raises: NotInFormError."""
    if not isinstance(body, dict):
        raise NotInFormError("A job is a JSON object")
    _check_known(body, JobInput.model_fields.keys(), "")
    params = body.get("params", {})
    if not isinstance(params, dict):
        raise NotInFormError("params is no JSON object")
    _check_known(params, Parameters.model_fields.keys(), "params.")
    fields = dict.fromkeys(NAMES, "")
    for place, names in ((body, _PLAIN), (params, _MOUNTS)):
        fields.update({name: _plain(name, place[name]) for name in names if place.get(name) is not None})
    declobber = params.get("declobber") or False
    if not isinstance(declobber, bool):
        raise NotInFormError("params.declobber is neither true nor false")
    fields["declobber"] = "yes" if declobber else ""
    fields["args"] = "\n".join(_as_line("args", a) for a in _list("params.args", params.get("args")))
    environment = params.get("environment") or {}
    if not isinstance(environment, dict):
        raise NotInFormError("params.environment is no JSON object")
    fields["environment"] = "\n".join(f"{name}={_as_line('environment', v)}" for name, v in environment.items())
    fields["tags"] = "\n".join(_line("tags", tag) for tag in _list("tags", body.get("tags")))
    roots = _list("input_roots", body.get("input_roots"))
    fields["input_roots"] = "\n".join(EVERYTHING if root == "" else _line("input_roots", root) for root in roots)
    fields["input_files"] = "\n".join(_file_line(f) for f in _list("input_files", body.get("input_files")))
    return fields


def line_numbers(text: str) -> list[int]:
    """The numbers, from 1, of the lines of a field that count."""
    return [number for number, _ in _lines(text)]


def _lines(text: str, *, strip: bool = True) -> list[tuple[int, str]]:
    """Lines that are not blank, by their numbers. Only a line feed ends one: names may have other separators."""
    numbered = enumerate(text.split("\n"), 1)
    return [(number, line.strip() if strip else line) for number, line in numbered if line.strip()]


def _argument(number: int, line: str) -> object:
    return _json("args", number, line) if line.startswith("{") else line


def _variable(number: int, line: str) -> tuple[str, object]:
    name, equals, value = line.partition("=")
    if not equals:
        raise UnreadLineError("environment", f"line {number}: write NAME=value")
    return name, _json("environment", number, value) if value.startswith("{") else value


def _json(field: str, number: int, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnreadLineError(field, f"line {number} begins with '{{', but is no JSON object: {error}") from None


def _root(line: str) -> str:
    return "" if line.strip() == EVERYTHING else line


def _file(line: str) -> str | Body:
    """A path, and behind a tab or a semicolon, neither of which a path can have, its data ID; behind another tab its
    checksum."""
    if "\t" in line:
        file, data_id, crc = (*line.split("\t", 2), "", "")[:3]
    elif ";" in line:
        path, _, rest = line.partition(";")
        file, data_id, crc = path.rstrip(), rest.strip(), ""
    else:
        return line
    return {"file": file, **({"data_id": data_id} if data_id else {}), **({"crc64nvme": crc} if crc else {})}


def _file_line(file: object) -> str:
    if isinstance(file, str):
        return _plain("input_files", file)
    if not isinstance(file, dict):
        raise NotInFormError("input_files are neither texts nor JSON objects")
    _check_known(file, InputFile.model_fields.keys(), "input_files.")
    columns = [_plain("input_files", file.get(name) or "") for name in ("file", "data_id", "crc64nvme")]
    return "\t".join(columns).rstrip("\t")


def _as_line(field: str, value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return _plain(field, value)


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise NotInFormError(f"{name} has a value that is neither a text nor a number")
    text = str(value)
    if "\n" in text or "\r" in text:
        raise NotInFormError(f"{name} has a line end in it")
    return text


def _line(name: str, value: object) -> str:
    """A value as a line that counts."""
    text = _plain(name, value)
    if not text.strip():
        raise NotInFormError(f"{name} has an entry of blanks only")
    return text


def _list(name: str, value: object) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise NotInFormError(f"{name} is no list")
    return value


def _check_known(given: Mapping[str, object], known: object, prefix: str) -> None:
    unknown = [name for name in given if name not in known]  # type: ignore[operator]
    if unknown:
        raise NotInFormError(f"There is no field {prefix}{unknown[0]}")
