"""Logging: one way for all events, and nothing secret in them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from cdmtaskservice.logs import REDACTED, Format, Level, configure_logging, redact, redact_text

SECRET = "hunter2hunter2"
PRESIGNED = f"https://s3.example/cts/io/a.fa?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SECRET}"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


def configured(level: Level = "INFO", fmt: Format = "json") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, fmt, stream)
    return stream


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_level_logger_and_context() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(request_id="r1", job="j1"):
        structlog.get_logger("cts.test").info("job_moved", state="complete", count=3, note="two\nlines ü")
    (event,) = events(stream)
    at = datetime.datetime.fromisoformat(event.pop("timestamp"))
    assert at.utcoffset() == datetime.timedelta(0)
    assert event == {
        "event": "job_moved",
        "level": "info",
        "logger": "cts.test",
        "request_id": "r1",
        "job": "j1",
        "state": "complete",
        "count": 3,
        "note": "two\nlines ü",
    }


def test_libraries_go_the_same_way() -> None:
    logging.getLogger("uvicorn.access").addHandler(logging.StreamHandler())
    logging.getLogger("uvicorn.access").propagate = False
    stream = configured()
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("uvicorn.access").info("%s %s", "GET", PRESIGNED)
        logging.getLogger("botocore.endpoint").warning("slow: %s", "s3")
        logging.getLogger("aiokafka").error("gone")
    access, botocore, kafka = events(stream)
    assert access["event"] == f"GET https://s3.example/cts/io/a.fa?{REDACTED}"
    assert (access["logger"], access["level"], access["request_id"]) == ("uvicorn.access", "info", "r1")
    assert (botocore["event"], botocore["level"]) == ("slow: s3", "warning")
    assert (kafka["event"], kafka["level"]) == ("gone", "error")
    assert "timestamp" in kafka


def test_levels() -> None:
    stream = configured("WARNING")
    structlog.get_logger("cts.test").info("hidden")
    logging.getLogger("other").info("hidden")
    structlog.get_logger("cts.test").warning("shown")
    assert [e["event"] for e in events(stream)] == ["shown"]


def test_libraries_that_log_signatures_are_never_heard_below_warning() -> None:
    stream = configured("DEBUG")
    for name in ("botocore.auth", "httpx", "pymongo.command", "aiokafka.conn", "urllib3.connectionpool"):
        logging.getLogger(name).info("CanonicalRequest %s", SECRET)
    structlog.get_logger("cts.test").debug("ours")
    assert [e["event"] for e in events(stream)] == ["ours"]


def test_a_second_configuration_replaces_the_first() -> None:
    first, log = configured(), structlog.get_logger("cts.test")
    log.info("one")
    second = configured("ERROR")
    log.info("two")
    log.error("three")
    assert [e["event"] for e in events(first)] == ["one"]
    assert [e["event"] for e in events(second)] == ["three"]


def test_a_traceback_is_in_the_event_without_secrets() -> None:
    stream = configured()
    try:
        raise OSError(f"GET {PRESIGNED} with Authorization: {SECRET}")
    except OSError:
        structlog.get_logger("cts.test").exception("fetch_failed")
        logging.getLogger("other").exception("failed too")
    ours, theirs = events(stream)
    for event in (ours, theirs):
        assert "OSError: GET https://s3.example/cts/io/a.fa?" in event["exception"]
    assert SECRET not in stream.getvalue()


def test_warnings_are_events_too() -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old habit", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    (event,) = events(stream)
    assert "old habit" in event["event"]
    assert event["level"] == "warning"


def test_the_console_format_is_for_people_and_keeps_secrets_too() -> None:
    stream = configured(fmt="console")
    structlog.get_logger("cts.test").info("job_moved", state="complete", token=SECRET, url=PRESIGNED)
    text = stream.getvalue()
    assert "job_moved" in text
    assert "state=complete" in text
    assert SECRET not in text
    assert "\x1b" not in text, "no colours where there is no terminal"


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "container_token",
        "x-auth-token",
        "accessToken",
        "Authorization",
        "auth",
        "password",
        "sasl_password",
        "passwd",
        "secret",
        "client_secret",
        "secret_key",
        "access_key",
        "api_key",
        "apiKey",
        "private_key",
        "Cookie",
        "credentials",
        "worker_signing_secrets",
    ],
)
def test_values_of_secret_names_are_redacted_at_any_depth(key: str) -> None:
    stream = configured()
    structlog.get_logger().info("e", **{key: SECRET}, inner=[{"deep": ({key: [SECRET]},)}])
    (event,) = events(stream)
    assert event[key] == REDACTED
    assert event["inner"] == [{"deep": [{key: REDACTED}]}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("token_file", "/etc/cts/executor.token"),
        ("token_expires", "2030-01-01T00:00:00Z"),
        ("access_key_id", "AKEXAMPLE"),
        ("tokens", 5),
        ("author", "ada"),
        ("key", "bucket/key"),
        ("auth_kind", "kbase"),
        ("secrets_ok", True),
    ],
)
def test_harmless_names_are_shown(key: str, value: object) -> None:
    stream = configured()
    structlog.get_logger().info("e", **{key: value})
    assert events(stream)[0][key] == value


@pytest.mark.parametrize(
    "text",
    [
        PRESIGNED,
        f"https://s3.example/a?AWSAccessKeyId=AK&Expires=1&Signature={SECRET}",
        f"PUT '{PRESIGNED}' -> 403",
        f"/cts/a?partNumber=1&x-amz-signature={SECRET}",
        f"https://a.example/?a=?X-Amz-Signature={SECRET}",
        f"mongodb://cts:{SECRET}@mongo.example/cts",
        f"mongodb://cts:p@{SECRET}@mongo.example/cts",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': '{SECRET}'}}",
        f'"authorization":"{SECRET}"',
        f"got bearer {SECRET}",
        f"AWS4-HMAC-SHA256 Credential=AK/x, SignedHeaders=host, Signature={SECRET}",
    ],
)
def test_secrets_within_texts(text: str) -> None:
    assert SECRET not in redact_text(text)
    assert REDACTED in redact_text(text)


@pytest.mark.parametrize(
    "text", ["https://cts.example/jobs?limit=5&state=error", "a plain sentence?", "bucket/a@b", "user@host.example"]
)
def test_harmless_texts_stay(text: str) -> None:
    assert redact_text(text) == text


def test_all_kinds_of_values_become_showable() -> None:
    class Colour(enum.Enum):
        RED = "red"

    class Model(BaseModel):
        name: str
        token: str
        secret: SecretStr

    @dataclasses.dataclass
    class Order:
        url: str

    value = {
        "enum": Colour.RED,
        "model": Model(name="n", token=SECRET, secret=SecretStr(SECRET)),
        "plain": SecretStr(SECRET),
        "order": Order(PRESIGNED),
        "error": ValueError(PRESIGNED),
        "time": datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC),
        "set": {1},
        5: b"x",
    }
    shown = redact(value)
    assert SECRET not in json.dumps(shown)
    assert isinstance(shown, dict)
    assert shown["enum"] == "red"
    assert shown["model"] == {"name": "n", "token": REDACTED, "secret": REDACTED}
    assert shown["time"] == "2030-01-01T00:00:00+00:00"
    assert shown["set"] == [1]
    assert shown["5"] == "b'x'"


def test_a_value_that_holds_itself_ends() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "..." in json.dumps(redact(endless))


@given(st.text())
def test_any_text_can_be_redacted_and_stays_redacted(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@pytest.mark.parametrize("piece", ["?", "://", "://a", "://@", "authorization:", "Bearer ", "?a=", "@", "https://a?"])
def test_long_texts_take_no_long(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    before = time.perf_counter()
    redact_text(text)
    # Time that grows with the square of the length would be minutes here.
    assert time.perf_counter() - before < 5
