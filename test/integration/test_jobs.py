"""What owners see of their jobs, with a real S3 store."""

from __future__ import annotations

from urllib.request import urlopen

import pytest

from cdmtaskservice.domain.errors import ChecksumMismatchError, NoLogsError, NoSuchS3PathError
from cdmtaskservice.domain.records import OutputFiles, Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.services.jobs import log_file
from cdmtaskservice.sites.base import Run
from test.integration.workers_room import BUCKET, LOGS, Room
from test.stand_ins.job_house import BAD, GOOD

S = JobState
OUT = f"{BUCKET}/out"


async def canceled(room: Room, containers: int = 3) -> str:
    """A job of which the first containers came to their ends before it was canceled, and the last one did not."""
    job_id = await room.submitted(containers=containers, logpath=f"{LOGS}/canceled/")
    for number, reports in enumerate((GOOD, BAD, [S.JOB_SUBMITTED])):
        await room.report(Run(job_id, number, 1), reports)
    await end(room, job_id, S.CANCELING, S.CANCELED)
    return job_id


async def end(room: Room, job_id: str, *states: JobState) -> None:
    for number, state in enumerate(states):
        room.clock.advance(1)
        await room.jobs.transition(job_id, Transition(state, room.clock(), f"end-{number}"))


async def test_what_a_canceled_job_has_stopped_is_canceled(room: Room) -> None:
    job_id = await canceled(room)
    job = await room.owned.find(job_id, None)
    given = await room.owned.containers(None, job_id)
    assert [c.state for c in given] == [S.COMPLETE, S.ERROR, S.CANCELED]
    assert given[2].reached[S.CANCELED].at == job.updated
    assert [await room.owned.container(None, job_id, n) for n in range(3)] == list(given)
    stored = await room.containers.list(job_id)
    assert [c.state for c in stored] == [S.COMPLETE, S.ERROR, S.JOB_SUBMITTED]


async def test_containers_of_a_job_that_is_being_canceled_are_what_they_are(room: Room) -> None:
    job_id = await room.submitted()
    await end(room, job_id, S.CANCELING)
    assert [c.state for c in await room.owned.containers(None, job_id)] == [S.CREATED]


async def test_why_there_is_no_log(room: Room) -> None:
    job_id = await room.submitted(logpath=f"{LOGS}/none/")
    running = "it has not run to an end; with follow=true it can be read as it is written"
    for ask in (room.owned.log, room.owned.log_size):
        with pytest.raises(NoLogsError, match=running):
            await ask(None, job_id, 0, "stdout")
    await end(room, job_id, S.CANCELING, S.CANCELED)
    for ask in (room.owned.log, room.owned.log_size):
        with pytest.raises(NoLogsError, match=r"the log of a canceled container is not kept$"):
            await ask(None, job_id, 0, "stdout")


async def test_a_container_that_ended_without_a_log_is_not_said_to_go_on(room: Room) -> None:
    job_id = await canceled(room)
    with pytest.raises(NoLogsError, match=r"it has ended without one$"):
        await room.owned.log(None, job_id, 1, "stderr")
    await room.s3.put(log_file(f"{LOGS}/canceled/", 1, "stderr"), b"kept")
    assert [chunk async for chunk in await room.owned.log(None, job_id, 1, "stderr")] == [b"kept"]


async def made(room: Room, data: bytes = b"mine") -> str:
    """A complete job that has made a file."""
    found = await room.s3.put(f"{OUT}/a.tsv", data)
    job_id = await room.accept()
    await room.jobs.set_fields(job_id, {"output_file_count": 1})
    await room.files.put_outputs(job_id, OutputFiles([found.path], [found.crc64nvme or ""]))
    return job_id


async def test_a_link_to_an_output_gives_its_bytes(room: Room) -> None:
    link = await room.owned.link(None, await made(room), "outputs", 0)
    assert link is not None
    with urlopen(link, timeout=10) as response:
        assert response.read() == b"mine"
    assert await room.owned.link(None, "j", "outputs", 1) is None


async def test_no_link_gives_another_jobs_bytes(room: Room) -> None:
    job_id = await made(room)
    await room.s3.put(f"{OUT}/a.tsv", b"not mine")
    with pytest.raises(ChecksumMismatchError, match=rf"a\.tsv was replaced since job {job_id} made it; another job"):
        await room.owned.link(None, job_id, "outputs", 0)
    await room.s3.delete([f"{OUT}/a.tsv"])
    with pytest.raises(NoSuchS3PathError, match=r"a\.tsv is not in S3 any more"):
        await room.owned.link(None, job_id, "outputs", 0)


async def test_no_link_gives_an_input_that_was_replaced(room: Room) -> None:
    job_id = await room.accept()
    file = (await room.owned.files(None, job_id, "inputs", 0, 1)).files[0]
    assert await room.owned.link(None, job_id, "inputs", 0) is not None
    was = b"".join([chunk async for chunk in room.s3.read(file)])
    try:
        await room.s3.put(file, b"newer")
        with pytest.raises(ChecksumMismatchError, match=f"was replaced since job {job_id} was submitted with it"):
            await room.owned.link(None, job_id, "inputs", 0)
    finally:
        await room.s3.put(file, was)
