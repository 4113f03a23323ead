"""What shells offer on Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdmtaskservice.cli.completion import STATES
from cdmtaskservice.domain.states import JobState
from test.unit.cli_service import IMAGE, JOB_ID, NOBODY, FakeService, job

PROGRAM = "import sys; from cdmtaskservice.cli.main import app; app(prog_name='cts')"


def offered(service: FakeService, line: str, **environment: str) -> list[str]:
    """What bash would offer at the end of a line."""
    env = {
        **os.environ,
        "CTS_URL": service.url,
        "CTS_TOKEN": "t",
        "CTS_PROFILE_FILE": str(service.profile),
        "_CTS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_and_options(service: FakeService) -> None:
    assert set(offered(service, "cts jo")) == {"job", "jobs"}
    assert "--download" in offered(service, "cts outputs --d")
    assert service.asked == []


def test_states_without_asking(service: FakeService) -> None:
    assert offered(service, "cts jobs --state can") == ["canceling", "canceled"]
    assert service.asked == []
    assert list(STATES) == [s.value for s in JobState]


def test_what_the_service_knows(service: FakeService, tmp_path: Path) -> None:
    service.says("GET /jobs", {"jobs": [job("created"), job("complete") | {"id": "9" * 8}]})
    service.says("GET /images", {"data": [IMAGE, {k: v for k, v in IMAGE.items() if k != "tag"}]})
    site = {"nodes": 1, "cpus_per_node": 1, "memory_per_node_gb": 1, "max_runtime_min": 1, "active": True}
    service.says("GET /sites", {"sites": [site | {"cluster": c, "available": True} for c in ("kbase", "nersc")]})
    for command in ("job", "watch", "logs", "outputs", "cancel"):
        assert offered(service, f"cts {command} 3") == [JOB_ID]
    assert offered(service, "cts cancel x ") == [JOB_ID, "99999999"]
    assert offered(service, "cts sites close k") == ["kbase"]
    assert offered(service, "cts jobs --site n") == ["nersc"]
    assert len(offered(service, "cts images show registry")) == 2
    (tmp_path / "token").write_text("of-the-file")
    line = f"cts job --url {service.url} --token-file {tmp_path / 'token'} 3"
    assert offered(service, line, CTS_URL=NOBODY) == [JOB_ID]
    assert service.asked[-1].token == "Bearer of-the-file"


@pytest.mark.parametrize("environment", [{"CTS_URL": NOBODY}, {"CTS_URL": "nonsense"}, {"CTS_URL": ""}, {}], ids=str)
def test_silence_where_the_service_says_nothing(service: FakeService, environment: dict[str, str]) -> None:
    service.says("GET /jobs", b"<html>", 500)
    assert offered(service, "cts job ", **environment) == []


def test_it_can_be_installed(service: FakeService) -> None:
    assert "--install-completion" in service.cts("--help").stdout
