"""What `cts` says where the service says no, nothing, or something odd; and how it writes."""

from __future__ import annotations

import datetime
import json

import pytest
import typer

from cdmtaskservice.cli.terminal import EXIT_CODES, Exit, harmless
from cdmtaskservice.cli.wording import duration_shown, read_seconds, read_time, size_shown, time_shown
from test.unit.cli_service import JOB_ID, NOBODY, FakeService, job

EVIL = "\x1b[2Jgone\r\nfaked\x9b1m\u202etxt\u2028"


@pytest.mark.parametrize(
    "arguments",
    [
        ["whoami"],
        ["jobs"],
        ["job", JOB_ID],
        ["watch", JOB_ID],
        ["logs", JOB_ID],
        ["logs", JOB_ID, "-f"],
        ["outputs", JOB_ID],
        ["cancel", JOB_ID],
        ["images"],
        ["images", "show", "x"],
        ["sites"],
        ["refdata", "list"],
        ["admin", "jobs"],
        ["admin", "cancel", JOB_ID],
    ],
    ids=" ".join,
)
def test_a_service_that_does_not_answer_is_3(
    arguments: list[str], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    done = service.cts(*arguments, "--url", NOBODY)
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"({NOBODY})" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        (401, 10020, "nobody has this token", "; `cts login` takes a new token"),
        (403, 20000, "this job is not yours", ""),
        (404, 40040, "there is no such job", ""),
        (500, None, "our fault", ""),
    ],
)
def test_a_refusal_is_1_with_the_services_words(
    status: int, code: int, message: str, said: str, service: FakeService
) -> None:
    service.refuses(f"GET /jobs/{JOB_ID}", status, code, message)
    done = service.cts("job", JOB_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"{message} (HTTP {status}, request 0123){said}\n"


@pytest.mark.parametrize(
    ("what", "arguments", "code", "remedy"),
    [
        ("GET /images/x", ["images", "show", "x"], 40030, "`cts images` lists"),
        (f"GET /jobs/{JOB_ID}/log/0/stdout", ["logs", JOB_ID], 40070, "`cts job ID` shows"),
    ],
)
def test_what_can_be_done_is_said(
    what: str, arguments: list[str], code: int, remedy: str, service: FakeService
) -> None:
    service.refuses(what, 404, code, "there is none")
    done = service.cts(*arguments)
    assert done.exit_code == 1
    assert f"there is none (HTTP 404, request 0123); {remedy}" in done.stderr


def test_how_the_log_of_a_container_that_runs_is_read(service: FakeService) -> None:
    service.refuses(f"GET /jobs/{JOB_ID}/log/0/stdout", 404, 40070, "with follow=true it can be read as it is written")
    done = service.cts("logs", JOB_ID)
    assert done.stderr == "with follow=true it can be read as it is written (HTTP 404, request 0123); use -f for that\n"


def test_no_token_is_said_to_be_missing(service: FakeService) -> None:
    service.refuses("GET /jobs", 401, 10010, "no token")
    done = service.cts("jobs", CTS_TOKEN=None)
    assert done.exit_code == 1
    assert done.stderr.startswith("This needs your token: call `cts login`")


@pytest.mark.parametrize("body", [b"<html>Log in", b"[]", b'{"jobs": 5}', b'{"jobs": [{"id": 5}]}'])
def test_what_is_no_service_is_1(body: bytes, service: FakeService) -> None:
    service.says("GET /jobs", body)
    done = service.cts("jobs")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_an_id_that_cannot_be_one_is_1(service: FakeService) -> None:
    for wrong in ("a/b", "..", ""):
        done = service.cts("job", wrong)
        assert (done.exit_code, done.stdout, service.asked) == (1, "", [])
        assert done.stderr.count("\n") == 1


def test_what_the_service_says_does_nothing_to_a_terminal(service: FakeService) -> None:
    service.says("GET /jobs", {"jobs": [job("created", job_input={"name": EVIL, "tags": [EVIL]})]})
    service.says(f"GET /jobs/{JOB_ID}", job("error", error=EVIL, waiting=EVIL, admin_meta={EVIL: EVIL}))
    service.refuses("GET /images/x", 404, 40030, EVIL)
    service.says("GET /sites", {"sites": []})
    outputs = [
        service.cts("jobs").output,
        service.cts("jobs", "--json").output,
        service.cts("job", JOB_ID).output,
        service.cts("images", "show", "x").output,
    ]
    for output in outputs:
        assert "gone" in output
        assert not [c for c in output if c in "\x1b\r\x9b\u202e\u2028"], output
    assert outputs[0].count("\n") == 1
    assert json.loads(outputs[1])["jobs"][0]["job_input"]["name"] == EVIL


def test_harmless() -> None:
    assert harmless("plain ä 日本 🧬 a\u0301") == "plain ä 日本 🧬 a\u0301"
    assert harmless("a\tb\nc") == "a\\tb\\nc"
    assert harmless("\ud800\x00\x7f") == "\\ud800\\x00\\x7f"


def test_exit_codes_are_in_the_help(service: FakeService) -> None:
    text = service.cts("--help").stdout
    assert [code for code, _ in EXIT_CODES] == list(Exit)
    for code, words in EXIT_CODES:
        assert f"  {code.value} {words}\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1, "0.0 s"), (0.04, "0.0 s"), (4.25, "4.2 s"), (59.4, "59 s"), (60, "1 min"), (125, "2 min 5 s")),
        *((3600, "1 h"), (5400, "1 h 30 min"), (86400, "1 d"), (90000, "1 d 1 h")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_shown(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (50_000_000, "50 MB"), (123_456_789, "123 MB")),
        *((999_999, "1 MB"), (2_000_000_000, "2 GB"), (3.5e12, "3.5 TB"), (5e15, "5,000 TB")),
    ],
)
def test_sizes(size: float, text: str) -> None:
    assert size_shown(size) == text


def test_times() -> None:
    assert time_shown(datetime.datetime(2030, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))) == (
        "2029-12-31 23:00:00Z"
    )
    assert read_time("2030-01-31T12:00:00+02:00").isoformat() == "2030-01-31T10:00:00+00:00"
    local = datetime.datetime(2030, 1, 31).astimezone(datetime.UTC)
    assert read_time("2030-01-31") == local
    with pytest.raises(typer.BadParameter):
        read_time("yesterday")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5), ("15m", 900), ("2 h", 7200), ("1d", 86400)])
def test_time_spans(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds
    for wrong in ("", "soon", "-1", "10:00", "1w"):
        with pytest.raises(typer.BadParameter):
            read_seconds(wrong)
