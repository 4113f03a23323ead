"""Whether the service on this machine serves requests: the health check of the image.

    python3 -m cdmtaskservice.cli.alive [URL]

Ends with 0 or 1. Loads next to nothing, since it is run again and again.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence

_TIMEOUT = 4.0
"""Seconds."""


def url_of(environment: Mapping[str, str]) -> str:
    """Where the service of this environment says that it is alive."""
    port = environment.get("KBCTS_SERVICE__PORT") or environment.get("KBCTS_SERVICE_PORT") or "5000"
    return f"http://127.0.0.1:{port}/health/live"


def alive(url: str) -> bool:
    """Whether there is a good answer in time."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_TIMEOUT) as answer:
            return bool(answer.status == http.HTTPStatus.OK)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code."""
    return 0 if alive(arguments[0] if arguments else url_of(environment)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
