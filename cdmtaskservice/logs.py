"""Logging: structured events, as lines of JSON or for people, with nothing secret in them.

Everything goes one way: our own events (structlog) and those of libraries (the standard library's logging) pass
through the same processors to the same stream.
"""

from __future__ import annotations

import datetime
import enum
import logging
import re
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

import structlog
from pydantic import BaseModel, SecretBytes, SecretStr
from structlog.types import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Format = Literal["json", "console"]

# At DEBUG, and httpx at INFO, these log each request: much, and with headers, signatures and queries in it.
_TALKATIVE = (
    "aiobotocore",
    "aiohttp.access",
    "aiokafka",
    "asyncio",
    "boto3",
    "botocore",
    "hpack",
    "httpcore",
    "httpx",
    "kafka",
    "motor",
    "pymongo",
    "urllib3",
)
# uvicorn gives these handlers of their own unless it is told not to; their events must come our way.
_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

_SECRET_KEY = re.compile(
    r"authorization|cookie|credential|passw|passphrase|secret|signature|token|(?:^|[._-])auth$"
    r"|(?:access|api|private|signing)[._-]?key",
    re.IGNORECASE,
)
# What is known of a secret without being it, as in token_file, token_id, token_expires.
_HARMLESS_KEY = re.compile(r"[._-](?:expir(?:es|y)|file|id|kind|name|path|type|url)$", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Each of these reads a text in time that grows with its length only, since texts come from anywhere.
_QUERY = re.compile(r"\?(?=[^\s\"'<>?]*(?:X-Amz-|Signature=|AWSAccessKeyId=|token=))[^\s\"'<>]*", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@\"'<>]*@)+")
_AUTHORIZATION = re.compile(
    r"(?P<head>\bauthorization[\"']?\s?[:=]\s?[\"']?|\bAWS4-HMAC-SHA256 )[^\"'\r\n]+", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<head>\b(?:Bearer|Basic) )[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_DEEPEST = 20


def configure_logging(level: Level = "INFO", fmt: Format = "json", stream: TextIO | None = None) -> None:
    """Send all events of this process to `stream`, standard error if None, and take over the root logger.

    Call it once at start, and start uvicorn with `log_config=None`. `request_id`, `job` and the like come from
    `structlog.contextvars`.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(fmt, colors=stream.isatty()))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _UVICORN:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Cached loggers would go on as they were before a later configuration, and out of tests' reach.
        cache_logger_on_first_use=False,
    )


def redact(value: object) -> object:
    """A copy of a value for showing: secrets are replaced, what JSON does not know becomes text."""
    return _redact(value, 0)


def redact_text(text: str) -> str:
    """The text without the queries of presigned URLs, passwords in URLs and authorization headers."""
    text = _QUERY.sub("?" + REDACTED, text)
    text = _URL_CREDENTIALS.sub(REDACTED + "@", text)
    text = _AUTHORIZATION.sub(rf"\g<head>{REDACTED}", text)
    return _BEARER.sub(rf"\g<head>{REDACTED}", text)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(fmt: Format, *, colors: bool) -> logging.Formatter:
    # Tracebacks become text before redaction, since errors of libraries quote URLs.
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    if fmt == "json":
        last.append(structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False))
    else:
        last.append(
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        )
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_shared(), processors=last)


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: _redact_named(key, value, 0) for key, value in event.items()}


def _redact_named(key: str, value: object, depth: int) -> object:
    words = _CAMEL_CASE.sub("_", key)
    if _is_plain(value) or not _SECRET_KEY.search(words) or _HARMLESS_KEY.search(words):
        return _redact(value, depth)
    return REDACTED


def _is_plain(value: object) -> bool:
    """Numbers and the like: never secret, and JSON knows them."""
    return value is None or type(value) in {bool, int, float}


def _redact(value: object, depth: int) -> object:
    if _is_plain(value):
        return value
    if isinstance(value, (SecretStr, SecretBytes)):
        return REDACTED
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, enum.Enum):
        return _redact(value.value, depth + 1)
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {str(key): _redact_named(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact(inner, depth + 1) for inner in value]
    return redact_text(str(value) if isinstance(value, BaseException) else repr(value))
