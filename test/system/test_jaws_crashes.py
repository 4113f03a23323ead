"""Whatever dies while a job runs through JAWS: it comes to its right end, with one run an attempt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import QUICK
from test.system.driver import FAILED, HAPPY, Driver
from test.system.mortal import kept_alive
from test.system.test_crashes import REPO, submit_whatever_happens
from test.system.test_jaws import LISTED, runs_of
from test.system.through_jaws import PERLMUTTER, QUICK_JAWS, jaws_service

DEATHS_OF_A_GOOD_JOB = [
    "note",  # that the inputs are about to be staged
    *(f"begin_task:{kind}" for kind in ("stage", "submit", "collect", "send")),
    "handles:jaws",  # the run is there, and stored
    "finish_sending",
    "report:complete",
    "outputs",
    *(f"transition:{state}" for state in HAPPY[1:]),
]
DEATHS_OF_A_FAILING_JOB = ["begin_task:collect", "report:error", *(f"transition:{state}" for state in FAILED[4:])]
DEATHS_OF_A_CANCELED_JOB = ["transition:canceling", "cancel_run", "transition:canceled"]


@contextlib.asynccontextmanager
async def mortal(stack, home: Path, s3, image, nersc: NerscSite, death: str) -> AsyncIterator[tuple[Driver, Path]]:
    """A service that dies once after a chosen call, and is started again whenever it is dead."""
    marker = home / "died"
    extra = {"CTS_DIE_AFTER": death, "CTS_DIE_MARKER": str(marker), "PYTHONPATH": REPO}
    service = jaws_service(stack, home, nersc, QUICK | QUICK_JAWS | extra, command=["-m", "test.system.dying_service"])
    async with kept_alive(service), Driver(service, s3, image, PERLMUTTER) as driver:
        await driver.ready()
        yield driver, marker


@pytest.mark.parametrize("death", DEATHS_OF_A_GOOD_JOB)
async def test_kill_9_of_the_service(stack, home: Path, s3, seqtool_image, nersc: NerscSite, death: str):
    async with mortal(stack, home, s3, seqtool_image, nersc, death) as (driver, marker):
        files = await driver.upload({"a.fa": b">a\nACGT\n", "b.fa": b">b\nAC\n"})
        job_id = await submit_whatever_happens(driver, files, ["copy", LISTED])
        job = await driver.over(job_id)
        assert marker.exists()
        assert set((await driver.outputs(job)).values()) == {b">a\nACGT\n", b">b\nAC\n"}
        await driver.check_history(job_id, HAPPY)
        [run] = runs_of(nersc, job_id)
        assert (await driver.admin(f"/admin/jobs/{job_id}"))["jaws_details"] == {"run_id": [str(run["id"])]}


@pytest.mark.parametrize("death", DEATHS_OF_A_FAILING_JOB)
async def test_kill_9_while_a_failure_is_processed(stack, home: Path, s3, seqtool_image, nersc: NerscSite, death: str):
    async with mortal(stack, home, s3, seqtool_image, nersc, death) as (driver, marker):
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["fail", "7"])
        job = await driver.over(job_id, "error")
        assert marker.exists()
        assert "exit code 7" in job["error"]
        assert "failing with exit code 7" in await driver.log(job_id, 0, "stderr")
        await driver.check_history(job_id, FAILED)
        assert len(runs_of(nersc, job_id)) == 1


@pytest.mark.parametrize("death", DEATHS_OF_A_CANCELED_JOB)
async def test_kill_9_while_cancelling(stack, home: Path, s3, seqtool_image, nersc: NerscSite, death: str):
    async with mortal(stack, home, s3, seqtool_image, nersc, death) as (driver, marker):
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["sleep", "60"])
        await driver.reached(job_id, "job_submitted")
        with contextlib.suppress(Exception):  # the service may die over it
            await driver.client().put(f"/jobs/{job_id}/cancel")
        await driver.reached(job_id, "canceling", "canceled")
        await driver.over(job_id, "canceled")
        assert marker.exists()
        [run] = runs_of(nersc, job_id)
        assert (run["status"], run["result"]) == ("done", "cancelled")


async def test_two_services_on_one_database(stack, home: Path, s3, seqtool_image, nersc: NerscSite):
    services = [jaws_service(stack, home, nersc, QUICK | QUICK_JAWS, name=name) for name in ("one", "two")]
    for service in services:
        service.start()
    try:
        async with Driver(services[0], s3, seqtool_image, PERLMUTTER) as driver:
            await driver.ready()
            files = await driver.upload({"a": b"x"})
            jobs = [await driver.submit(files, ["write", "out", "5"]) for _ in range(4)]
            services[1].kill()
            for job_id in jobs:
                assert list(await driver.outputs(await driver.over(job_id))) == ["out"]
                await driver.check_history(job_id, HAPPY)
                assert len(runs_of(nersc, job_id)) == 1
    finally:
        for service in services:
            await asyncio.to_thread(service.stop)
