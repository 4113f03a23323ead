"""The logs of a container that runs, for those who follow them: pieces that go along with heartbeats.

Nothing is sent until the answer to a heartbeat asks for it, and then from the offset that it names.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Mapping

from .logs import STREAMS

PIECE = 1 << 18
"""The most bytes of one stream that go along with one heartbeat."""

MOST_BEHIND = 8 << 20
"""Bytes. Whoever begins to follow a longer log begins so far before its end: the rest is in S3 once it is over."""


class LiveLogs:
    """What the service wants of the logs in `directory`. Every thread may use it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._wanted: Mapping[str, int] = {}

    def want(self, offsets: Mapping[str, int]) -> None:
        """The service wants these streams, each from an offset on. It must ask anew after each piece."""
        with self._lock:
            self._wanted = {stream: offset for stream, offset in offsets.items() if stream in STREAMS}

    def take(self) -> tuple[list[dict[str, object]], bool]:
        """The pieces that are wanted and there, as a heartbeat carries them; and whether there is more than that."""
        with self._lock:
            wanted, self._wanted = self._wanted, {}
        pieces: list[dict[str, object]] = []
        more = False
        for stream, offset in wanted.items():
            start, data, left = self._read(stream, offset)
            more = more or left
            if data:
                pieces.append({"stream": stream, "offset": start, "data": base64.b64encode(data).decode()})
        return pieces, more

    def _read(self, stream: str, offset: int) -> tuple[int, bytes, bool]:
        try:
            with open(os.path.join(self._directory, stream), "rb") as log:
                size = os.fstat(log.fileno()).st_size
                start = max(offset, size - MOST_BEHIND)
                data = os.pread(log.fileno(), PIECE, start)
        except OSError:  # the container has not begun yet
            return offset, b"", False
        return start, data, start + len(data) < size
