"""Job files: what `POST /jobs` takes, written down as YAML or JSON.

YAML guesses what a value without quotes is, and guesses wrong: `no` is false, `010` is 8, `10:00` is 600, `1.10` is
1.1, `2024-01-01` is a date. So here a value without quotes is text, just as it was written. Only where a job has
numbers, or true and false, are these read as such. In JSON a value is what JSON says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from json.decoder import JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

Place = tuple[str | int, ...]
"""Where a value is: names of fields and numbers of entries from the top of the job down."""

NUMBERS = frozenset({"num_containers", "cpus", "gpus", "memory", "runtime"})
"""The fields of a job that can be numbers."""

_TRUTHS = frozenset({"declobber"})
"""The fields of a job that are true or false."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]+)?")
_CLOCK = re.compile(r"\d+(:\d+)+(\.\d+)?")
_NOTHING = frozenset({"", "~", "null"})

_MOST_VALUES = 500_000
"""A job of 10 000 files, with three fields each, has some 50 000. References let a small file be a huge job."""


_GUESSED = frozenset({"str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq", "map"})
"""What YAML takes a value for, if it is not told. It does not matter here."""

_DEEPEST = 100
"""Lists and objects in each other. A job has five."""


class JobFileError(Exception):
    """The file is no job; the text says where and why."""


@dataclass(frozen=True)
class JobFile:
    """A job as it was read. lines: by place the line of the file, from 1; it may lack places."""

    job: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def set(self, name: str, text: str) -> None:
        """What `name: text` in the file would be, `name` being a field at its top; in the place of what was there."""
        self.job[name] = _scalar((name,), text, quoted=False)
        self.lines.pop((name,), None)

    def refuse_guesses(self) -> None:
        """Raises JobFileError for a value that would be taken for something else than what most people mean by it."""
        runtime = self.job.get("runtime")
        if isinstance(runtime, str) and _CLOCK.fullmatch(runtime.strip()):
            line = self.line(["runtime"])
            raise JobFileError(
                f"{f'line {line}: ' if line else ''}runtime: {runtime!r} could be minutes or hours: write seconds, or "
                "such as PT10M, PT2H"
            )

    def line(self, place: Sequence[str | int]) -> int | None:
        """The line of a value, or of the innermost one around it whose line is known."""
        for length in range(len(place), 0, -1):
            if (line := self.lines.get(tuple(place[:length]))) is not None:
                return line
        return None


def read_job(data: bytes, name: str) -> JobFile:
    """The job in `data`, the content of the file `name`: JSON if its name ends so, or it looks so; else YAML.

    Raises: JobFileError.
    """
    text = _decoded(data)
    if not text.strip():
        raise JobFileError("it is empty")
    if name.endswith(".json") or (not name.endswith((".yaml", ".yml")) and re.match(r'\s*\{\s*["}]', text)):
        return _read_json(text)
    return _read_yaml(text)


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise JobFileError(f"line {line}: it is not UTF-8 text") from None
    return text


# JSON


def _read_json(text: str) -> JobFile:
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice.append(next(n for i, n in enumerate(names) if n in names[:i]))
        return found

    try:
        job = json.loads(text, object_pairs_hook=once, parse_constant=_no_number)
    except json.JSONDecodeError as exc:
        raise JobFileError(f"line {exc.lineno}, column {exc.colno}: it is no JSON: {exc.msg}") from None
    except RecursionError:
        raise JobFileError("it is too deep") from None
    if twice:
        line = _line_of_repeated(text)
        raise JobFileError(f"the object that begins in line {line} has {twice[0]!r} twice")
    if not isinstance(job, dict):
        raise JobFileError("it is no job: a job is an object, with fields such as cluster and image")
    return JobFile(job, _json_lines(text))


def _no_number(name: str) -> object:
    raise JobFileError(f"it is no JSON: {name} is no number")


class _Positions(json.JSONDecoder):
    """Notes where objects begin, which the quick decoder does not tell."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._noted)
        self.repeated: int | None = None
        self._begun: list[int] = []
        self.parse_object = self._object
        self.scan_once = py_make_scanner(self)

    def _object(self, at: tuple[str, int], *arguments: Any, **more: Any) -> Any:
        self._begun.append(at[1])
        return JSONObject(at, *arguments, **more)

    def _noted(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        begun = self._begun.pop()
        found = dict(pairs)
        if len(found) < len(pairs) and self.repeated is None:
            self.repeated = begun
        return found


def _line_of_repeated(text: str) -> int:
    decoder = _Positions()
    decoder.decode(text)
    assert decoder.repeated is not None
    return text.count("\n", 0, decoder.repeated) + 1


def _json_lines(text: str) -> dict[Place, int]:
    """Lines of a JSON file: nearly all JSON is YAML, too, which tells them; where it is not, none are known."""
    import yaml

    lines: dict[Place, int] = {}
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=_loader())
        _Reading(lines).value(node, ())
    except (yaml.YAMLError, JobFileError, RecursionError, ValueError):
        return {}
    return lines


# YAML


def _loader() -> Any:
    import yaml

    # The C parser, where there is one, is ten times as fast, and says the same.
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read_yaml(text: str) -> JobFile:
    import yaml

    lines: dict[Place, int] = {}
    try:
        _check_depth(text)
        nodes = []
        for node in yaml.compose_all(text, Loader=_loader()):
            nodes.append(node)
            if len(nodes) > 1:
                line = node.start_mark.line + 1
                raise JobFileError(f"line {line}: a second document begins; a file is one job")
        job = _Reading(lines).value(nodes[0], ()) if nodes else None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        words = " ".join(str(part) for part in (exc.context, exc.problem) if part)
        raise JobFileError(f"{where}it is no YAML: {words}") from None
    except yaml.YAMLError as exc:
        position = getattr(exc, "position", None)
        line_of = f"line {text.count(chr(10), 0, position) + 1}: " if isinstance(position, int) else ""
        raise JobFileError(f"{line_of}it is no YAML: {getattr(exc, 'reason', None) or exc}") from None
    except RecursionError:
        raise JobFileError("it is too deep") from None
    if not isinstance(job, dict):
        raise JobFileError("it is no job: a job has fields such as cluster and image, a line each")
    return JobFile(job, lines)


def _check_depth(text: str) -> None:
    """Raises JobFileError for lists in lists in lists: the C parser's second half would die of them."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise JobFileError("it is too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reading:
    """Makes values of YAML's nodes, and notes their lines."""

    def __init__(self, lines: dict[Place, int]) -> None:
        self._lines = lines
        self._values = 0
        self._open: set[int] = set()

    def value(self, node: Any, place: Place) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self._lines[place] = line
        self._values += 1
        if self._values > _MOST_VALUES:
            raise JobFileError(f"line {line}: the file has more values than any job")
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _GUESSED:
            raise JobFileError(f"line {line}: {_tag(node.tag)} means nothing here; leave it out")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(place, node.value, quoted=bool(node.style))
        if id(node) in self._open:
            raise JobFileError(f"line {line}: a value refers to itself")
        self._open.add(id(node))
        found = self._list(node, place) if isinstance(node, yaml.SequenceNode) else self._object(node, place)
        self._open.discard(id(node))
        return found

    def _list(self, node: Any, place: Place) -> list[Any]:
        return [self.value(entry, (*place, number)) for number, entry in enumerate(node.value)]

    def _object(self, node: Any, place: Place) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise JobFileError(f"line {line}: a name must be text, not a list or an object")
            name = key.value
            if name == "<<" and not key.style:
                raise JobFileError(f"line {line}: '<<' is not understood; write the fields out")
            if name in found:
                before = self._lines[(*place, name)]
                raise JobFileError(f"line {line}: {name!r} is there twice, first in line {before}")
            found[name] = self.value(value, (*place, name))
            # Of a value that begins in the next line, people look for the name.
            self._lines[(*place, name)] = line
        return found


def _scalar(place: Place, text: str, *, quoted: bool) -> object:
    """What a single value is, by the field that it is of."""
    if quoted:
        return text
    # Arguments and variables are a program's, which takes text: an empty one, or `null`, too.
    programs = len(place) > 2 and place[:2] in (("params", "args"), ("params", "environment"))
    if text in _NOTHING and not programs and isinstance(place[-1:][0] if place else "", str):
        return None
    if len(place) == 1 and place[0] in NUMBERS:
        return _number(text)
    if len(place) == 2 and place[0] == "params" and place[1] in _TRUTHS and text in {"true", "false"}:
        return text == "true"
    return text


def _number(text: str) -> object:
    if _INTEGER.fullmatch(text) and len(text) < 20:
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _tag(tag: str) -> str:
    return f"the tag {tag.replace('tag:yaml.org,2002:', '!!')!r}"
