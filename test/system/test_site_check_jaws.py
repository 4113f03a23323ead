"""`cts site check` against NERSC and JAWS, with one thing after the other set up wrongly."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from cdmtaskservice.embedded.service import EmbeddedService
from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import new_home
from test.system.through_jaws import LAWRENCIUM, PERLMUTTER, jaws_service

STEPS = ["nersc", "machines", "jaws", "jaws site", "python", "code", "staging", "results", "refdata", "command"]


@dataclass
class Bench:
    """A service with JAWS sites, and the environment that its administrator has."""

    service: EmbeddedService

    async def check(self, *arguments: str, site: str = PERLMUTTER, **changed: str) -> subprocess.CompletedProcess[str]:
        template = self.service.command(self.service._ports)[-1]
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cdmtaskservice.cli", "site", "check", site, "--config", template, *arguments],
            env={**self.service.environment(), **changed},
            capture_output=True,
            text=True,
            timeout=120,
        )

    async def wrong(self, **changed: str) -> dict[str, Any]:
        """The one step that is wrong with changed settings; all after it are not tried."""
        done = await self.check("--json", **changed)
        assert done.returncode == 1, done.stdout + done.stderr
        findings = json.loads(done.stdout)["findings"]
        [found] = [f for f in findings if f["ok"] is False]
        at = STEPS.index(found["step"])
        assert [f["ok"] for f in findings] == [True] * at + [False] + [None] * (len(STEPS) - at - 1)
        assert found["mend"]
        return dict(found)


@pytest.fixture(scope="module")
async def bench(stack, nersc_site: NerscSite) -> AsyncIterator[Bench]:
    service = jaws_service(stack, new_home(stack), nersc_site, {})
    service.start()
    yield Bench(service)
    service.stop()


@pytest.mark.parametrize("site", [PERLMUTTER, LAWRENCIUM])
async def test_all_is_well(bench: Bench, nersc: NerscSite, site: str):
    done = await bench.check("--json", site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(f["step"], f["ok"]) for f in json.loads(done.stdout)["findings"]] == [(step, True) for step in STEPS]


async def test_the_credentials(bench: Bench, nersc: NerscSite, tmp_path):
    file = tmp_path / "nersc.pem"
    found = await bench.wrong(KBCTS_NERSC_CREDENTIALS_FILE=str(file))
    assert "cannot be read" in found["found"]
    file.write_text("-----BEGIN PRIVATE KEY-----\nsecret\n")
    found = await bench.wrong(KBCTS_NERSC_CREDENTIALS_FILE=str(file))
    assert "must have the client's ID in the first line" in found["found"]
    assert "secret" not in found["found"]
    found = await bench.wrong(KBCTS_NERSC_USER="somebody")
    assert "are those of the user" in found["found"]
    nersc.expire_credentials()
    found = await bench.wrong()
    assert (found["step"], "does not take the credentials" in found["found"]) == ("nersc", True)


async def test_jaws_itself(bench: Bench, nersc: NerscSite, tmp_path):
    token = tmp_path / "jaws.token"
    token.write_text("wrong")
    found = await bench.wrong(KBCTS_JAWS_TOKEN_FILE=str(token))
    assert (found["step"], "401" in found["found"]) == ("jaws", True)
    found = await bench.wrong(KBCTS_JAWS_USER="somebody")
    assert "belongs to the user" in found["found"]
    found = await bench.wrong(KBCTS_PERLMUTTER_JAWS_SITE="nowhere")
    assert found["step"] == "jaws site"
    found = await bench.wrong(KBCTS_JAWS_EXECUTABLE="/nowhere/jaws")
    assert (found["step"], "/nowhere/jaws" in found["found"]) == ("command", True)


async def test_outages(bench: Bench, nersc: NerscSite):
    nersc.switch(machine_status={"dtns": "unavailable"})
    assert "NERSC's dtns is unavailable" in (await bench.wrong())["found"]


async def test_directories_and_python_at_nersc(bench: Bench, nersc: NerscSite):
    for setting, value, step in (
        ("KBCTS_NERSC_PYTHON", "python2.6", "python"),
        ("KBCTS_NERSC_CODE_DIR", "/proc/cts", "code"),
        ("KBCTS_JAWS_STAGING_DIR", "/proc/staging", "staging"),
        ("KBCTS_JAWS_SUBMIT_STAGING_DIR", "/nowhere/staging", "staging"),
        ("KBCTS_JAWS_OUTPUTS_DIR", "/nowhere/results", "results"),
        ("KBCTS_JAWS_REFDATA_DIR", "/proc/refdata", "refdata"),
    ):
        found = await bench.wrong(**{setting: value})
        assert found["step"] == step, found
    assert os.path.isdir(nersc.code_dir)
