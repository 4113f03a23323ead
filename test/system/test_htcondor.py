"""Jobs on a real HTCondor pool, through the real executor and real containers."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from cdmtaskservice.embedded.pool_settings import DOMAIN
from cdmtaskservice.embedded.service import EmbeddedService
from test.system.conftest import new_home
from test.system.driver import FAILED, HAPPY, Driver, until
from test.system.following import Log, ticking, ticks
from test.system.pooled import LISTED, QUICK_POOL, Room


@pytest.fixture(scope="module")
async def kbase(room: Room) -> AsyncIterator[Driver]:
    """One service with the pool as a site, for all tests that leave it as it is."""
    service = room.service(new_home(room.stack))
    service.start()
    async with room.driver(service) as driver:
        await driver.ready()
        yield driver
    service.stop()


async def waiting(driver: Driver, job_id: str, word: str, *, admin: bool = False) -> str:
    """What the job says of why it waits, once it has this word in it."""

    async def told() -> str | None:
        job = await (driver.admin(f"/admin/jobs/{job_id}") if admin else driver.job(job_id))
        text = str(job.get("waiting", ""))
        return text if word in text else None

    return await until(told, f"job {job_id} says {word!r}", 60)


async def queued(room: Room, job_id: str, *, status: int) -> str:
    """The job's first proc in the queue, once it has this JobStatus."""

    async def there() -> str | None:
        procs = await asyncio.to_thread(room.queue, job_id, "JobStatus", "ClusterId", "ProcId")
        return next((f"{c}.{p}" for s, c, p in procs if int(s) == status), None)

    return await until(there, f"a proc of job {job_id} with JobStatus {status}", 60)


# The main job


async def test_one_container(kbase: Driver, room: Room):
    files = await kbase.upload({"s 'x' é.fa".replace("'", "_"): b">a\nACGT\n"})
    job_id = await kbase.submit(files, ["stats", LISTED], params={"declobber": True}, memory="50MB", cpus=2)
    job = await kbase.over(job_id)
    assert list(await kbase.outputs(job)) == ["0/seqstats.tsv"]
    await kbase.check_history(job_id, HAPPY)
    reply = await kbase.client().get(f"/jobs/{job_id}/exit_codes")
    assert reply.json() == {"exit_codes": [0]}
    assert "summarised" in await kbase.log(job_id)
    [(attempt, [cluster])] = room.clusters(job_id).items()
    assert attempt == 1
    assert (await kbase.admin(f"/admin/jobs/{job_id}"))["htcondor_details"] == {"cluster_id": [cluster]}


async def test_a_log_comes_while_its_container_runs(kbase: Driver):
    job_id = await ticking(kbase, 20, 0.3)
    log = Log(kbase, job_id)
    await log.has(1)
    assert (await kbase.status(job_id))["state"] == "job_submitted"
    await kbase.over(job_id)
    await log.task
    assert log.text == ticks(20) == await kbase.log(job_id)


async def test_what_the_pool_is_asked_for_and_what_anybody_can_read(kbase: Driver, room: Room):
    files = await kbase.upload({"a": b"x"})
    job_id = await kbase.submit(files, ["later", "3", "write", "out", "5"], memory=50_000_001, cpus=2, runtime=77)
    await queued(room, job_id, status=2)
    [asked] = room.queue(job_id, "RequestCpus", "RequestMemory", "CTSContainerNumber", "CTSUser", "ConcurrencyLimits")
    # The container's 50 000 001 and the executor's 64 000 000 bytes, in MiB, rounded up.
    assert asked == ["2", "109", "0", "ann", "cts.ann"]
    ad = room.pool.tool("condor_q", "-constraint", f'CTSJobID == "{job_id}"', "-long")
    tokens = [*kbase.service.tokens.values(), kbase.service._secret()]
    assert not [token for token in tokens if token in ad]
    assert "X-Amz" not in ad
    shown = await kbase.admin(f"/admin/jobs/{job_id}/runner_status")
    assert (shown["JobStatus"], shown["CTSAttempt"]) == (2, 1)
    assert not {"Environment", "Arguments", "Args", "Env"} & shown.keys()
    await kbase.over(job_id)
    assert (await kbase.admin(f"/admin/jobs/{job_id}/runner_status"))["ClusterId"] == shown["ClusterId"]


async def test_fifty_containers(kbase: Driver, room: Room):
    files = await kbase.upload({f"{i}.fa": f">{i}\nACGT\n".encode() for i in range(50)})
    job_id = await kbase.submit(files, ["copy", LISTED])
    job = await kbase.over(job_id, within=240)
    assert len(await kbase.outputs(job)) == 50
    assert [c["exit_code"] for c in await kbase.containers(job_id)] == [0] * 50
    assert [len(clusters) for clusters in room.clusters(job_id).values()] == [1]
    await kbase.check_history(job_id, HAPPY)


async def test_a_failing_container_and_its_neighbour(kbase: Driver, room: Room):
    files = await kbase.upload({"0": b"x", "1": b"y"})
    job_id = await kbase.submit(files, ["fail", {"type": "container_number"}])
    job = await kbase.over(job_id, "error")
    await kbase.check_history(job_id, FAILED)
    assert (await kbase.client().get(f"/jobs/{job_id}/exit_codes")).json() == {"exit_codes": [0, 1]}
    assert "container 1" in job["error"]
    assert "failing with exit code 1" in await kbase.log(job_id, 1, "stderr")
    assert [len(clusters) for clusters in room.clusters(job_id).values()] == [1]  # what failed is not tried again


# What happens in a pool


async def test_a_vacated_container_begins_again(kbase: Driver, room: Room):
    files = await kbase.upload({"a": b"x"})
    job_id = await kbase.submit(files, ["later", "6", "write", "out", "5"])
    await kbase.reached(job_id, "job_submitted")
    proc = await queued(room, job_id, status=2)
    await asyncio.to_thread(room.pool.tool, "condor_vacate_job", proc)
    job = await kbase.over(job_id)
    assert list(await kbase.outputs(job)) == ["out"]
    [container] = await kbase.containers(job_id)
    assert container["attempt"] == 2
    [lost] = container["lost_attempts"]
    assert lost["attempt"] == 1
    assert lost["why"]
    # The pool has started it again by itself: it is the same run.
    assert room.clusters(job_id) == {1: {int(proc.partition(".")[0])}}


async def test_a_worker_that_dies(kbase: Driver, room: Room):
    files = await kbase.upload({"a": b"x"})
    job_id = await kbase.submit(files, ["later", "6", "write", "out", "5"])
    await kbase.reached(job_id, "job_submitted")
    await asyncio.to_thread(room.pool.kill, "starter")
    job = await kbase.over(job_id)
    assert list(await kbase.outputs(job)) == ["out"]
    assert (await kbase.containers(job_id))[0]["attempt"] == 2


@pytest.mark.parametrize("canceled", [False, True], ids=["retried", "canceled"])
async def test_a_machine_that_dies(kbase: Driver, room: Room, canceled: bool):
    """Nobody there confirms that a job is removed, and the schedd would wait for it as long as the job's lease."""
    files = await kbase.upload({"a": b"x"})
    job_id = await kbase.submit(files, ["later", "6", "write", "out", "5"])
    await kbase.reached(job_id, "job_submitted")
    await asyncio.to_thread(room.pool.kill, "startd")
    if canceled:
        assert (await kbase.client().put(f"/jobs/{job_id}/cancel")).status_code == 204
        await kbase.over(job_id, "canceled", within=150)
    else:
        job = await kbase.over(job_id, within=150)
        assert list(await kbase.outputs(job)) == ["out"]
        assert (await kbase.containers(job_id))[0]["attempt"] == 2
    assert await asyncio.to_thread(room.queue, job_id, "ClusterId") == []


async def test_removed_by_somebody_else(kbase: Driver, room: Room):
    files = await kbase.upload({"a": b"x", "b": b"y"})
    job_id = await kbase.submit(files, ["sleep", "60"])
    await kbase.reached(job_id, "job_submitted")
    [cluster] = room.clusters(job_id)[1]
    await asyncio.to_thread(room.pool.tool, "condor_rm", f"{cluster}.1")
    await until(lambda: _state(kbase, job_id, 1, "error"), "container 1 is an error")
    await asyncio.to_thread(room.pool.tool, "condor_rm", f"{cluster}.0")
    job = await kbase.over(job_id, "error")
    assert "removed it from the queue: via condor_rm" in job["error"]
    assert "was removed from HTCondor's queue at 20" in (await kbase.admin(f"/admin/jobs/{job_id}"))["admin_error"]
    assert list(room.clusters(job_id)) == [1]


async def _state(driver: Driver, job_id: str, number: int, state: str) -> bool:
    return bool((await driver.containers(job_id))[number]["state"] == state)


async def test_put_on_hold_and_released_by_somebody_else(kbase: Driver, room: Room):
    files = await kbase.upload({"a": b"x"})
    job_id = await kbase.submit(files, ["later", "2", "write", "out", "5"])
    proc = await queued(room, job_id, status=2)
    await asyncio.to_thread(room.pool.tool, "condor_hold", "-reason", "the tape robot is on fire", proc)
    assert "hold" in await waiting(kbase, job_id, "container 0")
    detail = await waiting(kbase, job_id, "tape robot", admin=True)
    assert re.search(r"since 20\d\d-\d\d-\d\dT[\d:]+Z, code 1, subcode \d+: the tape robot is on fire", detail)
    await asyncio.to_thread(room.pool.tool, "condor_release", proc)
    await kbase.over(job_id)
    assert room.clusters(job_id) == {1: {int(proc.partition(".")[0])}}


async def test_nothing_in_the_pool_is_large_enough(room: Room, home):
    async with room.running(home, {"KBCTS_HTCONDOR_CPUS_PER_NODE": "64"}) as driver:
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["sleep", "1"], cpus=60)
        told = await waiting(driver, job_id, "no machine of the site kbase")
        assert "cancel the job" in told
        analysis = await waiting(driver, job_id, "0 of 1 slots", admin=True)
        assert "0 meet TARGET.Cpus >= RequestCpus" in analysis
        assert (await driver.status(job_id))["state"] == "created"
        shown = await driver.admin(f"/admin/jobs/{job_id}/runner_status")
        assert "0 meet TARGET.Cpus >= RequestCpus" in shown["Analysis"]
        assert (await driver.client().put(f"/jobs/{job_id}/cancel")).status_code == 204
        await driver.over(job_id, "canceled")


# Holds


async def test_a_program_that_cannot_be_fetched(room: Room, home):
    url = f"http://{room.stack.registry}/executable.sh"  # answers 404
    missing = {"KBCTS_HTCONDOR_EXECUTABLE_URL": url, "KBCTS_HTCONDOR_MAX_RELEASES": "1"}
    async with room.running(home, missing) as driver:
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["sleep", "1"])
        job = await driver.over(job_id, "error", within=200)
        assert "container 0: the cluster could not start it, since its worker could not fetch" in job["error"]
        admin_error = (await driver.admin(f"/admin/jobs/{job_id}"))["admin_error"]
        assert "code 13" in admin_error
        assert "HTCondor holds it since 20" in admin_error
        assert await asyncio.to_thread(room.queue, job_id, "ClusterId") == []
        [[released]] = await asyncio.to_thread(room.history, job_id, "CTSReleases")
        assert released == "1"


async def test_a_program_that_cannot_be_run(room: Room, home):
    async with room.running(home, {"KBCTS_HTCONDOR_SHELL": "/nonexistent/bash"}) as driver:
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["sleep", "1"])
        job = await driver.over(job_id, "error", within=150)
        assert "container 0: the site could not start it, tried 3 times" in job["error"]
        assert "code 6, subcode 2" in (await driver.admin(f"/admin/jobs/{job_id}"))["admin_error"]
        assert {len(clusters) for clusters in room.clusters(job_id).values()} == {1}
        assert sorted(room.clusters(job_id)) == [1, 2, 3]
        assert await asyncio.to_thread(room.queue, job_id, "ClusterId") == []


async def test_a_pool_that_refuses_the_service(room: Room, home):
    """The token is of a user who may not submit: the job waits until an administrator has mended that."""
    tokens = home / "condor-tokens"
    tokens.mkdir(parents=True)
    token = tokens / "token"
    token.touch(mode=0o600)
    token.write_text(room.pool.token(f"stranger@{DOMAIN}"))
    async with room.running(home, {"KBCTS_HTCONDOR_TOKEN_DIRECTORY": str(tokens)}) as driver:
        job_id = await driver.submit(await driver.upload({"a": b"x"}), ["write", "out", "5"])
        assert "stranger" in await waiting(driver, job_id, "DENIED", admin=True)
        await until(lambda: _unavailable(driver, "DENIED"), "the site says why it is not available")
        reply = await driver.client().post("/jobs", json=driver.body(await driver.upload({"a": b"x"}), ["sleep", "1"]))
        assert reply.json()["error"]["appcode"] == 60020
        token.write_text(room.pool.token(f"{room.pool.job_user}@{DOMAIN}"))
        await driver.over(job_id)
        await until(driver.site_available, "the site is available again")
        assert [len(c) for c in room.clusters(job_id).values()] == [1]


async def _unavailable(driver: Driver, why: str) -> bool:
    return why in (await driver.site_shown()).get("unavailable_reason", "")


# Cancelling


@pytest.mark.parametrize("when", ["idle", "running", "uploading"])
async def test_cancel(kbase: Driver, room: Room, when: str):
    files = await kbase.upload({"x": b"x"})
    blocker = None
    if when == "idle":
        blocker = await kbase.submit(files, ["sleep", "120"], cpus=8)
        await kbase.reached(blocker, "job_submitted")
        job_id = await kbase.submit(files, ["sleep", "60"])
        await queued(room, job_id, status=1)
    elif when == "running":
        job_id = await kbase.submit(files, ["stubborn", "60"])
        await kbase.reached(job_id, "job_submitted")
    else:
        job_id = await kbase.submit(files, ["write", "big", "200000000"], memory="100MB")
        await kbase.reached(job_id, "upload_submitting")
    assert (await kbase.client().put(f"/jobs/{job_id}/cancel")).status_code == 204
    assert (await kbase.status(job_id))["state"] in {"canceling", "canceled"}
    await kbase.over(job_id, "canceled")
    assert [m["state"] for m in await kbase.messages(job_id, "canceled")][-2:] == ["canceling", "canceled"]
    assert await asyncio.to_thread(room.queue, job_id, "ClusterId") == []
    if when == "running":
        reasons = await asyncio.to_thread(room.history, job_id, "RemoveReason")
        assert "CTS: the job was canceled" in reasons[0][0]
    assert await asyncio.to_thread(room.processes, job_id) == []
    if blocker:
        assert (await kbase.client().put(f"/jobs/{blocker}/cancel")).status_code == 204
        await kbase.over(blocker, "canceled")


# Two services


async def test_two_services_on_one_pool(room: Room, home):
    one, two = (EmbeddedService(room.stack, home, QUICK_POOL, name=n, pool=room.pool) for n in ("one", "two"))
    one.start()
    two.start()
    try:
        async with room.driver(one) as first, room.driver(two) as second:
            await first.ready()
            await second.ready()
            files = await first.upload({str(i): b">a\nA\n" for i in range(4)})
            jobs = [await d.submit(files, ["copy", LISTED], num_containers=2) for d in (first, second) * 2]
            await asyncio.to_thread(one.kill)
            for job_id in jobs:
                await second.over(job_id)
                await second.check_history(job_id, HAPPY)
                assert [len(c) for c in room.clusters(job_id).values()] == [1]
    finally:
        one.stop()
        two.stop()
