"""What people at a terminal see, and scripts do not."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from test.unit.cli_service import JOB_ID, TOKEN, FakeService, container, job, steps

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def at_a_terminal(service: FakeService, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str]:
    """The exit code and all that is on the screen. typed: lines, each for when a colon and a blank came."""
    ours, theirs = pty.openpty()
    clean = {n: v for n, v in os.environ.items() if n not in {"NO_COLOR", "FORCE_COLOR", "COLORTERM"}}
    env = {"CTS_URL": service.url, "CTS_TOKEN": TOKEN, "CTS_PROFILE_FILE": str(service.profile)}
    env |= {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "40"}
    command = [sys.executable, "-m", "cdmtaskservice.cli", *arguments]
    seen: list[bytes] = []
    lines = [line.encode() for line in typed.splitlines(keepends=True)]

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            seen.append(data)
            if lines and b"".join(seen).endswith(b": "):
                os.write(ours, lines.pop(0))

    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, **env, **environment},
        start_new_session=True,  # else it could ask whoever has started the tests
    )
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        code = process.wait(60)
    finally:
        process.kill()
        reader.join()
        os.close(ours)
    return code, b"".join(seen).decode()


def test_a_table_has_colours_and_whole_ids(service: FakeService) -> None:
    evil = "[bold]x[/bold]\x1b]0;title\x07"
    service.says("GET /jobs", {"jobs": [job("error", job_input={"name": evil}), job("complete"), job("created")]})
    code, screen = at_a_terminal(service, "jobs")
    assert code == 0
    assert "containers" in screen, "columns have headings"
    for colour, state in (("31", "error"), ("32", "complete"), ("36", "created")):
        assert re.search(rf"\x1b\[{colour}m{state[:5]}", screen), screen
    plain = COLOUR.sub("", screen)
    assert plain.count(JOB_ID) == 3, "an ID is copied, so it stands in one piece"
    assert "\x1b" not in plain
    assert "\x07" not in plain
    assert "[bold]" in plain.replace("\n", ""), "a name is no markup"


def test_no_color_is_heeded(service: FakeService) -> None:
    service.says("GET /jobs", {"jobs": [job("error")]})
    _, screen = at_a_terminal(service, "jobs", NO_COLOR="1")
    assert not re.search(r"\x1b\[(3|9)[0-9]", screen)
    assert JOB_ID in screen


def test_a_job_is_shown_in_a_narrow_terminal(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}", job("created", "error", error="why it failed"))
    each = [container(0, "error", exit_code=7, error="exit code 7")]
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": each})
    code, screen = at_a_terminal(service, "job", JOB_ID)
    assert code == 0
    plain = COLOUR.sub("", screen)
    assert JOB_ID in plain
    assert "why it failed" in plain


@pytest.mark.parametrize("command", [["watch", JOB_ID], ["submit", "-", "--wait"]], ids=lambda c: c[0])
def test_a_bar_is_drawn_while_somebody_waits(service: FakeService, command: list[str]) -> None:
    told = "".join(
        f'id: {n}\nevent: state\ndata: {{"state": "{s["state"]}", "time": "{s["time"]}"}}\n\n'
        for n, s in enumerate(steps("created", "complete"))
    )
    told += 'event: containers\ndata: {"counts": {"complete": 2}}\n\nevent: end\ndata: {"state": "complete"}\n\n'
    stream = {"Content-Type": "text/event-stream"}
    service.says(f"GET /jobs/{JOB_ID}/events", told.encode(), headers=stream)
    service.says(f"GET /jobs/{JOB_ID}", job("created", "complete"))
    service.says("POST /jobs", {"job_id": JOB_ID})
    if command[0] == "submit":
        file = service.profile.parent / "job.yaml"
        file.write_text("cluster: local\n")
        command = ["submit", str(file), "--wait"]
    code, screen = at_a_terminal(service, *command, COLUMNS="120")
    assert code == 0, screen
    plain = COLOUR.sub("", screen)
    assert "2/2" in plain
    assert "2030-01-01 12:01:30Z  complete" in plain
    assert f"{JOB_ID} is complete, after 1 min 30 s" in plain


def test_a_token_is_not_shown_while_it_is_typed(service: FakeService) -> None:
    service.says("GET /whoami", {"user": "ann"})
    code, screen = at_a_terminal(service, "login", typed=f"{service.url}\nvery-secret\n", CTS_URL="", CTS_TOKEN="")
    assert code == 0, screen
    assert "Your token for http://127.0.0.1" in screen
    assert f"ann is logged in at {service.url}" in screen
    assert "very-secret" not in screen
    assert service.asked[0].token == "Bearer very-secret"


def test_help_is_drawn_for_people(service: FakeService) -> None:
    code, screen = at_a_terminal(service, "--help", COLUMNS="100")
    assert code == 0
    assert "· 4 the job ended in error ·" in " ".join(COLOUR.sub("", screen).split())
    assert "╭" in screen
    _, screen = at_a_terminal(service, "images", "show", "--help", COLUMNS="100")
    assert "HOST/PATH[:TAG][@DIGEST]" in COLOUR.sub("", screen), "brackets are no markup"
