"""Requests before they are sent, and replies after they came. No I/O."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from cdmtaskservice.client.errors import UnexpectedReply, read_error
from cdmtaskservice.client.job_input import format_duration

_SAFE = "/:@!$&()*+,=~-._"
"""What may stand in a path as it is. Slashes separate; the service counts a doubled one as one."""


@dataclass(frozen=True)
class Request:
    """A request to the service or, with `url`, to the store that a presigned URL leads to.

    repeatable: whether it may be sent again though it may have arrived. read_timeout: seconds without a byte, None for
    the client's own.
    """

    method: str
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    repeatable: bool = True
    url: str | None = field(default=None, repr=False)
    read_timeout: float | None = None


@dataclass(frozen=True)
class Reply:
    """A reply. headers: by lower-case name. repeated: whether an earlier try of the request may have arrived."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    repeated: bool = False

    def check(self) -> Reply:
        """The reply itself. Raises ServiceError where it is none of success."""
        if self.status < 300:
            return self
        if self.status < 400:
            # Following it could take the token to somebody else.
            raise UnexpectedReply(
                f"The service's URL leads elsewhere (HTTP {self.status}), to {self.headers.get('location', 'nowhere')}:"
                " give that URL if it is the service's"
            )
        error = read_error(self.status, self.body)
        error.repeated = self.repeated
        raise error

    def json(self) -> Any:
        """The body. Raises UnexpectedReply where it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise UnexpectedReply(
                "What answers at the service's URL does not send JSON: is it the CDM Task Service?"
            ) from None


def get(path: str, query: Mapping[str, object] | None = None, **more: Any) -> Request:
    """A GET."""
    return Request("GET", path, _query(query), **more)


def put(path: str, query: Mapping[str, object] | None = None, body: object = None) -> Request:
    """A PUT."""
    return _with_body("PUT", path, query, body, True, {})


def delete(path: str, query: Mapping[str, object] | None = None) -> Request:
    """A DELETE."""
    return Request("DELETE", path, _query(query))


def post(
    path: str,
    query: Mapping[str, object] | None = None,
    body: object = None,
    *,
    repeatable: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """A POST, which by itself may not be repeated."""
    return _with_body("POST", path, query, body, repeatable, headers or {})


def path_of(*parts: str | int) -> str:
    """A path of the service: the parts quoted, with slashes between. Slashes within a part stay.

    Raises ValueError for a part that is empty, or that would lead to another URL.
    """
    shown = []
    for part in map(str, parts):
        if not part.strip("/") or any(s in {".", ".."} for s in part.split("/")):
            raise ValueError(f"{part!r} can be no part of a URL")
        shown.append(quote(part, safe=_SAFE))
    return "/" + "/".join(shown)


def id_of(text: str) -> str:
    """An ID, or a site's name, as one part of a path. Raises ValueError where it cannot be one."""
    if "/" in text:
        raise ValueError(f"{text!r} has a slash, which no ID has")
    return text


def time_text(value: datetime.datetime | str) -> str:
    """A time as the service reads it. Raises ValueError where it has no timezone."""
    if isinstance(value, str):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{value} has no timezone: give it one, such as datetime.UTC")
    return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _with_body(
    method: str,
    path: str,
    query: Mapping[str, object] | None,
    body: object,
    repeatable: bool,
    headers: Mapping[str, str],
) -> Request:
    if body is None:
        return Request(method, path, _query(query), dict(headers), None, repeatable)
    content = json.dumps(body, allow_nan=False).encode()
    return Request(method, path, _query(query), {**headers, "content-type": "application/json"}, content, repeatable)


def _query(query: Mapping[str, object] | None) -> dict[str, str]:
    return {name: _text(value) for name, value in (query or {}).items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        return time_text(value)
    if isinstance(value, datetime.timedelta):
        return format_duration(value)
    return str(value)
