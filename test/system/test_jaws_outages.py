"""NERSC, JAWS or S3 away, at every step: jobs wait and say why, nothing fails, and cancelling works all the same."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from test.stand_ins.nersc.part import NerscSite
from test.system.driver import FAILED, HAPPY, Driver, until
from test.system.test_jaws import exit_codes, runs_of, waits

FOR_EVER = 10**6
WRITE = ["write", "out", "5"]


@dataclass(frozen=True)
class Obstacle:
    """What keeps a job from leaving a state: a switch that is set before it is submitted, or once it has a run."""

    state: str
    switch: dict[str, Any]
    from_run_on: bool = False
    s3: bool = False
    args: tuple[str, ...] = tuple(WRITE)

    def __str__(self) -> str:
        return f"{self.state}-{'s3' if self.s3 else next(iter(self.switch))}"


def nersc_call(path: str) -> dict[str, Any]:
    return {"sfapi_error": {"path": path, "times": FOR_EVER, "status": 503}}


def jaws_call(path: str) -> dict[str, Any]:
    return {"jaws_error": {"path": path, "times": FOR_EVER, "status": 503}}


FAILS = ("fail", "7")
OBSTACLES = [
    Obstacle("created", nersc_call("utilities/upload")),
    Obstacle("download_submitted", nersc_call("utilities/download")),
    Obstacle("download_submitted", {}, s3=True),
    Obstacle("job_submitting", jaws_call("search")),
    Obstacle("job_submitted", jaws_call("api/v2/run/"), from_run_on=True),
    Obstacle("upload_submitting", nersc_call("utilities/upload"), from_run_on=True),
    Obstacle("upload_submitted", {}, from_run_on=True, s3=True),
    Obstacle("error_processing_submitting", nersc_call("utilities/upload"), from_run_on=True, args=FAILS),
    Obstacle("error_processing_submitted", {}, from_run_on=True, s3=True, args=FAILS),
]


class Stuck:
    """A job that an obstacle keeps in a state."""

    def __init__(self, driver: Driver, nersc: NerscSite, stack, obstacle: Obstacle) -> None:
        self._driver, self._nersc, self._stack, self._obstacle = driver, nersc, stack, obstacle

    async def submit(self, content: bytes) -> str:
        obstacle = self._obstacle
        files = await self._driver.upload({"a": content})
        if obstacle.from_run_on:
            self._nersc.switch(hold_runs=True)
        elif not obstacle.s3:
            self._nersc.switch(**obstacle.switch)
        else:
            # Its health is asked for by nobody here, and the service has looked at the inputs before.
            self._nersc.switch(latency=0.3)
        job_id = await self._driver.submit(files, list(obstacle.args))
        if obstacle.from_run_on:
            await self._driver.reached(job_id, "job_submitted")
        if obstacle.s3:
            self._stack.s3_store.suspend()
        if obstacle.from_run_on:
            self._nersc.switch(hold_runs=False, **obstacle.switch)
        self._nersc.switch(latency=0.0)
        await self._driver.reached(job_id, obstacle.state)
        return job_id

    def free(self) -> None:
        self._stack.s3_store.resume()
        self._nersc.switch(sfapi_error=None, jaws_error=None, drop=None)


@contextmanager
def obstructed(driver: Driver, nersc: NerscSite, stack, obstacle: Obstacle) -> Iterator[Stuck]:
    stuck = Stuck(driver, nersc, stack, obstacle)
    try:
        yield stuck
    finally:
        stuck.free()


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=str)
async def test_an_outage_delays_and_fails_nothing(jaws: Driver, nersc: NerscSite, stack, obstacle: Obstacle):
    with obstructed(jaws, nersc, stack, obstacle) as stuck:
        job_id = await stuck.submit(f"of {obstacle}".encode())
        nersc.switch(drop=True)  # now everything is away
        assert await waits(jaws, job_id, obstacle.state)
        assert "waiting" in await jaws.job(job_id)
        stuck.free()
        if obstacle.args == FAILS:
            await jaws.over(job_id, "error", 120)
            assert await exit_codes(jaws, job_id) == [7]
            assert "failing with exit code 7" in await jaws.log(job_id, 0, "stderr")
            await jaws.check_history(job_id, FAILED)
        else:
            assert list(await jaws.outputs(await jaws.over(job_id, within=120))) == ["out"]
            await jaws.check_history(job_id, HAPPY)
        assert len(runs_of(nersc, job_id)) == 1


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=str)
async def test_cancelling_at_every_step(jaws: Driver, nersc: NerscSite, stack, obstacle: Obstacle):
    with obstructed(jaws, nersc, stack, obstacle) as stuck:
        job_id = await stuck.submit(f"cancel at {obstacle}".encode())
        assert (await jaws.client().put(f"/jobs/{job_id}/cancel")).status_code == 204
        if not obstacle.s3:
            stuck.free()
        await jaws.over(job_id, "canceled", 120)
    assert all(run["status"] == "done" for run in runs_of(nersc, job_id))
    assert (await jaws.job(job_id))["outputs"] == []


async def test_cancelling_a_run_that_is_queued_and_one_that_runs(jaws: Driver, nersc: NerscSite):
    files = await jaws.upload({"a": b"x"})
    nersc.switch(hold_runs=True)
    queued = await jaws.submit(files, ["sleep", "60"])
    await jaws.reached(queued, "job_submitted")
    await jaws.client().put(f"/jobs/{queued}/cancel")
    await jaws.over(queued, "canceled")
    nersc.switch(hold_runs=False)
    running = await jaws.submit(files, ["sleep", "60"])

    async def runs() -> bool:
        return any(run["status"] == "running" for run in runs_of(nersc, running))

    await until(runs, "the run runs")
    await jaws.client().put(f"/jobs/{running}/cancel")
    await jaws.over(running, "canceled")
    for job_id in (queued, running):
        [run] = runs_of(nersc, job_id)
        assert (run["status"], run["result"]) == ("done", "cancelled")


async def test_a_run_that_somebody_cancels_at_jaws_is_an_error(jaws: Driver, nersc: NerscSite):
    nersc.switch(next_run="cancelled_null")
    job = await jaws.over(await jaws.submit(await jaws.upload({"a": b"x"}), WRITE), "error")
    assert job["error"] == "somebody at JAWS has cancelled its run"


async def test_a_run_that_jaws_itself_fails_is_the_next_attempt(jaws: Driver, nersc: NerscSite):
    nersc.switch(next_run="system_error")
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), WRITE)
    await jaws.over(job_id)
    runs = sorted(runs_of(nersc, job_id), key=lambda run: run["tag"])
    assert [run["tag"] for run in runs] == [f"cts-{job_id}-1", f"cts-{job_id}-2"]
    assert [run["result"] for run in runs] == [None, "succeeded"]
    details = await jaws.admin(f"/admin/jobs/{job_id}")
    assert details["jaws_details"]["run_id"] == [str(run["id"]) for run in runs]
    await jaws.check_history(job_id, HAPPY)


async def test_a_submission_that_took_effect_and_said_it_had_failed_is_found(jaws: Driver, nersc: NerscSite):
    nersc.switch(submit_fails_after=True)
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), WRITE)
    await jaws.over(job_id)
    assert len(runs_of(nersc, job_id)) == 1


@pytest.mark.parametrize("lost", ["lose_tasks", "lose_answers", "relative_outputs", "results_late"])
async def test_odd_ways_of_nersc_and_jaws(jaws: Driver, nersc: NerscSite, lost: str):
    value: dict[str, Any] = {"lose_answers": {"path": "utilities/command", "times": 2}, "results_late": 3.0}
    nersc.switch(**{lost: value.get(lost, True)})
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), WRITE)
    assert list(await jaws.outputs(await jaws.over(job_id, within=120))) == ["out"]
    assert len(runs_of(nersc, job_id)) == 1


# Sites


@pytest.mark.parametrize(
    ("switch", "reason"),
    [
        (
            {
                "machine_status": {
                    "perlmutter": {
                        "status": "unavailable",
                        "notes": ["Scheduled maintenance"],
                        "until": "2031-01-02T03:04:05+00:00",
                    }
                }
            },
            "NERSC's perlmutter is unavailable (Scheduled maintenance), until 2031-01-02T03:04:05",
        ),
        ({"machine_status": {"dtns": "unavailable"}}, "NERSC's dtns is unavailable"),
        ({"jaws_site_down": ["kbase"]}, "JAWS cannot run anything at kbase"),
        ({"sfapi_error": 503}, "NERSC"),
        ({"jaws_error": 503}, "JAWS Central answers"),
    ],
)
async def test_a_site_that_is_down_says_so_and_takes_nothing(
    jaws: Driver, nersc: NerscSite, switch: dict[str, Any], reason: str
):
    nersc.switch(**switch)

    async def told() -> str | None:
        shown = await jaws.site_shown()
        return None if shown["available"] else shown["unavailable_reason"]

    assert reason in await until(told, "the site says that it is not available")
    reply = await jaws.client().post("/jobs", json=jaws.body(await jaws.upload({"a": b"x"}), WRITE))
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 60020)
    nersc.switch(reset=True)
    await until(jaws.site_available, "the site is available again")


async def test_a_service_that_starts_without_nersc_comes_up_by_itself(stack, home, s3, seqtool_image, nersc: NerscSite):
    from test.system.conftest import QUICK
    from test.system.through_jaws import LAWRENCIUM, QUICK_JAWS, jaws_service

    nersc.switch(drop=True)
    service = jaws_service(stack, home, nersc, QUICK | QUICK_JAWS)
    service.start()
    try:
        async with Driver(service, s3, seqtool_image, LAWRENCIUM) as driver:
            assert not (await driver.site_shown())["available"]
            nersc.switch(drop=None)
            await driver.ready()
            await driver.over(await driver.submit(await driver.upload({"a": b"x"}), WRITE))
    finally:
        await asyncio.to_thread(service.stop)


# Credentials


async def in_mid_job(jaws: Driver, nersc: NerscSite, happens: Callable[[], object]) -> str:
    """A job in the middle of which something happens."""
    nersc.switch(hold_runs=True)
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), WRITE)
    await jaws.reached(job_id, "job_submitted")
    happens()
    nersc.switch(hold_runs=False)
    return job_id


async def test_access_tokens_that_expire_are_got_anew(jaws: Driver, nersc: NerscSite):
    job_id = await in_mid_job(jaws, nersc, lambda: nersc.switch(expire_tokens=True))
    await jaws.over(job_id)


async def test_credentials_that_expire_in_mid_job_delay_it_until_they_are_renewed(jaws: Driver, nersc: NerscSite):
    job_id = await in_mid_job(jaws, nersc, nersc.expire_credentials)
    assert "NERSC" in await waits(jaws, job_id, "upload_submitting")
    client = nersc.renew_credentials()
    await jaws.over(job_id)
    assert (await jaws.admin("/admin/clients/nersc"))["id"] == client


async def test_credentials_of_somebody_else_are_never_used(jaws: Driver, nersc: NerscSite):
    before = (await jaws.admin("/admin/clients/nersc"))["id"]
    job_id = await in_mid_job(jaws, nersc, lambda: nersc.renew_credentials(user="mallory"))
    await jaws.over(job_id)
    assert (await jaws.admin("/admin/clients/nersc"))["id"] == before
    nersc.switch(expire_tokens=True)
    await jaws.over(await jaws.submit(await jaws.upload({"a": b"x"}), WRITE))


async def test_a_jaws_token_that_is_renewed_is_taken_up(jaws: Driver, nersc: NerscSite):
    job_id = await in_mid_job(jaws, nersc, nersc.renew_jaws_token)
    await jaws.over(job_id)
    await jaws.over(await jaws.submit(await jaws.upload({"a": b"x"}), WRITE))


async def test_no_command_holds_a_secret(jaws: Driver, nersc: NerscSite):
    await jaws.over(await jaws.submit(await jaws.upload({"a": b"x"}), WRITE))
    commands = "\n".join(nersc.control()["commands"])
    assert "cdmtaskservice.executor.remote" in commands
    for secret in ("X-Amz-Signature", nersc.jaws_token_file.read_text().strip(), "PRIVATE KEY"):
        assert secret not in commands
