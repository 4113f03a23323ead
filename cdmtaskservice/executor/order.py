"""The work order: what the service tells the executor to do, checked once where it comes in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast


class OrderError(ValueError):
    """The answer is no work order. The message names the field."""


@dataclass(frozen=True)
class InputFile:
    """One input: its S3 path, where it goes below the mount point, and what it must be."""

    file: str
    path: str
    url: str = field(repr=False)
    size: int
    crc64nvme: str


@dataclass(frozen=True)
class Manifest:
    """A file that the service writes for the container, below the input mount point."""

    path: str
    content: str


@dataclass(frozen=True)
class RefdataMount:
    """Reference data that the worker already has, and where the container sees it."""

    id: str
    mount_point: str


@dataclass(frozen=True)
class Limits:
    """Hard limits. memory in bytes, runtime in seconds."""

    cpus: float
    memory: int
    runtime: float
    gpus: int
    pids: int


@dataclass(frozen=True)
class WorkOrder:
    """Everything that a container needs. Sizes in bytes, times in seconds."""

    job_id: str
    container_number: int
    attempt: int
    token: str = field(repr=False)
    image: str
    args: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    input_mount_point: str
    output_mount_point: str
    refdata: RefdataMount | None
    limits: Limits
    network: bool
    inputs: Sequence[InputFile]
    manifest: Manifest | None
    part_size: int
    batch: int
    heartbeat_interval: float
    silence_limit: float | None

    @property
    def name(self) -> str:
        """The name of the container at the engine, and of its cgroup."""
        return f"cts-{self.job_id}-{self.container_number}-{self.attempt}"


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_IMAGE = re.compile(r"[A-Za-z0-9][^\s@]*@sha256:[0-9a-f]{64}")


def parse_order(body: object) -> WorkOrder:
    """The order in the JSON `body` of an answer. Unknown fields are left alone, so that the service may grow.

    Raises OrderError, naming the field, for anything that cannot be run safely: a path out of its mount point, an
    image without a digest, a mount point that is no absolute path.
    """
    o = _Fields(body, "")
    limits = o.sub("limits")
    upload = o.sub("upload")
    environment = o.sub("environment")
    order = WorkOrder(
        job_id=o.match("job_id", _ID),
        container_number=o.integer("container_number", 0),
        attempt=o.integer("attempt", 1),
        token=o.text("token"),
        image=o.match("image", _IMAGE),
        args=tuple(o.texts("args")),
        environment={k: environment.text(k) for k in environment.keys()},  # noqa: SIM118
        input_mount_point=o.mount_point("input_mount_point"),
        output_mount_point=o.mount_point("output_mount_point"),
        refdata=_refdata(o.sub("refdata")) if o.get("refdata") is not None else None,
        limits=Limits(
            cpus=limits.number("cpus"),
            memory=limits.integer("memory", 1),
            runtime=limits.number("runtime"),
            gpus=limits.integer("gpus", 0),
            pids=limits.integer("pids", 1),
        ),
        network=o.get("network") is True,
        inputs=tuple(_input(i) for i in o.subs("inputs")),
        manifest=_manifest(o.sub("manifest")) if o.get("manifest") is not None else None,
        part_size=upload.integer("part_size", 1),
        batch=upload.integer("batch", 1),
        heartbeat_interval=o.number("heartbeat_interval"),
        silence_limit=o.number("silence_limit") if o.get("silence_limit") is not None else None,
    )
    _check_places(order)
    return order


def _input(i: _Fields) -> InputFile:
    return InputFile(
        file=i.text("file"),
        path=i.path("path"),
        url=i.text("url"),
        size=i.integer("size", 0),
        crc64nvme=i.text("crc64nvme"),
    )


def _refdata(r: _Fields) -> RefdataMount:
    return RefdataMount(r.match("id", _ID), r.mount_point("mount_point"))


def _manifest(m: _Fields) -> Manifest:
    return Manifest(m.path("path"), m.text("content"))


def _check_places(order: WorkOrder) -> None:
    """Two files at one place, or a file where another needs a directory, cannot both be laid out."""
    places: dict[str, str] = {}
    wanted = [(i.path, i.file) for i in order.inputs]
    if order.manifest:
        wanted.append((order.manifest.path, "the manifest"))
    for path, file in wanted:
        other = places.setdefault(path, file)
        if other != file:
            raise OrderError(f"inputs: {other} and {file} would both be at {path}")
    for path, file in wanted:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in places:
                raise OrderError(f"inputs: {places[parent]} is a file at {parent}, where {file} needs a directory")
            parent = parent.rpartition("/")[0]


class _Fields:
    """A JSON object whose fields are asked for by name and type."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise OrderError(f"{where or 'the work order'} is not an object")
        self._value = cast("dict[str, Any]", value)
        self._where = where

    def keys(self) -> Sequence[str]:
        return tuple(self._value)

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def _bad(self, name: str, what: str) -> OrderError:
        return OrderError(f"{self._where}{name} is {what}")

    def sub(self, name: str) -> _Fields:
        return _Fields(self.get(name), f"{self._where}{name}.")

    def subs(self, name: str) -> Sequence[_Fields]:
        values = self.get(name)
        if not isinstance(values, list):
            raise self._bad(name, "not a list")
        return [_Fields(v, f"{self._where}{name}[{i}].") for i, v in enumerate(values)]

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or "\0" in value:
            raise self._bad(name, "missing or not a string without NUL")
        return value

    def texts(self, name: str) -> Sequence[str]:
        values = self.get(name)
        if not isinstance(values, list) or not all(isinstance(v, str) and "\0" not in v for v in values):
            raise self._bad(name, "not a list of strings without NUL")
        return values

    def match(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise self._bad(name, f"{value!r}, which is not of the form {pattern.pattern}")
        return value

    def integer(self, name: str, least: int) -> int:
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._bad(name, f"{value!r}, not an integer of at least {least}")
        return value

    def number(self, name: str) -> float:
        value = self.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self._bad(name, f"{value!r}, not a positive number")
        return value

    def path(self, name: str) -> str:
        value = self.text(name)
        if any(segment in ("", ".", "..") for segment in value.split("/")):
            raise self._bad(name, f"{value!r}, not a plain relative path")
        return value

    def mount_point(self, name: str) -> str:
        value = self.text(name)
        if not value.startswith("/") or any(s in ("", ".", "..") for s in value[1:].split("/")):
            raise self._bad(name, f"{value!r}, not a plain absolute path")
        if "," in value or '"' in value or "\n" in value:
            # A mount is handed to the engine as comma-separated fields.
            raise self._bad(name, f"{value!r}, which holds a character that no mount can have")
        return value
