"""Log lines: one JSON object a line on stderr, each with its job, container and attempt. Never a secret."""

from __future__ import annotations

import datetime
import json
import os
import threading
import urllib.parse


class Log:
    """Writes events. What is bound stands in every later line; lines of several threads never mix."""

    def __init__(self, fd: int = 2, **bound: object) -> None:
        self._fd = fd
        self._bound = bound
        self._lock = threading.Lock()

    def bind(self, **more: object) -> None:
        """Add keys that every later line carries."""
        self._bound = {**self._bound, **more}

    def event(self, event: str, **keys: object) -> None:
        """Write one line. A closed or full stderr is no reason to fail a container."""
        line = {"time": now(), "event": event, **self._bound, **keys}
        data = json.dumps(line, default=str).encode() + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                return


def now() -> str:
    """This worker's clock: ISO 8601, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def redacted(url: str) -> str:
    """The URL without its query, which in a presigned URL is the secret."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
