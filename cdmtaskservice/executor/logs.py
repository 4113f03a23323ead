"""A container's standard output and error: streamed to the disk as they come, up to a limit."""

from __future__ import annotations

import os
import threading
from typing import IO

STREAMS = ("stdout", "stderr")

MOST_BYTES = 1 << 30
"""Of each stream. More than any person reads, and less than fills a worker's disk."""

_READ = 1 << 16


class LogCapture:
    """Copies a pipe to a file until its end.

    What is past `limit` bytes is read, so that the container goes on, and dropped; a line at the end says so.
    """

    def __init__(self, stream: str, pipe: IO[bytes], path: str, limit: int) -> None:
        self._stream = stream
        self._pipe = pipe
        self._path = path
        self._limit = limit
        self.error: OSError | None = None
        """Why the log is not whole, where the disk would not take it."""
        self._thread = threading.Thread(target=self._copy, name=stream, daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the pipe."""
        self._thread.join(timeout)

    def _copy(self) -> None:
        kept = seen = 0
        with self._pipe, open(self._path, "wb", buffering=0) as log:
            while True:
                data = os.read(self._pipe.fileno(), _READ)
                if not data:
                    break
                seen += len(data)
                keep = memoryview(data)[: self._limit - kept]
                kept += len(keep)
                self._write(log.fileno(), keep)
            if seen > kept:
                mark = f"\n{cut_mark(self._stream)}: {seen} bytes were written, the first {kept} are kept]\n"
                self._write(log.fileno(), memoryview(mark.encode()))

    def _write(self, fd: int, data: memoryview) -> None:
        try:
            while data and self.error is None:
                data = data[os.write(fd, data) :]
        except OSError as error:
            self.error = error


def cut_mark(stream: str) -> str:
    """What begins the line at the end of a log that was too long to keep."""
    return f"[{stream} cut here"


def tail(path: str, size: int = 2000) -> str:
    """The last `size` bytes of a log, as text; empty where there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - size))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""
