"""The Python client against the service: real jobs, both clients."""

import asyncio
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.client import (
    AsyncClient,
    AuthenticationError,
    Client,
    Conflict,
    ContainersEvent,
    EndEvent,
    InvalidRequest,
    InvalidState,
    JobInput,
    JobNotOver,
    NoSuchContainer,
    NoSuchImage,
    NoSuchJob,
    Parameter,
    Parameters,
    StateEvent,
    Unauthorized,
    WaitTimeout,
)
from cdmtaskservice.embedded.service import BUCKET
from test.system.driver import HAPPY, Driver

FASTA = {f"s {i}.fa": f">a\nACGT{'A' * i}\n".encode() for i in range(3)}
FILES = Parameter.input_files("space_separated_list")


@pytest.fixture
async def cts(shared: Driver) -> AsyncIterator[AsyncClient]:
    """A client of ann's."""
    async with AsyncClient(shared.service.url, shared.service.tokens["ann"]) as client:
        yield client


@pytest.fixture
async def admin(shared: Driver) -> AsyncIterator[AsyncClient]:
    """A client of an administrator's."""
    async with AsyncClient(shared.service.url, shared.service.tokens["admin"]) as client:
        yield client


def asked(driver: Driver, files: list[str], *args: str | Parameter, **more: Any) -> JobInput:
    """A job of ann's, a container for each file."""
    return JobInput(
        cluster=driver.site,
        image=driver.image.by_tag,
        params=Parameters(args=args, declobber=True),
        input_files=files,
        output_dir=f"{BUCKET}/ann/out/{uuid.uuid4().hex[:8]}",
        num_containers=len(files),
        memory="50MB",
        **{"runtime": 60, **more},
    )


async def test_a_job_from_its_check_to_its_files(shared: Driver, cts: AsyncClient, tmp_path: Path):
    files = await shared.upload(FASTA)
    tag = uuid.uuid4().hex[:8]
    job = asked(shared, files, "copy", FILES, name="a copy", tags=[tag])
    dry = await cts.check(job)
    assert dry.example is not None
    assert dry.example.args == ("copy", "/input_files/s 0.fa")
    assert (dry.input_file_count, dry.containers) == (3, 3)
    assert dry.input_bytes == sum(map(len, FASTA.values()))
    assert [j async for j in cts.jobs(tag=tag)] == []

    key = uuid.uuid4().hex
    job_id = await cts.submit(job, idempotency_key=key)
    assert await cts.submit(job, idempotency_key=key) == job_id
    with pytest.raises(Conflict):
        await cts.submit({**job.to_json(), "name": "another"}, idempotency_key=key)

    events = [e async for e in cts.events(job_id)]
    assert [e.state for e in events if isinstance(e, StateEvent)] == HAPPY
    assert [e.number for e in events if isinstance(e, StateEvent)] == list(range(len(HAPPY)))
    assert {e.total for e in events if isinstance(e, ContainersEvent)} == {3}
    assert [e for e in events if isinstance(e, ContainersEvent)][-1].over == 3
    assert isinstance(events[-1], EndEvent)

    done = await cts.wait(job_id, timeout=60)
    assert done.state == "complete"
    assert (done.job_input.name, done.job_input.memory) == ("a copy", 50_000_000)
    assert len(done.outputs) == 3
    containers = await cts.containers(job_id)
    assert [(c.container_number, c.state, c.exit_code) for c in containers] == [(n, "complete", 0) for n in range(3)]
    assert await cts.exit_codes(job_id) == [0, 0, 0]
    inputs = [f async for f in cts.inputs(job_id)]
    assert [(f.file, f.size) for f in inputs] == [(f, len(d)) for f, d in zip(files, FASTA.values(), strict=True)]

    paths = await cts.download(job_id, tmp_path)
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in paths} == {
        f"{n}/{name}": data for n, (name, data) in enumerate(FASTA.items())
    }
    changed = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert await cts.download(job_id, tmp_path) == paths
    assert paths[0].stat().st_mtime_ns == changed
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 3
    with pytest.raises(InvalidState):
        await cts.cancel(job_id)


async def test_the_first_job_of_the_page(shared: Driver, tmp_path: Path):
    """As docs/client.md shows it, but for the image and the places in S3."""
    page = (Path(__file__).parents[2] / "docs/client.md").read_text(encoding="utf-8")
    code = page.partition("```python first\n")[2].partition("```")[0]
    files = await shared.upload({"sample1.fasta": b">a\nACGT\n", "sample2.fasta": b">b\nAC\n"})
    real = {
        "registry.example.org/tools/seqtool:1.0": shared.image.by_tag,
        "cts-data/ann/reads/sample1.fasta": files[0],
        "cts-data/ann/reads/sample2.fasta": files[1],
        "cts-data/ann/results/run1": f"{BUCKET}/ann/out/{uuid.uuid4().hex[:8]}",
    }
    for shown, here in real.items():
        assert code.count(shown) == 1
        code = code.replace(shown, here)
    env = {**os.environ, "CTS_URL": shared.service.url, "CTS_TOKEN": shared.service.tokens["ann"]}
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE
    )
    out, err = await run.communicate()
    assert (out.decode().split()[0], err) == ("complete", b"")
    assert b"sample1.fasta" in (tmp_path / "run1/seqstats.tsv").read_bytes()


async def test_the_client_that_blocks(shared: Driver, tmp_path: Path):
    files = await shared.upload({"a": b"x", "b": b"y"})

    def use() -> None:
        with Client(shared.service.url, shared.service.tokens["ann"]) as cts:
            job_id = cts.submit(asked(shared, files, "write", "deep/big", "3000000"))
            assert cts.wait(job_id, timeout=90, progress=True).state == "complete"
            paths = cts.download(job_id, tmp_path, progress=True)
            assert sorted(str(p.relative_to(tmp_path)) for p in paths) == ["0/deep/big", "1/deep/big"]
            assert {p.stat().st_size for p in paths} == {3_000_000}
            assert [e.kind for e in cts.events(job_id)][-1] == "end"
            assert cts.status(job_id).is_over
            assert job_id in [j.id for j in cts.jobs(limit=20)]

    await asyncio.to_thread(use)


async def test_logs_of_what_is_over(shared: Driver, cts: AsyncClient):
    job_id = await cts.submit(asked(shared, await shared.upload({"a": b"x"}), "say", "3"))
    assert (await cts.wait(job_id, timeout=60)).state == "error"  # it has written no file
    assert await cts.log(job_id) == b"out 1\nout 2\nout 3\n"
    assert await cts.log(job_id, 0, "stderr", seek=6, length=6) == b"err 2\n"
    async with aclosing(cts.follow_log(job_id, seek=6)) as followed:
        assert b"".join([chunk async for chunk in followed]) == b"out 2\nout 3\n"
    with pytest.raises(NoSuchContainer):
        await cts.log(job_id, 7)


async def test_the_log_of_a_slow_container_comes_while_it_runs(shared: Driver, cts: AsyncClient):
    """The first line is there while the program goes on; the log is whole at the end."""
    job_id = await cts.submit(asked(shared, await shared.upload({"a": b"x"}), "tick", "6", "0.5"))
    came: list[bytes] = []
    states: list[str] = []
    async with aclosing(cts.follow_log(job_id)) as followed:
        async for chunk in followed:
            if not came:
                states.append((await cts.containers(job_id))[0].state)
            came.append(bytes(chunk))
    assert states == ["job_submitted"]
    assert len(came) > 1
    await cts.wait(job_id, timeout=60)
    assert b"".join(came) == await cts.log(job_id)


async def test_canceling(shared: Driver, cts: AsyncClient, tmp_path: Path):
    job_id = await cts.submit(asked(shared, await shared.upload({"a": b"x"}), "sleep", "50"))
    await shared.reached(job_id, "job_submitted")
    with pytest.raises(WaitTimeout) as caught:
        await cts.wait(job_id, timeout=1)
    assert caught.value.state == "job_submitted"
    with pytest.raises(JobNotOver):
        await cts.download(job_id, tmp_path)
    await cts.cancel(job_id)
    await cts.cancel(job_id)
    assert (await cts.wait(job_id, timeout=60)).state == "canceled"


async def test_lists_over_several_pages(shared: Driver, cts: AsyncClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdmtaskservice.client.calls.PAGE", 2)
    files = await shared.upload({"a": b"x"})
    tag = uuid.uuid4().hex[:8]
    ids = [await cts.submit(asked(shared, files, "copy", FILES, tags=[tag])) for _ in range(5)]
    for job_id in ids:
        await cts.wait(job_id, timeout=90)
    listed = [j async for j in cts.jobs(tag=tag)]
    assert {j.id for j in listed} == set(ids)
    assert len(listed) == 5
    assert [j.id async for j in cts.jobs(tag=tag, limit=3)] == [j.id for j in listed[:3]]
    newest = listed[0].transition_times[-1].time
    assert [j.id async for j in cts.jobs(tag=tag, after=newest)] == [listed[0].id]
    assert [j.id async for j in cts.jobs(tag=tag, before=newest)] == [j.id for j in listed[1:]]
    outputs = [f async for f in cts.outputs(ids[0])]
    assert [f.file for f in outputs] == [f.file for f in (await cts.job(ids[0])).outputs]


async def test_what_there_is(shared: Driver, cts: AsyncClient):
    assert (await cts.service())["service_name"] == "CDM Task Service"
    me = await cts.whoami()
    assert (me.user, me.is_admin) == ("ann", False)
    assert shared.image.digest in {i.digest for i in await cts.images()}
    image = await cts.image(shared.image.by_tag)
    assert image.digest == shared.image.digest
    assert (await cts.image(f"{image.name}@{image.digest}")).name == image.name
    [site] = [s for s in await cts.sites() if s.cluster == shared.site]
    assert site.available
    assert await cts.refdata_by_path(f"{BUCKET}/ann/none") == []
    assert isinstance(await cts.refdata(), list)


async def test_refusals(shared: Driver, cts: AsyncClient):
    with pytest.raises(NoSuchJob):
        await cts.status("nothing")
    with pytest.raises(NoSuchImage):
        await cts.image("registry.test/none:1")
    with pytest.raises(Unauthorized):
        await cts.admin.refdata()
    with pytest.raises(InvalidRequest) as caught:
        await cts.submit({})
    assert caught.value.detail
    assert caught.value.request_id
    async with AsyncClient(shared.service.url, "nobodys-token") as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.whoami()


async def test_administration(shared: Driver, cts: AsyncClient, admin: AsyncClient):
    job_id = await cts.submit(asked(shared, await shared.upload({"a": b"x"}), "copy", FILES))
    await cts.wait(job_id, timeout=60)
    listed = [j.id async for j in admin.admin.jobs(user="ann", limit=50)]
    assert job_id in listed
    assert (await admin.admin.job(job_id)).transition_times[0].trans_id
    assert [c.sub_id for c in await admin.admin.containers(job_id)] == [0]
    assert (await admin.admin.container(job_id, 0)).exit_code == 0
    assert await admin.admin.exit_codes(job_id) == [0]
    assert isinstance(await admin.admin.runner_status(job_id), dict)
    await admin.admin.set_meta(job_id, {"ticket": "CTS-1", "n": 2})
    await admin.admin.set_meta(job_id, unset_keys=["n"])
    assert dict((await cts.status(job_id)).admin_meta) == {"ticket": "CTS-1"}
    await admin.admin.notify(job_id, "complete")
    await admin.admin.clean(job_id)
    assert (await admin.admin.unsent_notifications("PT5M")).jobs >= 0
    with pytest.raises(InvalidState):
        await admin.admin.cancel(job_id)
    with pytest.raises(InvalidRequest):
        await admin.admin.close_site("nowhere")
    await admin.admin.open_site(shared.site)
    with pytest.raises(Conflict):
        await admin.admin.approve_image(shared.image.by_tag)
    assert isinstance(await admin.admin.refdata(), list)


async def test_a_service_that_goes_and_comes_back(own: Driver):
    """The service is killed while a job is waited for and its log followed. Both go on."""
    async with AsyncClient(own.service.url, own.service.tokens["ann"]) as cts:
        job_id = await cts.submit(asked(own, await own.upload({"a": b"x"}), "tick", "8", "0.5"))
        waiting = asyncio.create_task(cts.wait(job_id))
        begun = asyncio.Event()
        following = asyncio.create_task(by_attempt(cts, job_id, begun))
        await asyncio.wait_for(begun.wait(), 60)
        await asyncio.to_thread(own.service.kill)
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(own.service.start)
        assert (await asyncio.wait_for(waiting, 120)).state == "complete"
        logs = await asyncio.wait_for(following, 60)
        [container] = await cts.containers(job_id)
        assert container.attempt == max(logs)
        assert logs[container.attempt] == await cts.log(job_id)


async def test_the_log_of_a_container_that_is_lost(own: Driver):
    """Its executor is killed: the log of the next attempt follows, from its beginning."""
    async with AsyncClient(own.service.url, own.service.tokens["ann"]) as cts:
        job_id = await cts.submit(asked(own, await own.upload({"a": b"x"}), "tick", "12", "0.25"))
        begun = asyncio.Event()
        following = asyncio.create_task(by_attempt(cts, job_id, begun))
        await asyncio.wait_for(begun.wait(), 60)
        status = await own.admin(f"/admin/jobs/{job_id}/runner_status")
        os.kill(int(status["pid"]), signal.SIGKILL)
        logs = await asyncio.wait_for(following, 90)
        assert (await cts.wait(job_id, timeout=60)).state == "complete"
        whole = await cts.log(job_id)
        assert sorted(logs) == [1, 2]
        assert whole.startswith(logs[1])
        assert logs[2] == whole


async def by_attempt(cts: AsyncClient, job_id: str, begun: asyncio.Event) -> dict[int, bytes]:
    """A log that was followed to its end. `begun` is set when there is anything of it."""
    logs: dict[int, bytes] = {}
    async for chunk in cts.follow_log(job_id):
        assert chunk.attempt is not None
        before = logs.get(chunk.attempt, b"")
        assert len(before) == chunk.offset
        logs[chunk.attempt] = before + chunk
        begun.set()
    return logs
