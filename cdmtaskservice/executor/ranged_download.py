"""One large file from a presigned GET, in pieces that come side by side.

A piece whose transfer breaks goes on where it broke. The checksum of the whole, which is the caller's to look at,
would show if the object had changed in between.
"""

from __future__ import annotations

import os
import re
from typing import Callable

from .checksum import READ_SIZE, crc64nvme
from .failures import LATER, RENEWED, ContainerFailure
from .http_pool import SILENCE, HttpPool, NetworkError, Response
from .jsonlog import Log, redacted
from .parallel import for_each
from .pieces import Piece, Pieces
from .retry import Retry
from .stopping import Stop


class Changed(Exception):
    """The object is not the one that was expected. `found` says what it is."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


class RangedDownload:
    """The download of `file`, an S3 path, from `url`.

    patience: seconds without a byte of a piece after which the file is given up. connections: how many pieces come at
    a time. progress: told of every number of bytes that came, or that were there; negative where they come again.
    """

    def __init__(
        self, file: str, url: str, patience: float, connections: int, progress: Callable[[int], None], log: Log
    ) -> None:
        self._file = file
        self._url = url
        self._patience = patience
        self._connections = connections
        self._progress = progress
        self._log = log

    def fetch(self, pieces: Pieces, stop: Stop) -> None:
        """Fetch the pieces that are not there, the first ones first. A failure sets `stop`, the caller's own.

        Raises Changed where the object has another size, and ContainerFailure, naming the file, where it is gone or
        refused.
        """

        def one(piece: Piece) -> None:
            if pieces.find(piece, stop):
                self._progress(piece.length)
            else:
                self._fetch_one(piece, pieces, pool, stop)

        with HttpPool(stop, SILENCE) as pool:
            for_each(pieces.all, one, self._connections, stop)

    def _fetch_one(self, piece: Piece, pieces: Pieces, pool: HttpPool, stop: Stop) -> None:
        retry = Retry(stop, self._patience)
        transfer = _Transfer(piece, pieces, self._progress)
        while True:
            before = transfer.done
            try:
                status, found = transfer.go_on(pool, self._url, stop)
            except NetworkError as error:
                status, found = 0, str(error)
            if transfer.done == piece.length:
                pieces.add(piece, transfer.crc)
                return
            asked = f"GET {redacted(self._url)} from byte {piece.offset + transfer.done}"
            self._log.event("download_interrupted", file=self._file, asked=asked, status=status, found=found)
            if transfer.done > before:
                retry.progress()
            if status == 403:
                raise ContainerFailure(
                    f"S3 does not let the service read the file {self._file} any more (HTTP 403).",
                    f"{asked}: 403: {found}",
                    RENEWED,
                )
            if status == 404:
                raise ContainerFailure(f"The file {self._file} is not in S3 any more.", f"{asked}: 404: {found}")
            if 300 <= status < 500 and status not in (408, 409, 416, 429):
                raise ContainerFailure(
                    f"S3 did not give the file {self._file} (HTTP {status}).", f"{asked}: {status}: {found}"
                )
            if not retry.wait():
                raise ContainerFailure(
                    f"The file {self._file} could not be downloaded: S3 did not give it for {self._patience:.0f} s.",
                    f"{asked}: {status or 'no answer'}: {found}",
                    LATER,
                )


class _Transfer:
    """A piece on its way: how much of it is on the disk, and the checksum of that much."""

    def __init__(self, piece: Piece, pieces: Pieces, progress: Callable[[int], None]) -> None:
        self._piece = piece
        self._pieces = pieces
        self._progress = progress
        self._buffer = memoryview(bytearray(min(READ_SIZE, piece.length)))
        self.done = 0
        self.crc = 0

    def go_on(self, pool: HttpPool, url: str, stop: Stop) -> tuple[int, str]:
        """Ask for what is missing, and write what comes. The status, and what was found instead of all of it."""
        first, last = self._piece.offset + self.done, self._piece.offset + self._piece.length - 1
        response = pool.get(url, {"Accept-Encoding": "identity", "Range": f"bytes={first}-{last}"})
        try:
            told = response.headers.get("Content-Range") or ""
            self._check_size(told.rpartition("/")[2])
            if response.status == 200 and last - first + 1 == self._pieces.size:
                # The whole is what was asked for, so ignoring the range does no harm.
                self._check_size(response.headers.get("Content-Length") or "")
            elif response.status == 200:
                return 416, "the whole file instead of the range asked for"
            elif response.status != 206:
                return response.status, response.text()
            elif not re.fullmatch(rf"bytes {first}-{last}/(\d+|\*)", told):
                return 416, f"not the range asked for: {told}"
            self._take(response, stop)
            return response.status, f"{self.done} of {self._piece.length} bytes"
        finally:
            response.close()

    def _take(self, response: Response, stop: Stop) -> None:
        fd, end = self._pieces.fd, self._piece.length
        while self.done < end:
            stop.check()
            count = response.read_into(self._buffer[: end - self.done])
            if not count:
                return
            data = self._buffer[:count]
            self.crc = crc64nvme(data, self.crc)
            at = self._piece.offset + self.done
            while data:
                written = os.pwrite(fd, data, at)
                at += written
                data = data[written:]
            self.done += count
            self._progress(count)

    def _check_size(self, told: str) -> None:
        if told.isdecimal() and int(told) != self._pieces.size:
            raise Changed(f"{told} bytes")
