"""Whatever dies, at whatever moment: every accepted job comes to its right end, once."""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from cdmtaskservice.embedded.service import EmbeddedService
from test.system.conftest import QUICK
from test.system.driver import FAILED, HAPPY, Driver, until
from test.system.mortal import kept_alive

LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}
REPO = str(Path(__file__).parents[2])

DEATHS_OF_A_GOOD_JOB = [
    "insert",
    "submit",
    "claim",
    "head",
    "outputs",
    "publish",
    "published",
    "finish",
    *(f"transition:{state}" for state in HAPPY[1:]),
    "report:job_submitted",
    "report:upload_submitting",
    "report:complete",
]
DEATHS_OF_A_FAILING_JOB = [f"transition:{state}" for state in FAILED[4:]]
DEATHS_OF_A_CANCELED_JOB = ["transition:canceling", "transition:canceled"]


class Mortal:
    """A service that dies once after a chosen call, and is started again."""

    def __init__(self, stack, home: Path, death: str) -> None:
        self.marker = home / "died"
        extra = {
            "CTS_DIE_AFTER": death,
            "CTS_DIE_MARKER": str(self.marker),
            "PYTHONPATH": REPO,
            "KBCTS_LOCAL_CONTAINER_RUNTIME_PATH": str(recording_podman(stack, home)),
            # No executor dies; one whose claim was not answered pauses for about as long as the service was away.
            "KBCTS_JOBS__HEARTBEAT_TIMEOUT": "60",
        }
        self.service = EmbeddedService(
            stack,
            home,
            QUICK | extra | {"KBCTS_LOCAL_STOP_WITH_SERVICE": "false"},
            command=["-m", "test.system.dying_service"],
        )


@contextlib.asynccontextmanager
async def mortal(stack, home, s3, image, death):
    mortal = Mortal(stack, home, death)
    async with kept_alive(mortal.service), Driver(mortal.service, s3, image) as driver:
        await driver.ready()
        yield driver, mortal


async def submit_whatever_happens(driver: Driver, files: list[str], args: list) -> str:
    """Submit with an idempotency key, again after no answer, as a careful client does."""
    body = driver.body(files, args)
    headers = {"Idempotency-Key": "the-one"}

    async def submitted() -> str | None:
        with contextlib.suppress(httpx.TransportError):
            reply = await driver.client().post("/jobs", json=body, headers=headers)
            if reply.status_code == 200:
                return str(reply.json()["job_id"])
            assert reply.status_code == 503 or reply.json()["error"].get("appcode") == 60020, reply.text
        return None

    return await until(submitted, "the submission is answered")


def recording_podman(stack, home: Path) -> Path:
    """A podman that writes down the name of every container that it is told to run."""
    home.mkdir(exist_ok=True)
    script = home / "podman"
    script.write_text(
        "#!/bin/bash\n"
        "for word; do case $word in --name=*) name=${word#*=} ;; run) run=1 ;; esac; done\n"
        f'[ -n "${{run-}}" ] && echo "$name" >>"{home}/ran"\n'
        f'exec "{stack.podman}" "$@"\n'
    )
    script.chmod(0o755)
    return script


def containers_run(home: Path) -> list[str]:
    """The names of all containers that were run, in order; a name stands for one attempt at one container."""
    return (home / "ran").read_text().split()


@pytest.mark.parametrize("death", DEATHS_OF_A_GOOD_JOB)
async def test_kill_9_while_a_job_runs_well(stack, home, s3, seqtool_image, death):
    async with mortal(stack, home, s3, seqtool_image, death) as (driver, service):
        files = await driver.upload({"a": b">a\nA\n"})
        job_id = await submit_whatever_happens(driver, files, ["copy", LISTED])
        job = await driver.over(job_id)
        assert await driver.outputs(job) == {"a": b">a\nA\n"}
        await driver.check_history(job_id, HAPPY)
        assert service.marker.exists(), "the service was to die and did not"
        assert [j["id"] for j in (await driver.admin("/admin/jobs"))["jobs"]] == [job_id]
        assert containers_run(home) == [f"cts-{job_id}-0-1"]


@pytest.mark.parametrize("death", DEATHS_OF_A_FAILING_JOB)
async def test_kill_9_while_a_job_fails(stack, home, s3, seqtool_image, death):
    async with mortal(stack, home, s3, seqtool_image, death) as (driver, service):
        job_id = await submit_whatever_happens(driver, await driver.upload({"a": b"x"}), ["fail", "3"])
        job = await driver.over(job_id, "error")
        assert service.marker.exists()
        assert "exit code 3" in job["error"]
        await driver.check_history(job_id, FAILED)


@pytest.mark.parametrize("death", DEATHS_OF_A_CANCELED_JOB)
async def test_kill_9_while_a_job_is_canceled(stack, home, s3, seqtool_image, death):
    async with mortal(stack, home, s3, seqtool_image, death) as (driver, service):
        job_id = await submit_whatever_happens(driver, await driver.upload({"a": b"x"}), ["sleep", "60"])
        await driver.reached(job_id, "job_submitted")
        with contextlib.suppress(httpx.TransportError):
            await driver.client().put(f"/jobs/{job_id}/cancel")
        await driver.over(job_id, "canceled")
        assert service.marker.exists()
        await driver.check_history(job_id, [*HAPPY[:4], "canceling", "canceled"])


async def executors(driver: Driver, job_id: str) -> list[int]:
    """The process IDs of the job's executors, as the site tells administrators."""
    found = []
    for container in await driver.containers(job_id):
        status = await driver.admin(f"/admin/jobs/{job_id}/runner_status?container_number={container['sub_id']}")
        if status.get("state") == "running" and status.get("pid"):
            found.append(int(status["pid"]))
    return found


async def test_kill_9_of_an_executor(own: Driver):
    job_id = await own.submit(await own.upload({"a": b"x"}), ["sleep", "5"], params={"declobber": True})
    await own.reached(job_id, "job_submitted")
    [pid] = await executors(own, job_id)
    os.kill(pid, signal.SIGKILL)

    async def another() -> int | None:
        found = [p for p in await executors(own, job_id) if p != pid]
        return found[0] if found else None

    await until(another, "the next attempt runs")
    job = await own.over(job_id, "error")  # it writes nothing, and that is all that is wrong with it
    assert "output" in job["error"]
    assert (await own.client().get(f"/jobs/{job_id}/exit_codes")).json() == {"exit_codes": [0]}


async def test_an_executor_that_is_killed_each_time(own: Driver):
    job_id = await own.submit(await own.upload({"a": b"x"}), ["sleep", "60"])
    killed: set[int] = set()

    async def over() -> bool:
        with contextlib.suppress(ProcessLookupError):
            for pid in await executors(own, job_id):
                if pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
        return (await own.status(job_id))["state"] == "error"

    await until(over, "the job gives up")
    assert len(killed) == 3
    job = await own.job(job_id)
    # Killed before it came, it was not started; killed later, it was lost.
    assert re.search("(tried|lost) 3 times", job["error"])


async def test_an_executor_that_hangs(own: Driver):
    job_id = await own.submit(await own.upload({"a": b"x"}), ["write", "out", "5"])
    other = await own.submit(await own.upload({"a": b"x"}), ["sleep", "4"])
    await own.reached(other, "job_submitted")
    for pid in await executors(own, other):
        os.kill(pid, signal.SIGSTOP)
    await own.over(job_id)

    async def superseded() -> bool:
        runs = await executors(own, other)
        return bool(runs) and (await own.containers(other))[0].get("attempt", 2) == 2

    await until(superseded, "the silent executor is replaced")
    await own.over(other, "error")
    assert (await own.client().get(f"/jobs/{other}/exit_codes")).json() == {"exit_codes": [0]}


async def test_two_services_on_one_database(stack, home, s3, seqtool_image):
    # An executor that the first one has started knows only its address, and goes on asking there.
    settings = QUICK | {"KBCTS_LOCAL_KEEP_TRYING": "10"}
    one = EmbeddedService(stack, home, settings, name="one")
    two = EmbeddedService(stack, home, settings, name="two")
    one.start()
    two.start()
    try:
        async with Driver(one, s3, seqtool_image) as first, Driver(two, s3, seqtool_image) as second:
            await first.ready()
            await second.ready()
            files = await first.upload({str(i): b">a\nA\n" for i in range(4)})
            jobs = [await d.submit(files, ["copy", LISTED], num_containers=2) for d in (first, second) * 3]
            await asyncio.to_thread(one.kill)
            for job_id in jobs:
                await second.over(job_id)
                await second.check_history(job_id, HAPPY)
            await asyncio.to_thread(one.start)
            await first.over(jobs[0])
    finally:
        one.stop()
        two.stop()
