"""What operators see and do: numbers, logs, and a process that is told to end and hands over what it holds."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from prometheus_client.parser import text_string_to_metric_families

from cdmtaskservice.embedded.service import EmbeddedService
from test.system.conftest import QUICK
from test.system.driver import HAPPY, Driver, until

REPO = str(Path(__file__).parents[2])
LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}


async def numbers(driver: Driver) -> dict[tuple[str, ...], float]:
    """The service's page of metrics: values by name and label values, in the order of the labels' names."""
    reply = await driver.client(None).get("/metrics")
    assert reply.status_code == 200, reply.text
    families = text_string_to_metric_families(reply.text)
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples if not s.name.endswith("bucket")}


def lines(service: EmbeddedService) -> list[dict[str, Any]]:
    """The log of a service."""
    found = []
    for line in service.log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


async def test_a_job_leaves_its_numbers_and_its_name_in_every_line(own: Driver):
    job_id = await own.submit(await own.upload({"a": b">a\nA\n"}), ["copy", LISTED])
    await own.over(job_id)
    await own.messages(job_id, "complete")

    async def settled() -> Mapping[tuple[str, ...], float] | None:
        found = await numbers(own)
        return found if found["cts_messages_owed",] == 0 and found["cts_looks_due", "job"] == 0 else None

    found = await until(settled, "nothing is owed and nothing due")
    for state in HAPPY[:-1]:
        assert found["cts_job_state_seconds_count", "local", state] == 1
    assert found["cts_jobs", "local", "complete"] == 1
    for report in ("claim", "download_submitted", "complete"):
        assert found["cts_executor_reports_total", report, "local"] == 1
    for system, call in [
        ("s3", "head_object"),
        ("database", "findAndModify"),
        ("kafka", "publish"),
        ("registry", "digest"),
    ]:
        assert found["cts_external_call_seconds_count", call, "ok", system] >= 1
        assert ("cts_external_call_seconds_count", call, "error", system) not in found
    assert found["cts_external_call_seconds_count", "publish", "ok", "kafka"] == len(HAPPY)
    assert found["cts_look_seconds_count", "job", "done"] >= 1
    assert found["cts_look_delay_seconds_count", "job"] >= 1
    assert found["cts_look_lag_seconds", "job"] == 0
    assert found["cts_site_available", "local"] == found["cts_store_up",] == 1
    assert found["cts_process_resident_memory_bytes",] > 10_000_000

    log = lines(own.service)
    assert len(log) == len(own.service.log.read_text().splitlines()), "something wrote past the log"
    [accepted] = [line for line in log if line["event"] == "job_accepted"]
    assert (accepted["job"], accepted["user"]) == (job_id, "ann")
    assert accepted["request_id"]
    requests = [line for line in log if line["event"] == "request"]
    [submission] = [line for line in requests if (line["method"], line["route"]) == ("POST", "/jobs")]
    assert (submission["request_id"], submission["user"]) == (accepted["request_id"], "ann")
    reports = [line for line in requests if line["path"].startswith("/external_exec/jobs/")]
    assert {line["job"] for line in reports} == {job_id}
    assert {line["container"] for line in reports} == {0}
    assert {line["job"] for line in log if line["event"].startswith("executor_")} == {job_id}


async def test_a_fault_at_s3_is_counted_as_s3s(own: Driver):
    files = await own.upload({"a": b">a\nA\n"})
    store = own.service.stack.s3_store
    before = await numbers(own)
    assert not [key for key in before if key[0] == "cts_external_call_seconds_count" and key[2] == "error"]
    store.kill()
    try:
        reply = await own.client().post("/jobs", json=own.body(files, ["copy", LISTED]))
        assert reply.status_code == 503
        after = await numbers(own)
    finally:
        store.start()
    assert after["cts_http_requests_total", "POST", "/jobs", "5xx"] == 1
    # Which call met it first is chance; nobody else is to blame.
    assert {key[3] for key in after if key[0] == "cts_external_call_seconds_count" and key[2] == "error"} == {"s3"}


async def lease(service: EmbeddedService, job_id: str) -> tuple[str, int]:
    """Who holds a job, and until when, as the database has it."""
    client = AsyncIOMotorClient(service.stack.mongo_uri)
    try:
        jobs = client[service.environment()["KBCTS_MONGO_DATABASE"]].jobs
        document = await jobs.find_one({"_id": job_id})
        return document["lease_owner"] if document["lease_until"] else "", document["lease_until"]
    finally:
        client.close()


async def test_a_replica_takes_over_at_once_what_another_is_told_to_leave(stack, home, s3, seqtool_image):
    """A lease lasts for an hour here: whoever had to wait for one to run out would not come to an end."""
    slow = QUICK | {
        "KBCTS_RECONCILER__LEASE": "PT1H",
        "KBCTS_SERVICE__SHUTDOWN_TIMEOUT": "1",
        "KBCTS_LOCAL_STOP_WITH_SERVICE": "false",
        "CTS_LOOKS_HANG": str(home / "hang"),
        "PYTHONPATH": REPO,
    }
    first = EmbeddedService(stack, home, slow, name="first", command=["-m", "test.system.hanging_service"])
    second = EmbeddedService(stack, home, QUICK | {"KBCTS_LOCAL_STOP_WITH_SERVICE": "true"}, name="second")
    first.start()
    try:
        async with Driver(first, s3, seqtool_image) as driver:
            await driver.ready()
            (home / "hang").touch()
            job_id = await driver.submit(await driver.upload({"a": b">a\nA\n"}), ["copy", LISTED])

            async def held() -> bool:
                return (await lease(first, job_id))[0] != ""

            await until(held, "a look holds the job")
            await asyncio.to_thread(first.stop)
            assert await lease(first, job_id) == ("", 0)
        assert "lease_handed_over" in {line["event"] for line in lines(first) if line.get("job") == job_id}
        second.start()
        async with Driver(second, s3, seqtool_image) as driver:
            job = await driver.over(job_id)
            assert await driver.outputs(job) == {"a": b">a\nA\n"}
            await driver.check_history(job_id, HAPPY)
    finally:
        await asyncio.to_thread(first.stop)
        await asyncio.to_thread(second.stop)


async def test_a_replica_that_is_told_to_end_is_not_waited_for(stack, home, s3, seqtool_image):
    """Both serve the same jobs; the one that looks is told to end, and the other finishes all of them."""
    slow = QUICK | {"KBCTS_RECONCILER__LEASE": "PT1H"}
    second = EmbeddedService(stack, home, slow, name="second")
    second.start()
    # Executors run on, and report to the one that stays, as they would by a balancer.
    ends = {"KBCTS_LOCAL_STOP_WITH_SERVICE": "false", "KBCTS_LOCAL_EXECUTOR_URL": second.url}
    first = EmbeddedService(stack, home, slow | ends, name="first")
    first.start()
    try:
        async with Driver(second, s3, seqtool_image) as driver:
            await driver.ready()
            files = await driver.upload({f"f{i}": b">a\nA\n" for i in range(6)})
            jobs = [await driver.submit([f], ["copy", LISTED]) for f in files]
            assert first.pid is not None
            first.ask_to_stop()
            for job_id in jobs:
                await driver.over(job_id)
            await asyncio.to_thread(first.await_stop)
            for job_id in jobs:
                assert (await lease(second, job_id))[0] == ""
    finally:
        await asyncio.to_thread(first.stop)
        await asyncio.to_thread(second.stop)
    assert "lease_not_handed_over" not in {line["event"] for line in lines(first)}
