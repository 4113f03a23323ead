"""Whatever dies around an HTCondor pool: every accepted job comes to its right end, with one cluster an attempt."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from test.system.driver import HAPPY, Driver, until
from test.system.mortal import kept_alive
from test.system.pooled import LISTED, Room
from test.system.test_crashes import REPO, submit_whatever_happens

DEATHS = [
    "intent",  # what is about to be submitted is noted, and nothing is submitted
    "submit_to_pool",  # the pool has it, and the service does not know
    "handles",
    "transition:job_submitted",
    "report:job_submitted",
    "transition:upload_submitting",
    "report:complete",  # the last report is stored
    "transition:complete",
]

OUTAGE = 60.0
"""Seconds for which the schedd is away."""


@contextlib.asynccontextmanager
async def mortal(room: Room, home: Path, death: str) -> AsyncIterator[tuple[Driver, Path]]:
    """A service that dies once after a chosen call, and is started again whenever it is dead."""
    marker = home / "died"
    extra = {"CTS_DIE_AFTER": death, "CTS_DIE_MARKER": str(marker), "PYTHONPATH": REPO}
    service = room.service(home, extra, command=["-m", "test.system.dying_service"])
    async with kept_alive(service), room.driver(service) as driver:
        await driver.ready()
        yield driver, marker


@pytest.mark.parametrize("death", DEATHS)
async def test_kill_9_of_the_service(room: Room, home: Path, death: str):
    async with mortal(room, home, death) as (driver, marker):
        files = await driver.upload({"a.fa": b">a\nACGT\n", "b.fa": b">b\nAC\n"})
        job_id = await submit_whatever_happens(driver, files, ["copy", LISTED])
        job = await driver.over(job_id)
        await until(lambda: asyncio.sleep(0, marker.exists()), "the service was killed")
        assert len(await driver.outputs(job)) == 2
        await driver.check_history(job_id, HAPPY)
        [(attempt, [cluster])] = room.clusters(job_id).items()
        assert attempt == 1
        assert (await driver.admin(f"/admin/jobs/{job_id}"))["htcondor_details"] == {"cluster_id": [cluster]}
        starts = await asyncio.to_thread(room.history, job_id, "NumJobStarts")
        assert all(count == ["1"] for count in starts)


async def test_kill_9_while_cancelling(room: Room, home: Path):
    async with mortal(room, home, "end_in_pool") as (driver, marker):
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["sleep", "120"])
        await driver.reached(job_id, "job_submitted")
        assert (await driver.client().put(f"/jobs/{job_id}/cancel")).status_code == 204
        await driver.over(job_id, "canceled")
        assert marker.exists()
        assert await asyncio.to_thread(room.queue, job_id, "ClusterId") == []


async def test_the_schedd_is_away_for_a_minute_in_the_middle_of_a_job(room: Room, home: Path):
    async with room.running(home) as driver:
        files = await driver.upload({"a": b"x"})
        short = await driver.submit(files, ["later", "15", "write", "out", "5"])
        long = await driver.submit(files, ["later", f"{OUTAGE + 10:.0f}", "write", "out", "5"], runtime=300)
        await driver.reached(short, "job_submitted")
        await driver.reached(long, "job_submitted")
        await asyncio.to_thread(room.pool.stop_daemon, "schedd")
        away = time.monotonic()

        async def told() -> str | None:
            return (await driver.site_shown()).get("unavailable_reason")

        assert "kbase" in await until(told, "the site says that it is not available", 60)
        reply = await driver.client().post("/jobs", json=driver.body(files, ["sleep", "1"]))
        assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 60020)
        # Its executor reports to the service, which does not need the schedd to believe it.
        await driver.reached(short, "complete", "job_submitted")
        await until(lambda: asyncio.sleep(0, time.monotonic() - away > OUTAGE), "the minute is over", OUTAGE + 10)
        assert (await driver.status(long))["state"] == "job_submitted"
        await asyncio.to_thread(room.pool.start_daemon, "schedd")
        await until(driver.site_available, "the site is available again", 60)
        for job_id in (short, long):
            job = await driver.over(job_id, within=120)
            assert list(await driver.outputs(job)) == ["out"]
        await driver.over(await driver.submit(files, ["write", "out", "5"]))


async def test_a_schedd_that_hangs_while_a_job_is_submitted(room: Room, home: Path):
    async with room.running(home) as driver:
        files = await driver.upload({"a": b"x"})
        await asyncio.to_thread(room.pool.suspend, "schedd")
        try:
            # The service does not know of it yet, so it accepts the job.
            job_id = await driver.submit(files, ["copy", LISTED])

            async def told() -> bool:
                return "has not answered" in str((await driver.admin(f"/admin/jobs/{job_id}")).get("waiting"))

            await until(told, "the job says that HTCondor does not answer", 60)
            assert (await driver.status(job_id))["state"] == "created"
        finally:
            await asyncio.to_thread(room.pool.resume, "schedd")
        await driver.over(job_id)
        assert [len(c) for c in room.clusters(job_id).values()] == [1]
