"""What a submission leaves behind when it is killed in its middle."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from cdmtaskservice.domain.records import InputFiles
from cdmtaskservice.reconciler.cleaner import Cleaner
from cdmtaskservice.store.database import Database, StoreUnavailableError
from cdmtaskservice.store.live_logs import LiveLogStore
from test.stand_ins.clockwork import eventually
from test.stand_ins.job_house import JobHouse, a_job

AGE = 3600.0
STEPS = ("announced", "files", "containers", "job", "settled")


def cleaner(house: JobHouse, **kwargs) -> Cleaner:
    return Cleaner(
        house.jobs, house.containers, house.files, LiveLogStore(house.database), house.clock, age=AGE, **kwargs
    )


async def submit_until(house: JobHouse, job_id: str, last: str) -> None:
    """What a submission stores, in its order, up to where it was killed."""
    inputs = InputFiles(["b/k"], ["AAAAAAAAAAA="], [1], ["k"])
    for step in STEPS[: STEPS.index(last) + 1]:
        if step == "announced":
            await house.jobs.announce(job_id, house.clock())
        elif step == "files":
            await house.files.insert_inputs(job_id, inputs)
        elif step == "containers":
            await house.containers.insert(job_id, 1, house.clock())
        elif step == "job":
            await house.jobs.insert(a_job(job_id))
        else:
            await house.jobs.settle(job_id)


async def left(database: Database, job_id: str) -> set[str]:
    found = set()
    for name, query in (
        ("pending", {"_id": job_id}),
        ("files", {"job": job_id}),
        ("containers", {"job": job_id}),
        ("jobs", {"_id": job_id}),
    ):
        if await database.db[name].find_one(query):
            found.add(name)
    return found


async def test_leftovers_go_after_their_time_and_jobs_stay(database):
    house = JobHouse(database)
    for step in STEPS:
        await submit_until(house, step, step)
    before = {step: await left(database, step) for step in STEPS}
    assert before["containers"] == {"pending", "files", "containers"}

    house.clock.advance(AGE - 1)
    assert await cleaner(house).clean() == 0
    assert {step: await left(database, step) for step in STEPS} == before

    house.clock.advance(2)
    await submit_until(house, "young", "containers")
    assert await cleaner(house).clean() == 3
    for step in ("announced", "files", "containers"):
        assert await left(database, step) == set()
    for step in ("job", "settled"):
        assert await left(database, step) == {"files", "containers", "jobs"}
    assert await left(database, "young") == {"pending", "files", "containers"}
    assert await cleaner(house).clean() == 0


async def test_cleaners_in_several_processes_do_no_harm_to_each_other(database):
    house = JobHouse(database)
    await submit_until(house, "dead", "containers")
    await submit_until(house, "alive", "job")
    house.clock.advance(AGE + 1)
    await asyncio.gather(*(cleaner(house).clean() for _ in range(4)))
    assert await left(database, "dead") == set()
    assert await left(database, "alive") == {"files", "containers", "jobs"}


async def test_a_cleaner_that_was_stopped_half_way_goes_on_later(database):
    house = JobHouse(database)
    await submit_until(house, "dead", "containers")
    house.clock.advance(AGE + 1)
    delete = house.containers.delete

    async def away(job_id):
        raise StoreUnavailableError("away")

    house.containers.delete = away
    with pytest.raises(StoreUnavailableError):
        await cleaner(house).clean()
    assert "pending" in await left(database, "dead")
    house.containers.delete = delete
    assert await cleaner(house).clean() == 1
    assert await left(database, "dead") == set()


async def test_the_cleaner_runs_on_whatever_happens(database):
    house = JobHouse(database)
    faults = [StoreUnavailableError("away"), RuntimeError("a bug")]
    announced = house.jobs.announced_before

    async def faulty(*args):
        if faults:
            raise faults.pop()
        return await announced(*args)

    house.jobs.announced_before = faulty
    await submit_until(house, "dead", "files")
    house.clock.advance(AGE + 1)
    task = asyncio.create_task(cleaner(house, interval=0.01).run())

    async def cleaned():
        return not await left(database, "dead")

    await eventually(cleaned)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert faults == []
