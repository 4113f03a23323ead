"""Pages of other origins that may call the service from a browser (CORS).

A token goes in a header that a page sets itself, so browsers are never told to send credentials of their own: a page
can do no more than whoever gave it the token. The service's own pages are not for other origins to read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Scope

ANY = "*"
EXPOSED = ("X-Request-ID", "ETag", "CTS-Log-Attempt", "CTS-Log-Offset", "Retry-After")
"""Headers of answers that pages may read, beside those that they always may."""

_PAGES = "/ui"
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID"
_MAX_AGE = "600"
"""Seconds for which a browser need not ask again."""

Header: TypeAlias = tuple[bytes, bytes]


class Cors:
    """What a browser is told. origins: as browsers write them, or `*` alone. Without any there is nothing to tell."""

    def __init__(self, origins: Collection[str] = (), root_path: str = "") -> None:
        self._origins = frozenset(o.encode() for o in origins)
        self._any = ANY.encode() in self._origins
        self._pages = root_path + _PAGES
        self._exposed = (b"access-control-expose-headers", ", ".join(EXPOSED).encode())

    def headers(self, scope: Scope) -> list[Header]:
        """What is added to the answer, whatever it is."""
        if not self._origins or self._is_page(scope):
            return []
        if self._any:
            return [(b"access-control-allow-origin", b"*"), self._exposed]
        # Caches must not give one origin the answer to another, nor to nobody.
        varies = (b"vary", b"Origin")
        origin = _header(scope, b"origin")
        if origin not in self._origins:
            return [varies]
        return [varies, (b"access-control-allow-origin", origin), self._exposed]

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks whether a page may send a request; None where this is no such question, or
        not from a page that may: then the request is one like any other."""
        if scope["method"] != "OPTIONS" or not self._origins or self._is_page(scope):
            return None
        if not _header(scope, b"access-control-request-method"):
            return None
        origin = _header(scope, b"origin")
        if not origin or not (self._any or origin in self._origins):
            return None
        headers = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _MAX_AGE,
        }
        return Response(status_code=204, headers=headers)

    def _is_page(self, scope: Scope) -> bool:
        path = scope["path"]
        return any(path == root or path.startswith(f"{root}/") for root in {self._pages, _PAGES})


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
