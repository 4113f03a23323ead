"""Reports that come twice, late, reordered and in the same instant, over real HTTP."""

import asyncio
import datetime
import random
import uuid

from test.system.driver import HAPPY, Driver


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


async def fake_job(driver: Driver, containers: int) -> tuple[str, list[str]]:
    """A job whose containers cannot start, since a long one holds every CPU: the test reports in their place."""
    files = await driver.upload({str(i): b"x" for i in range(containers)})
    return await driver.submit(files, ["say", "1"]), files


async def blocked(driver: Driver) -> str:
    job_id = await driver.submit(await driver.upload({"x": b"x"}), ["sleep", "50"], cpus=2)
    await driver.reached(job_id, "job_submitted")
    return job_id


async def test_two_containers_reporting_in_one_instant(own: Driver):
    blocker = await blocked(own)
    client = own.client("executor")
    for _ in range(20):
        job_id, _files = await fake_job(own, 2)
        out = (await own.job(job_id))["job_input"]["output_dir"]
        stored = [await own.s3.put(f"{out}{n}.txt", b"result") for n in range(2)]
        for state in HAPPY[1:]:

            def report(n: int, job_id=job_id, state=state, stored=stored):
                body = {"time": now()}
                if state == "complete":
                    body["outputs"] = [{"file": stored[n].path, "crc64nvme": stored[n].crc64nvme}]
                return client.put(f"/external_exec/jobs/{job_id}/container/{n}/update/{state}", json=body)

            replies = await asyncio.gather(report(0), report(1))
            assert [r.status_code for r in replies] == [204, 204]
        job = await own.over(job_id)
        assert len(job["outputs"]) == 2
    assert (await own.client().put(f"/jobs/{blocker}/cancel")).status_code == 204


async def test_reports_twice_and_in_the_wrong_order(own: Driver):
    blocker = await blocked(own)
    client = own.client("executor")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(5):
        job_id, _files = await fake_job(own, 3)
        out = (await own.job(job_id))["job_input"]["output_dir"]
        reports = []
        for n in range(3):
            stored = await own.s3.put(f"{out}{n}.txt", b"result")
            for state in HAPPY[1:]:
                body = {"time": now()}
                if state == "upload_submitting":
                    body["exit_code"] = 0
                if state == "complete":
                    body["outputs"] = [{"file": stored.path, "crc64nvme": stored.crc64nvme}]
                reports += 2 * [(f"/external_exec/jobs/{job_id}/container/{n}/update/{state}", body)]
        dice.shuffle(reports)
        for i in range(0, len(reports), 6):
            replies = await asyncio.gather(*(client.put(path, json=body) for path, body in reports[i : i + 6]))
            assert {r.status_code for r in replies} == {204}, [r.text for r in replies]
        job = await own.over(job_id)
        assert sorted(o["file"] for o in job["outputs"]) == [f"{out}{n}.txt" for n in range(3)]
        assert (await own.client().get(f"/jobs/{job_id}/exit_codes")).json() == {"exit_codes": [0, 0, 0]}
        for container in await own.containers(job_id):
            assert [t["state"] for t in container["transition_times"]] == HAPPY
        await own.check_history(job_id, HAPPY)
    assert (await own.client().put(f"/jobs/{blocker}/cancel")).status_code == 204


async def test_forged_outputs_are_not_believed(own: Driver):
    blocker = await blocked(own)
    client = own.client("executor")
    job_id, _ = await fake_job(own, 1)
    out = (await own.job(job_id))["job_input"]["output_dir"]
    url = f"/external_exec/jobs/{job_id}/container/0/update/complete"
    stored = await own.s3.put(f"{out}real.txt", b"result")
    elsewhere = await own.s3.put(f"cts-data/ann/{uuid.uuid4().hex}", b"result")
    for path, checksum, code in (
        (f"{out}none.txt", stored.crc64nvme, 30001),
        (stored.path, "AAAAAAAAAAA=", 30030),
        (elsewhere.path, elsewhere.crc64nvme, 30001),
        (f"{out}../x", stored.crc64nvme, 30010),
    ):
        reply = await client.put(url, json={"time": now(), "outputs": [{"file": path, "crc64nvme": checksum}]})
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["appcode"] == code
    assert (await own.client().put(url, json={"time": now()})).status_code == 403
    assert (await own.status(job_id))["state"] == "created"
    for job in (job_id, blocker):
        assert (await own.client().put(f"/jobs/{job}/cancel")).status_code == 204
        await own.over(job, "canceled")
