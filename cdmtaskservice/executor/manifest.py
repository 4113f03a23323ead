"""Manifests: which files and symbolic links a directory of reference data has, and of what they were made.

JSON lines. The first is `{"id", "file", "crc64nvme", "size", "unpack", "files", "bytes"}`: what was asked for, and what
came of it. The others, by path, are `{"path", "size", "crc64nvme"}` of a file and `{"path", "link"}` of a link.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any


def write_manifest(path: str, header: Mapping[str, object], entries: Iterable[Mapping[str, object]]) -> None:
    """Write a manifest to `path`, which nobody reads yet."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        for line in (header, *entries):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def read_header(path: str) -> Mapping[str, Any] | None:
    """The first line of a manifest; None where there is no manifest, or none that can be read as one."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return None
    return header if isinstance(header, dict) else None
