"""`cts` where only what users install is there: none of the server's packages, nor those of S3."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from test.unit.cli_service import IMAGE, JOB_ID, TOKEN, FakeService, job

ALONE = """
import json, sys

class Absent:
    absent = frozenset(json.loads(sys.argv.pop(1)))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from cdmtaskservice.cli.main import app
app(prog_name="cts")
"""


REPO = Path(__file__).parents[2]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def absent() -> str:
    """The modules that no package of the base installation brings, as JSON."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known: set[str] = {"cdmtaskservice"}
    waiting = [_name(line) for line in project["dependencies"]]
    while waiting:
        name = waiting.pop()
        if normal(name) in known:
            continue
        known.add(normal(name))
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        waiting += [_name(line) for line in needed if "extra" not in line.partition(";")[2]]
    assert {"httpx", "rich", "typer", "pyyaml", "awscrt"} < known
    assert not known & {"structlog", "fastapi", "motor", "aiohttp"}
    found = packages_distributions()
    return json.dumps([module for module, owners in found.items() if not known & {normal(o) for o in owners}])


def cts(service: FakeService, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CTS_URL": service.url, "CTS_TOKEN": TOKEN, "CTS_PROFILE_FILE": str(service.profile)}
    command = [sys.executable, "-c", ALONE, absent(), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve", "-c", "x.toml"], "server"),
        (["demo"], "server"),
        (["config", "check", "x.toml"], "server"),
        (["config", "render", "x.toml"], "server"),
        (["site", "check", "local", "-c", "x.toml"], "server"),
        (["refdata", "serve", "-c", "x.toml"], "server"),
        (["s3", "checksum", "b/k"], "s3"),
        (["s3", "put", "file", "b/k"], "s3"),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else v,
)
def test_what_is_missing_is_named(arguments: list[str], extra: str, service: FakeService) -> None:
    done = cts(service, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"pip install 'cdmtaskservice[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_all_that_users_do_works(service: FakeService) -> None:
    service.says("GET /whoami", {"user": "ann", "allowed_paths": []})
    service.says("POST /jobs", {"job_id": JOB_ID})
    service.says("GET /jobs", {"jobs": [job("created")]})
    service.says(f"GET /jobs/{JOB_ID}", job("created", "complete"))
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": []})
    service.says(f"GET /jobs/{JOB_ID}/log/0/stdout", b"log\n")
    service.says(f"GET /jobs/{JOB_ID}/files", {"files": [], "total": 0})
    service.says(f"PUT /jobs/{JOB_ID}/cancel")
    end = b'event: end\ndata: {"state": "complete"}\n\n'
    service.says(f"GET /jobs/{JOB_ID}/events", end, headers={"Content-Type": "text/event-stream"})
    service.says("GET /images", {"data": [IMAGE]})
    service.says("GET /sites", {"sites": []})
    service.says("GET /refdata", {"data": []})
    service.says("GET /admin/jobs", {"jobs": []})
    service.says("GET /admin/refdata", {"data": []})
    (service.profile.parent / "job.yaml").write_text("cluster: local\n")
    for command in (
        ["whoami"],
        ["submit", str(service.profile.parent / "job.yaml")],
        ["jobs"],
        ["job", JOB_ID],
        ["watch", JOB_ID],
        ["logs", JOB_ID],
        ["outputs", JOB_ID, "--download", str(service.profile.parent / "out")],
        ["cancel", JOB_ID],
        ["images"],
        ["sites"],
        ["refdata", "list"],
        ["admin", "jobs"],
        ["version"],
        ["submit", "--example"],
    ):
        done = cts(service, *command)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
