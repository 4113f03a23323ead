"""`cts site check` against a real pool, with one thing after the other set up wrongly."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from cdmtaskservice.embedded.pool_settings import DOMAIN
from cdmtaskservice.embedded.service import EmbeddedService
from test.system.conftest import new_home
from test.system.pooled import Room


@dataclass
class Bench:
    """A service on the pool, and the environment that its administrator has."""

    room: Room
    service: EmbeddedService

    async def check(self, *arguments: str, site: str = "kbase", **changed: str) -> subprocess.CompletedProcess[str]:
        """Run the command with changed settings."""
        template = self.service.command(self.service._ports)[-1]
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cdmtaskservice.cli", "site", "check", site, "--config", template, *arguments],
            env={**self.service.environment(), **{_variable(k): v for k, v in changed.items()}},
            capture_output=True,
            text=True,
            timeout=120,
        )

    async def wrong(self, **changed: str) -> list[dict[str, Any]]:
        """What is wrong with changed settings."""
        done = await self.check("--json", "--wait", "40", **changed)
        assert done.returncode == 1, done.stdout + done.stderr
        return [f for f in json.loads(done.stdout)["findings"] if f["ok"] is False]


def _variable(name: str) -> str:
    return name if name.startswith("KBCTS_") else f"KBCTS_HTCONDOR_{name}"


@pytest.fixture(scope="module")
async def bench(room: Room) -> AsyncIterator[Bench]:
    service = room.service(new_home(room.stack))
    service.start()
    yield Bench(room, service)
    service.stop()


async def test_all_is_well(bench: Bench):
    done = await bench.check()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [["ok", step] for step in ("collector", "schedd", "account", "slots", "submit", "worker")]
    assert f"{bench.room.pool.job_user}@{DOMAIN}" in done.stdout
    jobs = bench.room.pool.tool("condor_q", "-allusers", "-af", "CTSJobID").split()
    assert [job for job in jobs if job.startswith("check-")] == []
    assert (await bench.check(site="local")).returncode == 0
    unknown = await bench.check(site="mars")
    assert unknown.returncode == 1
    assert "the sites are local, kbase" in unknown.stderr


async def test_the_collector(bench: Bench, tmp_path):
    [found] = await bench.wrong(COLLECTOR="127.0.0.1:9")
    assert "Nothing answers at 127.0.0.1:9" in found["found"]
    [found] = await bench.wrong(TOKEN_DIRECTORY=str(tmp_path))
    assert "Something answers" in found["found"]
    assert "token" in found["mend"]


async def test_the_schedd_and_the_account(bench: Bench, tmp_path):
    [found] = await bench.wrong(SCHEDD="nowhere")
    assert "knows of no schedd nowhere" in found["found"]
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(bench.room.pool.token(f"stranger@{DOMAIN}"))
    [found] = await bench.wrong(TOKEN_DIRECTORY=str(tmp_path))
    assert found["step"] == "account"
    assert "WRITE" in found["mend"]


async def test_the_slots(bench: Bench):
    found = await bench.wrong(CPUS_PER_NODE="9", MEMORY_PER_NODE="99GB")
    assert [f["step"] for f in found] == ["limits", "limits"]
    assert "cpus_per_node promises 9 CPUs, and no slot has more than 8" in found[0]["found"]
    [found] = await bench.wrong(CLIENT_GROUP="nobody-has-this")
    assert found["found"] == "no machine's CLIENTGROUP matches nobody-has-this"


async def test_the_worker(bench: Bench):
    nowhere = "/nowhere"
    [found] = await bench.wrong(
        TOKEN_FILE=f"{nowhere}/token", CONTAINER_RUNTIME_PATH=f"{nowhere}/podman", REFDATA_DIR=nowhere
    )
    for word in ("token file", "container runtime", "directory of the worker"):
        assert word in found["found"]
    for setting in ("`token_file`", "`container_runtime_path`", "`refdata_dir`"):
        assert setting in found["mend"]


async def test_the_workers_token_and_s3(bench: Bench):
    token = bench.room.pool.install_token(bench.service.tokens["ann"], "ann.token")
    [found] = await bench.wrong(TOKEN_FILE=str(token), KBCTS_S3_EXTERNAL_ENDPOINT="http://127.0.0.1:9")
    assert found["found"] == (
        "the service does not take the worker's token for an executor's; the worker cannot reach the object store"
    )


async def test_what_a_worker_cannot_fetch_or_run(bench: Bench):
    url = f"http://{bench.room.stack.registry}/executable.sh"  # answers 404
    [found] = await bench.wrong(EXECUTABLE_URL=url)
    assert "code 13" in found["found"]
    assert url in found["mend"]
    [found] = await bench.wrong(SHELL="/nowhere/bash")
    assert "code 6" in found["found"]
    [found] = await bench.wrong(PYTHON="/nowhere/python3")
    assert "Python 3.9" in found["found"]
