"""Logs and events as they come, from real containers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from cdmtaskservice.embedded.service import EmbeddedService
from test.system.conftest import QUICK, new_home
from test.system.driver import HAPPY, Driver
from test.system.following import Log, ticking, ticks


async def test_a_log_comes_while_its_container_runs(shared: Driver):
    job_id = await ticking(shared, 30, 0.2)
    log, late = Log(shared, job_id), None
    await log.has(2)
    assert (await shared.status(job_id))["state"] == "job_submitted"
    late = Log(shared, job_id, seek=len("tick 1 of 30\n"))
    await late.has(1)
    await shared.over(job_id)
    await asyncio.gather(log.task, late.task)
    assert log.text == ticks(30) == await shared.log(job_id)
    assert late.text == ticks(30)[len("tick 1 of 30\n") :]
    assert (log.broken, late.broken) == (None, None)
    assert log.headers is not None
    assert (log.headers["cts-log-attempt"], log.headers["cts-log-offset"]) == ("1", "0")
    # And once more, when it is over.
    again = Log(shared, job_id, seek=5)
    await again.task
    assert again.text == ticks(30)[5:]


async def events(driver: Driver, job_id: str, last: str | None = None) -> AsyncIterator[tuple[str, Any, str | None]]:
    """(event, data, id) of a job as they come."""
    headers = {"Last-Event-ID": last} if last else {}
    async with driver.client().stream("GET", f"/jobs/{job_id}/events", headers=headers) as reply:
        assert reply.status_code == 200, await reply.aread()
        fields: dict[str, str] = {}
        async for line in reply.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id")
                fields = {}


async def test_what_happens_to_a_job_is_told_as_it_happens(shared: Driver):
    files = await shared.upload({str(n): b"x" for n in range(3)})
    job_id = await shared.submit(files, ["tick", "4", "0.3"], params={"declobber": True})
    states, counts, end = [], [], None
    async for name, data, number in events(shared, job_id):
        if name == "state":
            assert number == str(len(states))
            states.append(data)
        elif name == "containers":
            counts.append(data["counts"])
        elif name == "end":
            end = data
    assert end == {"state": "complete"}
    assert states == (await shared.status(job_id))["transition_times"]
    assert [s["state"] for s in states] == HAPPY
    assert counts[-1] == {"complete": 3}
    assert all(sum(c.values()) == 3 for c in counts)
    assert len(counts) > 2
    rest = [(name, number) async for name, _, number in events(shared, job_id, last="4")]
    assert [number for name, number in rest if name == "state"] == ["5", "6"]


async def test_executor_and_reader_at_different_services(stack, s3, seqtool_image):
    home = new_home(stack)
    one = EmbeddedService(stack, home, QUICK, name="one")
    two = EmbeddedService(stack, home, QUICK, name="two")
    one.start()
    try:
        async with Driver(one, s3, seqtool_image) as first, Driver(two, s3, seqtool_image) as second:
            await first.ready()
            job_id = await ticking(first, 40, 0.3)
            await first.reached(job_id, "job_submitted")  # its executor asks there
            two.start()
            log = Log(second, job_id)
            await log.has(1)
            assert (await first.status(job_id))["state"] == "job_submitted"
            await first.over(job_id)
            await log.task
            assert log.text == ticks(40)
    finally:
        one.stop()
        two.stop()


async def test_readers_go_on_after_the_service_was_killed(own: Driver):
    job_id = await ticking(own, 40, 0.3)
    log = Log(own, job_id)
    await log.has(2)
    await asyncio.to_thread(own.service.kill)
    await log.task
    assert log.broken is not None
    await asyncio.to_thread(own.service.start)
    rest = Log(own, job_id, seek=len(log.text))
    await rest.has(1)
    await own.over(job_id)
    await rest.task
    assert log.text + rest.text == ticks(40)


async def test_readers_do_not_keep_the_service_from_stopping(own: Driver):
    job_id = await ticking(own, 1000, 1)
    log = Log(own, job_id)
    await log.has(1)
    seen = asyncio.create_task(anext_of_events(own, job_id))
    await seen
    await asyncio.to_thread(own.service.stop)
    await log.task
    assert log.broken is not None, "a log that goes on must not look as if it had ended"
    said = own.service.log.read_text()
    assert "stream_broken_off" in said
    assert "graceful shutdown exceeded" not in said


async def anext_of_events(driver: Driver, job_id: str) -> tuple[str, Any, str | None]:
    stream = events(driver, job_id)
    async with contextlib.aclosing(stream):  # type: ignore[type-var]
        return await anext(stream)
