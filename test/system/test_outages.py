"""Dependencies that are away: jobs wait, requests say so, and afterwards everything goes on."""

import asyncio

import pytest

from test.system.driver import HAPPY, Driver, until

LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}
AWAY = 8.0
"""Seconds for which a part is away: longer than every time-out of the service under test."""


async def test_the_broker_away_delays_messages_and_nothing_else(own: Driver):
    broker = own.service.stack.broker
    job = await own.submit(await own.upload({"a": b"x"}), ["copy", LISTED])
    await own.over(job)
    await own.messages(job, "complete")
    broker.stop()
    try:
        late = await own.submit(await own.upload({"a": b"x"}), ["copy", LISTED])
        await own.over(late)
        details = await own.admin(f"/admin/jobs/{late}")
        assert not any(t["notif_sent"] for t in details["transition_times"])
        ready = await own.client().get("/health/ready")
        assert ready.status_code == 200
        assert {"name": "kafka", "ok": False, "required": False} in ready.json()["dependencies"]
    finally:
        broker.start()
    await own.check_history(late, HAPPY)

    async def recorded() -> bool:
        details = await own.admin(f"/admin/jobs/{late}")
        return all(t["notif_sent"] for t in details["transition_times"])

    await until(recorded, "the messages are recorded as sent")


@pytest.mark.parametrize("how", ["kill", "suspend"])
@pytest.mark.parametrize("part", ["s3_store", "database"])
async def test_a_part_away_while_a_job_runs(own: Driver, part: str, how: str):
    taken = getattr(own.service.stack, part)
    files = await own.upload({"a": b">a\nA\n", "b": b">b\nC\n", "c": b">c\nG\n"})
    slow = await own.submit(files[:1], ["sleep", "2"])
    jobs = [await own.submit([f], ["copy", LISTED]) for f in files]
    await own.reached(slow, "job_submitted")
    getattr(taken, how)()
    try:
        reply = await own.client().post("/jobs", json=own.body(files, ["copy", LISTED]))
        assert reply.status_code == 503, reply.text
        error = reply.json()["error"]
        assert error["httpcode"] == 503
        assert error["request_id"]
        # Not waiting for anything: this is how long the part is away.
        await asyncio.sleep(AWAY)
    finally:
        taken.resume()
        taken.start()
    for job_id in jobs:
        await own.over(job_id)
        await own.check_history(job_id, HAPPY)
    assert "output" in (await own.over(slow, "error"))["error"]
    await own.over(await own.submit(files, ["copy", LISTED]))


async def test_the_service_starts_before_its_database(own: Driver):
    database = own.service.stack.database
    job_id = await own.submit(await own.upload({"a": b"x"}), ["copy", LISTED])
    own.service.kill()
    database.kill()
    own.service.launch()
    await asyncio.sleep(2)  # long enough for a service that gives up to have done so
    database.start()
    own.service.await_ready()
    await own.over(job_id)
