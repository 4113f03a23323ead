"""Outputs of a job on this machine: where each may lie, and how it gets there.

A file is written beside its place, its checksum computed while it comes, and gets its name only when that is right. A
transfer that breaks goes on where it broke. What is there already with the right bytes is not fetched again, so a
download that was broken off goes on by being asked for once more.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cdmtaskservice.client.calls import PAGE, Calls
from cdmtaskservice.client.checksum import Crc64Nvme, checksum_of
from cdmtaskservice.client.effects import Flow, NetworkFault, consuming, do, open_, pause, read, spread
from cdmtaskservice.client.errors import ChecksumMismatch, DownloadError, FileExists, JobNotOver
from cdmtaskservice.client.models import OutputFile
from cdmtaskservice.client.progress import Bar
from cdmtaskservice.client.reading import read_list
from cdmtaskservice.client.requests import Reply, Request

AT_ONCE = 8
"""Files that are fetched at a time."""
_RENEWALS = 3
"""Fresh URLs in a row that a store may refuse."""
_EXPIRED = frozenset({400, 401, 403})
"""What stores say of a presigned URL that has expired."""


@dataclass(frozen=True)
class Target:
    """A file of a job and its place here. number: its position among the job's outputs."""

    number: int
    file: OutputFile
    path: Path


def plan(directory: Path, output_dir: str, files: Sequence[OutputFile]) -> list[Target]:
    """Where each file goes: below `directory`, by its path below the job's output directory.

    Raises DownloadError for one that would not lie there, or that would be in the way of another.
    """
    root = output_dir.rstrip("/") + "/"
    targets: list[Target] = []
    places: dict[tuple[str, ...], str] = {}
    for number, file in enumerate(files):
        parts = _parts(root, file.file)
        if (other := places.setdefault(parts, file.file)) is not file.file:
            raise DownloadError(file.file, f"it would lie where {other!r} does")
        targets.append(Target(number, file, directory.joinpath(*parts)))
    for parts, name in places.items():
        for end in range(1, len(parts)):
            if parts[:end] in places:
                raise DownloadError(name, f"it needs a directory where the file {places[parts[:end]]!r} would lie")
    return targets


def _parts(root: str, file: str) -> tuple[str, ...]:
    if not file.startswith(root):
        raise DownloadError(file, f"it is not below the job's output directory {root!r}")
    parts = tuple(file.removeprefix(root).split("/"))
    for part in parts:
        odd = part in {"", ".", ".."} or "\0" in part
        if odd or (os.name == "nt" and any(c in part for c in '\\:*?"<>|')):
            raise DownloadError(file, f"a part of its name, {part!r}, cannot be one of a file here")
    return parts


@dataclass
class Download:
    """One download of all outputs of a job."""

    calls: Calls
    job_id: str
    directory: Path
    overwrite: bool
    bar: Bar
    _urls: list[str] = field(default_factory=list)
    _done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def flow(self) -> Flow[list[Path]]:
        """The files' paths, in the order of the job's outputs.

        Raises JobNotOver, DownloadError, ChecksumMismatch, FileExists, OSError.
        """
        try:
            job = yield from self.calls.job(self.job_id)
            if not job.is_over:
                raise JobNotOver(self.job_id, job.state)
            files: list[OutputFile] = []
            yield from consuming(self.calls.files(self.job_id, "outputs"), files.append)
            targets = plan(self.directory, job.job_input.output_dir, files)
            self._urls = [f.url or "" for f in files]
            self.bar.name("downloading")
            self.bar.count(0, len(targets))
            missing: list[Target] = []
            # All are looked at before the first is fetched, so that what may not be overwritten is known at once.
            yield from spread((self._look(t, missing) for t in targets), AT_ONCE)
            missing.sort(key=lambda t: t.number)
            yield from spread((self._fetch(t) for t in missing), AT_ONCE)
            return [t.path for t in targets]
        finally:
            self.bar.close()

    def _look(self, target: Target, missing: list[Target]) -> Flow[None]:
        if (yield from do(partial(_is_there, target, self.overwrite))):
            self._count()
        else:
            missing.append(target)

    def _fetch(self, target: Target) -> Flow[None]:
        part = PartFile(target)
        try:
            yield from do(part.open)
            yield from self._transfer(target, part)
            yield from do(partial(part.finish, self.overwrite))
        finally:
            part.discard()
        self._count()

    def _transfer(self, target: Target, part: PartFile) -> Flow[None]:
        """All bytes of the file. Raises DownloadError."""
        failures = refusals = 0
        version = None
        while True:
            url, start = self._urls[target.number], part.size
            try:
                reply = yield from open_(_object(url, start))
                if reply.status in _EXPIRED and refusals < _RENEWALS:
                    refusals += 1
                    yield from self._renew(target, url)
                    continue
                if start and (reply.status == 416 or (reply.status == 206 and reply.headers.get("etag") != version)):
                    yield from do(part.restart)  # it is another object now
                    continue
                _check(target, reply)
                version = reply.headers.get("etag")
                if start and reply.status == 200:
                    yield from do(part.restart)  # the store does not give parts
                while (chunk := (yield from read())) is not None:
                    yield from do(partial(part.write, chunk))
                return
            except NetworkFault as fault:
                trouble, asked = fault, None
            except _Later as later:
                trouble, asked = NetworkFault(str(later), arrived=True), later.reply.headers
            if part.size > start:
                failures = refusals = 0
            if failures >= self.calls.retrying.retries or trouble.hopeless:
                raise DownloadError(target.file.file, f"the store does not answer: {trouble}")
            yield from pause(self.calls.retrying.backoff.delay(failures, asked))
            failures += 1

    def _renew(self, target: Target, refused: str) -> Flow[None]:
        """Fresh URLs for the file and those after it, unless another transfer has got them meanwhile."""
        if self._urls[target.number] != refused:
            return
        page = yield from self.calls.files_page(self.job_id, "outputs", target.number)
        fresh = read_list(OutputFile, page, "files")[:PAGE]
        if not fresh or fresh[0].file != target.file.file:
            raise DownloadError(target.file.file, "it is not among the job's outputs any more")
        for number, file in enumerate(fresh, target.number):
            if number < len(self._urls):
                self._urls[number] = file.url or ""

    def _count(self) -> None:
        with self._lock:
            self._done += 1
            self.bar.count(self._done)


class PartFile:
    """A file while it comes. May be discarded by another thread than the one that writes."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._aside = target.path.with_name(f".cts-{secrets.token_hex(8)}.part")
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._crc = Crc64Nvme()
        self.size = 0

    def open(self) -> None:
        """Make it. Raises OSError."""
        with self._lock:
            self._target.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._aside.open("xb")

    def write(self, data: bytes) -> None:
        """More bytes. Raises OSError."""
        with self._lock:
            if self._file is None:
                raise ValueError("the download was given up")
            self._file.write(data)
            self._crc.update(data)
            self.size += len(data)

    def restart(self) -> None:
        """Forget what came. Raises OSError."""
        with self._lock:
            if self._file is not None:
                self._file.seek(0)
                self._file.truncate()
            self._crc = Crc64Nvme()
            self.size = 0

    def finish(self, overwrite: bool) -> None:
        """Give it its name. Raises ChecksumMismatch, FileExists, OSError."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            file, found = self._target.file, self._crc.text()
            if found != file.crc64nvme:
                raise ChecksumMismatch(file.file, file.crc64nvme, found)
            if not overwrite and os.path.lexists(self._target.path):
                raise FileExists(self._target.path)
            self._aside.replace(self._target.path)

    def discard(self) -> None:
        """Remove it, unless it has its name."""
        with self._lock:
            if self._file is None:
                return
            self._file.close()
            self._file = None
            self._aside.unlink(missing_ok=True)


class _Later(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.reply = reply


def _object(url: str, start: int) -> Request:
    headers = {"accept-encoding": "identity"}
    if start:
        headers["range"] = f"bytes={start}-"
    return Request("GET", headers=headers, url=url)


def _check(target: Target, reply: Reply) -> None:
    if reply.status in {200, 206}:
        return
    if reply.status == 429 or reply.status >= 500:
        raise _Later(reply)
    reason = "it is not in S3 any more" if reply.status == 404 else f"the store refuses it (HTTP {reply.status})"
    raise DownloadError(target.file.file, reason)


def _is_there(target: Target, overwrite: bool) -> bool:
    """Whether the file lies there with the right bytes. Raises FileExists where another one does, and may not go."""
    path = target.path
    if not os.path.lexists(path):
        return False
    if path.is_file() and checksum_of(path) == target.file.crc64nvme:
        return True
    if not overwrite or path.is_dir():
        raise FileExists(path)
    return False
