"""Where to go after signing in."""

from __future__ import annotations

import re
import urllib.parse

FIRST = "/jobs"
"""The page for whoever wants no other."""

_NO_PAGE = re.compile(
    r"(?P<job>/(?:admin/)?jobs/[^/]+)/(?:download|events|log/(?P<number>[0-9]+)/(?P<stream>stdout|stderr))"
)


def next_page(below: str) -> str:
    """The page of ours that is asked for, by its path below that of the pages; the first one for anything else.

    What is no page leads to the one that it belongs to. A download above all: it goes on to another host, and browsers
    let no form of ours get there, not by redirects either.
    """
    if not below.startswith("/") or below.startswith("//") or not below.isprintable() or not below.isascii():
        return FIRST
    path = urllib.parse.unquote(re.split("[?#]", below, maxsplit=1)[0])
    if "\\" in below or "\\" in path or {".", ".."} & set(path.split("/")):
        return FIRST
    found = _NO_PAGE.fullmatch(re.sub("/+", "/", path).rstrip("/"))
    if found is None:
        return below
    page = urllib.parse.quote(found["job"])
    return page if found["number"] is None else f"{page}/containers/{found['number']}?stream={found['stream']}"
