"""The kinds of value that a setting can have, beyond the plain ones: durations, URLs, paths, S3 prefixes, lists.

TOML has no null, and a template often gives "" where a variable was left out, so optional settings take a blank
string for "not set".
"""

from __future__ import annotations

import math
import posixpath
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

_ISO_8601 = re.compile(
    r"P(?=.)(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_UNSAFE_IN_PATH = re.compile(r"[\s\x00-\x1f\x7f'\":,$\\]")
_SERVER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", re.ASCII)
USER = "{user}"
"""What stands for the user's name in an allowed path."""


def _parse_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    seconds = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        # Years and months are left out on purpose: they have no fixed length.
        if match := _ISO_8601.fullmatch(value.strip()):
            return timedelta(**{unit: float(n) for unit, n in match.groupdict().items() if n})
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
    if not 0 <= seconds <= timedelta.max.total_seconds() - 1:
        raise ValueError('must be a number of seconds, such as 90, or an ISO 8601 duration, such as "PT1M30S"')
    return timedelta(seconds=seconds)


def _check_url(value: str) -> str:
    advice = "must be an http or https URL such as https://host.example:8443/path"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as exc:
        raise ValueError(advice) from exc
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0 or re.search(r"\s", value):
        raise ValueError(advice)
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user name or a password, since URLs are shown and logged")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise ValueError("must be a URL without ? or #")
    return value.rstrip("/")


def _check_origin(value: str) -> str:
    if value == "*":
        return value
    advice = "must be an origin as browsers write it, such as https://app.example.org or http://localhost:8080, or *"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as exc:
        raise ValueError(advice) from exc
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    usual = {"http": 80, "https": 443}
    whole = value.lower() == f"{url.scheme}://{url.netloc}".lower()
    if url.scheme not in usual or not host or not whole or re.search(r"[@*\s]", value):
        raise ValueError(advice)
    return f"{url.scheme}://{host}" if port in {None, usual[url.scheme]} else f"{url.scheme}://{host}:{port}"


def _check_absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path, since the service may be started from anywhere")
    return value


def _check_worker_path(value: str) -> str:
    if not value.startswith("/") or _UNSAFE_IN_PATH.search(value):
        raise ValueError("must be an absolute path on the workers, without quotes, blanks, : , $ or control characters")
    return posixpath.normpath(value)


def _check_mount_prefix(value: str) -> str:
    parts = value.split(":")
    if len(parts) != 2:
        raise ValueError("must be two absolute paths as from:to, such as /scratch:/var/lib/condor/scratch")
    return ":".join(_check_worker_path(part) for part in parts)


def _check_s3_prefix(value: str) -> str:
    if "{" in value or "}" in value:
        raise ValueError("must not hold { or }")
    return _s3_prefix(value)


def _check_allowed_path(value: str) -> str:
    if value.count(USER) > 1 or re.search(r"[{}]", value.replace(USER, "")):
        raise ValueError("may hold {user} once, and no other { or }")
    if USER in value.split("/", 1)[0]:
        raise ValueError("may hold {user} after the bucket's name only")
    return _s3_prefix(value)


def _s3_prefix(value: str) -> str:
    bucket, _, prefix = value.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "must begin with a bucket's name: 3 to 63 of a-z, 0-9 and -, neither first nor last a -, then a /"
        )
    segments = prefix.removesuffix("/").split("/") if prefix else []
    if any(s in {"", ".", ".."} for s in segments):
        raise ValueError("must be bucket/prefix/ without empty, . or .. parts")
    if re.search(r"[\x00-\x1f\x7f';]", prefix):
        raise ValueError("must not hold control characters, ' or ;")
    return value if value.endswith("/") else value + "/"


def _check_server(value: str) -> str:
    match = _SERVER.fullmatch(value)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ValueError("must be host:port, such as kafka.example:9092")
    return value


def _blank_to_none(value: object) -> object:
    return None if value == "" else value


def _split_commas(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _lone_string_to_list(value: object) -> object:
    return ([value] if value else []) if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration)]
"""A number of seconds or an ISO 8601 duration of weeks, days, hours, minutes and seconds; never negative."""

Url = Annotated[str, AfterValidator(_check_url)]
"""An http(s) URL without credentials, query and fragment, kept without trailing slashes."""

Origin = Annotated[str, AfterValidator(_check_origin)]
"""`http[s]://host[:port]` as browsers write it, or `*`."""

AbsolutePath = Annotated[Path, AfterValidator(_check_absolute)]

S3Prefix = Annotated[str, AfterValidator(_check_s3_prefix)]
"""`bucket/prefix/` or `bucket/`, kept with one trailing slash."""

AllowedPath = Annotated[str, AfterValidator(_check_allowed_path)]
"""As S3Prefix, with `{user}` at most once after the bucket."""

Server = Annotated[str, AfterValidator(_check_server)]
"""`host:port`."""

WorkerPath = Annotated[str, AfterValidator(_check_worker_path)]
"""An absolute path on a worker, which need not mean anything on this machine."""

OptionalWorkerPath = Annotated[WorkerPath | None, BeforeValidator(_blank_to_none)]
OptionalMountPrefix = Annotated[
    Annotated[str, AfterValidator(_check_mount_prefix)] | None, BeforeValidator(_blank_to_none)
]
OptionalUrl = Annotated[Url | None, BeforeValidator(_blank_to_none)]
OptionalPath = Annotated[AbsolutePath | None, BeforeValidator(_blank_to_none)]
OptionalStr = Annotated[str | None, BeforeValidator(_blank_to_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_blank_to_none)]
OptionalInt = Annotated[int | None, BeforeValidator(_blank_to_none)]
OptionalFloat = Annotated[float | None, BeforeValidator(_blank_to_none)]

comma_separated = BeforeValidator(_split_commas)
"""Lets a list be given as one string with commas, which is what an environment variable can hold."""

one_or_many = BeforeValidator(_lone_string_to_list)
"""Lets a list of one string be given as that string."""
