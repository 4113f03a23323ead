"""Inputs: from presigned GETs to verified files, several at a time.

A file is written aside, checked against its size and CRC64NVME while it comes, and moved to its place only when both
are right. A transfer that breaks goes on where it broke; the checksum over the whole would show if the object had
changed in between.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Callable

from .checksum import READ_SIZE, crc64nvme, encoded
from .failures import LATER, RENEWED, ContainerFailure
from .http_pool import SILENCE, HttpPool, NetworkError, Response
from .jsonlog import Log, redacted
from .order import InputFile
from .parallel import for_each
from .reporting import Progress
from .retry import Retry
from .stopping import Stop

_TRIES = 3
"""Whole downloads of a file whose bytes are wrong, and refusals in a row in spite of a fresh URL, before it fails."""
_REFRESH = 200
"""Fresh GETs asked for in one call: where one has expired its neighbours have too."""


class Downloads:
    """The inputs of one container.

    fresh: gives new presigned GETs for S3 files. patience: seconds without a
    byte after which a file is given up. connections: how many files come at a time.
    """

    def __init__(
        self,
        fresh: Callable[[Sequence[str]], Mapping[str, str]],
        progress: Progress,
        patience: float,
        connections: int,
        log: Log,
    ) -> None:
        self._fresh = fresh
        self._progress = progress
        self._patience = patience
        self._connections = connections
        self._log = log

    def fetch(self, inputs: Sequence[InputFile], into: str, aside: str, stop: Stop) -> None:
        """Download `inputs` below the directory `into`; `aside` is an empty directory of the same file system.

        Raises ContainerFailure, naming the S3 file, for one that is gone, refused, or not what it should be.
        """
        urls = _Urls(inputs, self._fresh)
        directories = {os.path.join(into, *i.path.split("/")[:-1]) for i in inputs}
        for directory in sorted(directories):
            try:
                os.makedirs(directory, exist_ok=True)
            except OSError as error:
                raise _unplaceable(directory, error) from error

        scope = Stop(stop)

        def one(numbered: tuple[int, InputFile]) -> None:
            number, wanted = numbered
            part = os.path.join(aside, str(number))
            self._fetch_one(wanted, part, urls, pool, scope)
            try:
                os.chmod(part, 0o644)
                os.rename(part, os.path.join(into, wanted.path))
            except OSError as error:
                raise _unplaceable(wanted.file, error) from error

        with HttpPool(scope, SILENCE) as pool:
            for_each(list(enumerate(inputs)), one, self._connections, scope)

    def _fetch_one(self, wanted: InputFile, part: str, urls: _Urls, pool: HttpPool, stop: Stop) -> None:
        retry = Retry(stop, self._patience)
        wrong = refused = 0
        with open(part, "wb", buffering=0) as target:
            transfer = _Transfer(wanted, target.fileno(), self._progress)
            while True:
                url = urls.of(wanted.file)
                before = transfer.offset
                try:
                    status, found = transfer.go_on(pool, url, stop)
                except NetworkError as error:
                    status, found = 0, str(error)
                if status == 200:
                    return
                self._log.event("download_interrupted", file=wanted.file, url=redacted(url), status=status, found=found)
                if transfer.offset > before:
                    retry.progress()
                    refused = 0
                if status == _WRONG:
                    wrong += 1
                    if wrong >= _TRIES:
                        raise _mismatch(wanted, found)
                    transfer.restart()
                elif status == 403:
                    refused += 1
                    if refused > _TRIES:
                        raise ContainerFailure(
                            f"S3 does not let this job read the input file {wanted.file} any more (HTTP 403).",
                            f"GET {redacted(url)}: 403 with fresh URLs, {refused} times: {found}",
                            RENEWED,
                        )
                    urls.renew(wanted.file, url)
                    if refused == 1:
                        continue
                elif status == 416:
                    transfer.restart()
                elif status == 404:
                    raise ContainerFailure(
                        f"The input file {wanted.file} is not in S3 any more.", f"GET {redacted(url)}: 404: {found}"
                    )
                elif 300 <= status < 500 and status not in (408, 409, 429):
                    raise ContainerFailure(
                        f"S3 did not give the input file {wanted.file} (HTTP {status}).",
                        f"GET {redacted(url)}: {status}: {found}",
                    )
                if not retry.wait():
                    raise ContainerFailure(
                        f"The input file {wanted.file} could not be downloaded: S3 did not give it for "
                        f"{self._patience:.0f} s.",
                        f"GET {redacted(url)}: {status or 'no answer'}: {found}",
                        LATER,
                    )


_WRONG = -1
"""Stands for a status where the bytes came but are not the right ones."""


class _Transfer:
    """One file on its way: how much of it is on the disk, and the checksum of that much."""

    def __init__(self, wanted: InputFile, target: int, progress: Progress) -> None:
        self._wanted = wanted
        self._target = target
        self._progress = progress
        self._buffer = memoryview(bytearray(READ_SIZE))
        self.offset = 0
        self._crc = 0

    def restart(self) -> None:
        """Forget what came so far."""
        os.ftruncate(self._target, 0)
        os.lseek(self._target, 0, os.SEEK_SET)
        self._progress.add(-self.offset)
        self.offset = self._crc = 0

    def go_on(self, pool: HttpPool, url: str, stop: Stop) -> tuple[int, str]:
        """Ask for what is missing. 200 and the whole file is there; else the status and what was found instead."""
        if self.offset and self.offset == self._wanted.size:
            return self._verdict()
        headers = {"Accept-Encoding": "identity"}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
        response = pool.get(url, headers)
        try:
            if response.status not in (200, 206):
                return response.status, response.text()
            if response.status == 200 and self.offset:
                self.restart()
            expected_range = f"bytes {self.offset}-"
            if response.status == 206 and not (response.headers.get("Content-Range") or "").startswith(expected_range):
                self.restart()
                return 416, f"not the range asked for: {response.headers.get('Content-Range')}"
            return self._take(response, stop)
        finally:
            response.close()

    def _take(self, response: Response, stop: Stop) -> tuple[int, str]:
        while True:
            stop.check()
            count = response.read_into(self._buffer)
            if not count:
                return self._verdict()
            self.offset += count
            self._progress.add(count)
            if self.offset > self._wanted.size:
                return _WRONG, f"more than {self._wanted.size} bytes"
            data = self._buffer[:count]
            self._crc = crc64nvme(data, self._crc)
            while data:
                data = data[os.write(self._target, data) :]

    def _verdict(self) -> tuple[int, str]:
        if self.offset != self._wanted.size:
            return _WRONG, f"{self.offset} bytes"
        found = encoded(self._crc)
        return (200, found) if found == self._wanted.crc64nvme else (_WRONG, f"CRC64NVME {found}")


class _Urls:
    """The presigned GETs by S3 file; renewed many at a time, and once however many threads ask."""

    def __init__(self, inputs: Sequence[InputFile], fresh: Callable[[Sequence[str]], Mapping[str, str]]) -> None:
        self._urls = {i.file: i.url for i in inputs}
        self._order = list(self._urls)
        self._place = {file: n for n, file in enumerate(self._order)}
        self._fresh = fresh
        self._lock = threading.Lock()

    def of(self, file: str) -> str:
        with self._lock:
            return self._urls[file]

    def renew(self, file: str, old: str) -> None:
        """Replace `old`, the URL of `file` that was refused, unless another thread has done so."""
        with self._lock:
            if self._urls[file] == old:
                first = self._place[file]
                self._urls.update(self._fresh(self._order[first : first + _REFRESH]))


def _mismatch(wanted: InputFile, found: str) -> ContainerFailure:
    return ContainerFailure(
        f"The input file {wanted.file} is not what it was when the job was submitted: expected {wanted.size} bytes "
        f"with CRC64NVME {wanted.crc64nvme}, found {found}. Submit the job again if the new content is the right one.",
        f"checksum mismatch of {wanted.file} in {_TRIES} downloads, the last found {found}",
    )


def _unplaceable(what: str, error: OSError) -> BaseException:
    if error.errno == errno.ENAMETOOLONG:
        return ContainerFailure(
            f"The input file {what} cannot be laid out: a part of its path is longer than a file name may be.",
            str(error),
        )
    return error
