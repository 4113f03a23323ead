"""`cts watch` and `cts logs`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cdmtaskservice.cli import follow
from test.unit.cli_service import JOB_ID, FakeService, container, job, steps

STREAM = {"Content-Type": "text/event-stream"}
LOG = f"GET /jobs/{JOB_ID}/log/0/stdout"


STATUS = {name: job("created")[name] for name in ("id", "user", "state", "transition_times", "admin_meta")}


def stream(*told: tuple[str, dict[str, Any]], first: int = 0) -> bytes:
    """Events, their states numbered from `first` on."""
    text, number = "", first
    for kind, data in told:
        if kind == "state":
            text += f"id: {number}\n"
            number += 1
        text += f"event: {kind}\ndata: {json.dumps(data)}\n\n"
    return text.encode()


def states(*names: str) -> list[tuple[str, dict[str, Any]]]:
    return [("state", dict(step)) for step in steps(*names)]


def test_a_job_is_followed(service: FakeService) -> None:
    told = [
        *states("created"),
        ("containers", {"counts": {"created": 2}}),
        ("waiting", {"waiting": "no machine\tis free"}),
        ("waiting", {"waiting": None}),
        ("containers", {"counts": {"created": 1, "job_submitted": 1}}),
        ("containers", {"counts": {"complete": 1, "job_submitted": 1}, "exit_codes": 1}),
        ("containers", {"counts": {"complete": 2}, "exit_codes": 2}),
        ("new kind", {"x": 1}),
        ("state", {"state": "complete", "time": "2030-01-01T12:03:00Z"}),
        ("end", {"state": "complete"}),
    ]
    service.says(f"GET /jobs/{JOB_ID}/events", stream(*told), headers=STREAM)
    service.says(f"GET /jobs/{JOB_ID}", job("created", "complete"))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 0, done.output
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["2030-01-01 12:00:00Z", "created", ""],
        ["", "containers", "created 2"],
        ["", "waiting", "no machine\\tis free"],
        ["", "containers", "created 1, job_submitted 1"],
        ["", "containers", "complete 1, job_submitted 1"],
        ["", "containers", "complete 2"],
        ["2030-01-01 12:03:00Z", "complete", ""],
    ]
    assert done.stderr.startswith(f"{JOB_ID} is complete, after 1 min 30 s\n")
    done = service.cts("watch", JOB_ID, "--json")
    assert json.loads(done.stdout) == job("created", "complete")


@pytest.mark.parametrize(("state", "code"), [("complete", 0), ("error", 4), ("canceled", 5)])
def test_the_exit_code_tells_the_end(state: str, code: int, service: FakeService) -> None:
    service.says(
        f"GET /jobs/{JOB_ID}/events", stream(*states("created", state), ("end", {"state": state})), headers=STREAM
    )
    service.says(f"GET /jobs/{JOB_ID}", job("created", state, error="why" if state == "error" else None))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == code
    assert ("why\n" in done.stderr) == (state == "error")


def test_a_stream_that_breaks_goes_on(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}/events", stream(*states("created", "job_submitted")), headers=STREAM)
    rest = stream(*states("created", "job_submitted", "complete")[2:], ("end", {"state": "complete"}), first=2)
    service.says(f"GET /jobs/{JOB_ID}/events", rest, headers=STREAM)
    service.says(f"GET /jobs/{JOB_ID}", job("created", "job_submitted", "complete"))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 0
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["created", "job_submitted", "complete"]
    assert service.asked[1].headers["last-event-id"] == "1"


def test_a_service_that_goes_away_is_waited_for(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.0)
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.says(f"GET /jobs/{JOB_ID}/events", stream(*states("created")), headers=STREAM)
    service.refuses(f"GET /jobs/{JOB_ID}/events", 503, 0, "the database is away")
    service.refuses(f"GET /jobs/{JOB_ID}/events", 503, 0, "the database is away")
    ended = stream(*states("created", "complete"), ("end", {"state": "complete"}))
    service.says(f"GET /jobs/{JOB_ID}/events", ended, headers=STREAM)
    service.says(f"GET /jobs/{JOB_ID}", job("created", "complete"))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 0, done.output
    lines = [line.split("\t")[1:] for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["created", "waiting", "complete"]
    assert "does not answer, and is waited for" in lines[1][1]


def test_a_service_that_never_answered_is_3(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.refuses(f"GET /jobs/{JOB_ID}/events", 503, 0, "the database is away")
    done = service.cts("watch", JOB_ID)
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"the database is away ({service.url}, request 0123)" in done.stderr


def test_too_many_requests_are_waited_out(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.0)
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.refuses(f"GET /jobs/{JOB_ID}/events", 429, 0, "slow down")
    ended = stream(*states("created", "complete"), ("end", {"state": "complete"}))
    service.says(f"GET /jobs/{JOB_ID}/events", ended, headers=STREAM)
    service.refuses(f"GET /jobs/{JOB_ID}", 429, 0, "slow down")
    service.says(f"GET /jobs/{JOB_ID}", job("created", "complete"))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 0, done.output
    lines = [line.split("\t")[1:] for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["waiting", "created", "complete", "waiting"]
    assert "wants fewer requests, and is waited for: slow down" in lines[0][1]


class _Untrusted:
    """A client of a service whose certificate is no longer trusted."""

    async def events(self, job_id: str) -> Any:
        from cdmtaskservice.client.errors import ServiceUnreachable
        from cdmtaskservice.client.events import StateEvent

        yield StateEvent.read({"state": "created", "time": "2030-01-01T12:00:00Z", "number": 0, "kind": "state"})
        raise ServiceUnreachable("its certificate has expired", hopeless=True)

    async def __aenter__(self) -> _Untrusted:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing."""


def test_what_waiting_cannot_mend_is_not_waited_for(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "connected_async", lambda profile: _Untrusted())
    done = service.cts("watch", JOB_ID, "--timeout", "20")
    assert done.exit_code == 3
    assert "its certificate has expired" in done.stderr


def test_a_service_without_events_is_asked_again_and_again(service: FakeService) -> None:
    status = {name: job("created", "error")[name] for name in ("id", "user", "state", "transition_times", "admin_meta")}
    service.says(f"GET /jobs/{JOB_ID}/status", status)
    service.says(f"GET /jobs/{JOB_ID}", job("created", "error"))
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 4, done.output
    assert f"{JOB_ID} is error" in done.stderr


def test_there_is_no_such_job(service: FakeService) -> None:
    service.refuses(f"GET /jobs/{JOB_ID}/events", 404, 40040, "there is no such job")
    done = service.cts("watch", JOB_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "there is no such job (HTTP 404, request 0123)" in done.stderr


class _Silent:
    """A client whose job does not end."""

    async def events(self, job_id: str) -> Any:
        from cdmtaskservice.client.events import StateEvent

        yield StateEvent.read({"state": "created", "time": "2030-01-01T12:00:00Z", "number": 0, "kind": "state"})
        await asyncio.Event().wait()

    async def __aenter__(self) -> _Silent:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing."""


def test_a_timeout_is_6(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "connected_async", lambda profile: _Silent())
    done = service.cts("watch", JOB_ID, "--timeout", "0.05")
    assert done.exit_code == 6
    assert f"Job {JOB_ID} was not over after 0.05 s: it is created; it goes on, and `cts watch" in done.stderr


def test_interrupted_is_130_and_says_how_to_go_on(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        _[1].close()
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "run", interrupted)
    done = service.cts("watch", JOB_ID)
    assert done.exit_code == 130
    assert f"`cts watch {JOB_ID}` follows it again" in done.stderr


BYTES = b"\xff\x00raw \x1b[1mbytes\r\nlast line"


def test_a_log_is_printed_byte_for_byte(service: FakeService) -> None:
    service.says(LOG, BYTES)
    done = service.cts("logs", JOB_ID)
    assert (done.exit_code, done.stdout_bytes) == (0, BYTES)
    service.says(f"GET /jobs/{JOB_ID}/log/7/stderr", b"err")
    assert service.cts("logs", JOB_ID, "-c", "7", "--stderr", "--seek", "5").stdout_bytes == b"err"
    assert service.requests[1] == f"GET /jobs/{JOB_ID}/log/7/stderr?seek=5&length={8 << 20}"


def test_a_large_log_comes_in_pieces(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PIECE", 4)
    for piece in (b"abcd", b"efgh", b""):
        service.says(LOG, piece)
    assert service.cts("logs", JOB_ID).stdout_bytes == b"abcdefgh"
    assert [what.partition("?")[2] for what in service.requests] == ["length=4", "seek=4&length=4", "seek=8&length=4"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(0, b""), (1, b"three"), (2, b"two\nthree"), (9, b"one\ntwo\nthree")],
)
@pytest.mark.parametrize("piece", [1, 2, 5, 100])
def test_the_last_lines(
    lines: int, expected: bytes, piece: int, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"one\ntwo\nthree"
    monkeypatch.setattr(follow, "PIECE", piece)
    for at in range(0, len(text) + 1, piece):
        service.says(LOG, text[at : at + piece])
    service.says(LOG, b"")
    assert service.cts("logs", JOB_ID, "--tail", str(lines)).stdout_bytes == expected


def test_a_line_end_ends_a_line(service: FakeService) -> None:
    service.says(LOG, b"one\ntwo\n\n")
    assert service.cts("logs", JOB_ID, "--tail", "2").stdout_bytes == b"two\n\n"


def test_a_running_log_goes_on_over_attempts(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}/status", STATUS)
    service.says(LOG, b"of one", headers={"CTS-Log-Attempt": "1", "CTS-Log-Offset": "0"})
    service.says(LOG, b"of two\n", headers={"CTS-Log-Attempt": "2", "CTS-Log-Offset": "30"})
    running = {"containers": [container(0, "job_submitted", attempt=2)]}
    service.says(f"GET /jobs/{JOB_ID}/containers", running)
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": [container(0, "complete", attempt=2)]})
    done = service.cts("logs", JOB_ID, "-f")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("of one")
    assert "attempt 1 was lost; attempt 2 begins" in done.stderr
    assert "bytes before this are kept no more" in done.stderr
    assert service.requests[1] == f"{LOG}?follow=true"


def test_a_running_log_outlives_an_outage(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.says(f"GET /jobs/{JOB_ID}/status", STATUS)
    service.refuses(LOG, 503, 0, "the database is away")
    service.says(LOG, b"all", headers={"CTS-Log-Attempt": "1", "CTS-Log-Offset": "0"})
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": [container(0, "complete")]})
    done = service.cts("logs", JOB_ID, "-f")
    assert (done.exit_code, done.stdout) == (0, "all")


def test_no_log_says_so(service: FakeService) -> None:
    service.refuses(LOG, 404, 40070, "container 0 has left no log yet")
    done = service.cts("logs", JOB_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "container 0 has left no log yet" in done.stderr


def test_tail_and_follow_exclude_each_other(service: FakeService) -> None:
    done = service.cts("logs", JOB_ID, "-f", "--tail", "5")
    assert (done.exit_code, service.asked) == (2, [])


def test_a_reader_who_has_enough_is_no_fault(service: FakeService) -> None:
    service.says(LOG, b"line\n" * 200_000)
    env = {**os.environ, "CTS_URL": service.url, "CTS_TOKEN": "t"}
    command = f"{sys.executable} -m cdmtaskservice.cli logs {JOB_ID} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("line\n0\n", "")
