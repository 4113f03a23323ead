"""The HTCondor site on a real pool, with a script in the place of the executor."""

import asyncio
import contextlib
import datetime
import hashlib
import http.server
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from cdmtaskservice.sites.base import (
    Run,
    RunRequest,
    RunState,
    SiteInfo,
    SiteUnreachableError,
    SubmissionRefusedError,
)
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.gateway import Gateway
from cdmtaskservice.sites.htcondor.site import HTCondorSite
from test.stand_ins.clockwork import eventually

SCRIPT = b"""\
while [ "$#" -gt 0 ]; do
    [ "$1" != --container ] || container=$2
    shift
done
trap 'exit 143' TERM
if [ "$container" -ge 500 ]; then sleep 300 & wait; fi
exit 7
"""
SHA256 = hashlib.sha256(SCRIPT).hexdigest()
S = RunState


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(SCRIPT)))
        self.end_headers()
        self.wfile.write(SCRIPT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def config(pool) -> Iterator[HTCondorSiteConfig]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield HTCondorSiteConfig(
        SiteInfo("kbase", "htcondor", 1, 8, 8 * 10**9, 3600.0),
        WorkerSetup(url, "/token", f"{url}/executable.sh", "http://s3"),
        condor_config=pool.client_config,
        scratch=1_000_000,
        timeout=5.0,
        submit_timeout=5.0,
        vacate_time=15.0,
    )
    server.shutdown()
    server.server_close()


@contextlib.asynccontextmanager
async def running(config: HTCondorSiteConfig, gateway: Gateway | None = None) -> AsyncIterator[HTCondorSite]:
    async def executable() -> str:
        return SHA256

    site = HTCondorSite(config, executable, gateway)
    await site.start()
    try:
        yield site
    finally:
        await site.stop()


@pytest.fixture
async def site(config) -> AsyncIterator[HTCondorSite]:
    async with running(config) as site:
        yield site


def runs_of(*containers: int, attempt: int = 1) -> list[Run]:
    job = str(uuid.uuid4())
    return [Run(job, n, attempt) for n in containers]


def requests(runs: list[Run], **more) -> list[RunRequest]:
    return [RunRequest(r, "ann", more.get("cpus", 1), 1_000_000, 60.0) for r in runs]


def lately() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def until_all(site: HTCondorSite, runs: list[Run], *states: RunState):
    """Poll until every run is in one of the states; the statuses."""

    async def there():
        found = await site.poll(runs, lately())
        return found if all(s.state in states for s in found.values()) else None

    return await eventually(there, within=60.0)


def procs(pool, runs: list[Run]) -> list[str]:
    told = pool.tool("condor_q", "-constraint", f'CTSJobID == "{runs[0].job_id}"', "-af:j", "CTSAttempt")
    return [line.split()[0] for line in told.splitlines()]


async def test_from_the_queue_to_the_history(site, pool):
    runs = runs_of(0, 1, 2)
    assert {s.state for s in (await site.poll(runs, lately())).values()} == {S.UNKNOWN}
    [cluster] = await site.submit(requests(runs))
    found = await until_all(site, runs, S.ENDED)
    assert {(s.detail, s.handle, s.error) for s in found.values()} == {
        ("its executor ended (exit code 7)", cluster, None)
    }
    async with running(site._config) as another:  # a process that has never heard of them
        assert {s.state for s in (await another.poll(runs, lately())).values()} == {S.ENDED}
    assert await site.end(runs, "x") == []
    assert (await site.runner_status(runs[1]))["ExitCode"] == 7
    assert await site.runner_status(runs_of(0)[0]) == {}


async def test_a_run_that_was_submitted_twice_is_in_the_queue_once(site, pool):
    runs = runs_of(500, 501)
    [first] = await site.submit(requests(runs))
    [second] = await site.submit(requests(runs))
    assert await asyncio.to_thread(procs, pool, runs) == [f"{c}.{p}" for c in (first, second) for p in (0, 1)]
    await site.poll(runs, lately())

    async def once() -> bool:
        left = await asyncio.to_thread(procs, pool, runs)
        return left == [f"{first}.0", f"{first}.1"]

    await eventually(once, within=20.0)
    assert {s.handle for s in (await site.poll(runs, lately())).values()} == {first}
    await ended(site, runs)


async def ended(site: HTCondorSite, runs: list[Run]) -> None:
    async def none_left() -> bool:
        return not await site.end(runs, "the test is over")

    await eventually(none_left, within=40.0)


async def test_an_earlier_attempt_does_not_run_beside_a_later_one(site, pool):
    runs = runs_of(500)
    again = [replace(runs[0], attempt=2)]
    await site.submit(requests(runs))
    [second] = await site.submit(requests(again))

    async def replaced() -> bool:
        await site.poll(again, lately())
        return await asyncio.to_thread(procs, pool, runs) == [f"{second}.0"]

    await eventually(replaced, within=20.0)
    await ended(site, again)


async def test_a_large_cluster_is_made_little_by_little(config, pool):
    runs = runs_of(*range(500, 530))
    async with running(replace(config, idle_at_once=5)) as site:
        await site.submit(requests(runs))
        assert len(await asyncio.to_thread(procs, pool, runs)) < 30
        assert {s.state for s in (await site.poll(runs, lately())).values()} <= {S.QUEUED, S.RUNNING}
        # Those that are not there yet can only go with the others.
        left = await site.end([runs[-1]], "one of them")
        assert left == [runs[-1]]
        await ended(site, runs)
        assert await asyncio.to_thread(procs, pool, runs) == []


async def test_a_large_cluster_runs_to_its_end(config):
    runs = runs_of(*range(25))
    async with running(replace(config, idle_at_once=4)) as site:
        await site.submit(requests(runs))
        found = await until_all(site, runs, S.ENDED)
    assert Counter(s.detail for s in found.values()) == {"its executor ended (exit code 7)": 25}


async def test_some_runs_of_a_cluster_are_ended(site, pool):
    runs = runs_of(500, 501)
    await site.submit(requests(runs))
    await until_all(site, runs, S.RUNNING)
    await ended(site, runs[1:])
    found = await site.poll(runs, lately())
    assert [found[r].state for r in runs] == [S.RUNNING, S.ENDED]
    assert "the test is over" in str(found[runs[1]].detail)
    assert found[runs[1]].error is None
    await ended(site, runs)


async def test_a_job_that_is_over_leaves_nothing_waiting_or_held(site, pool):
    runs = runs_of(500, 501)
    [cluster] = await site.submit(requests(runs))
    await until_all(site, runs, S.RUNNING)
    await asyncio.to_thread(pool.tool, "condor_hold", f"{cluster}.0")

    async def released() -> bool:
        await site.release(runs[0].job_id)
        return await asyncio.to_thread(procs, pool, runs) == [f"{cluster}.1"]

    await eventually(released, within=20.0)  # the one that runs is left to end by itself
    await ended(site, runs)


async def test_many_jobs_are_asked_about_in_one_question(config):
    calls: Counter[str] = Counter()

    class Counting(Gateway):
        async def call(self, name, limit, /, **arguments):
            calls[name] += 1
            return await super().call(name, limit, **arguments)

    jobs = [runs_of(500) for _ in range(12)]
    async with running(config, Counting("kbase", condor_config=config.condor_config)) as site:
        for runs in jobs:
            await site.submit(requests(runs))
        calls.clear()
        absent = [runs_of(1) for _ in range(12)]
        found = await asyncio.gather(*(site.poll(runs, lately()) for runs in [*jobs, *absent]))
        assert calls == {"query": 1, "history": 1}
        assert all(runs[0] in statuses for runs, statuses in zip([*jobs, *absent], found, strict=True))
        await asyncio.gather(*(site.release(runs[0].job_id) for runs in jobs))
        for runs in jobs:
            await ended(site, runs)


async def test_a_schedd_that_hangs_stops_neither_the_loop_nor_those_who_ask_later(config, pool):
    async with running(replace(config, timeout=1.0)) as site:
        assert (await site.health()).available
        await asyncio.to_thread(pool.suspend, "schedd")
        try:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.05)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            with pytest.raises(SiteUnreachableError, match="has not answered query within 1 seconds"):
                await site.poll(runs_of(1), lately())
            ticking.cancel()
            assert ticks > 10
            # Nobody else waits for it: that is the ping's task.
            loop = asyncio.get_running_loop()
            before = loop.time()
            for _ in range(20):
                with pytest.raises(SiteUnreachableError, match="has not answered"):
                    await site.poll(runs_of(1), lately())
            assert loop.time() - before < 1.0
            assert "has not answered ping" in str((await site.health()).reason)
        finally:
            await asyncio.to_thread(pool.resume, "schedd")

        async def well() -> bool:
            return (await site.health()).available

        await eventually(well, within=20.0)
        assert (await site.poll(run := runs_of(1), lately()))[run[0]].state is S.UNKNOWN


async def test_an_agent_that_dies_is_replaced(config):
    gateway = Gateway("kbase", condor_config=config.condor_config)
    async with running(config, gateway) as site:
        assert (await site.health()).available
        assert gateway.pid is not None
        os.kill(gateway.pid, signal.SIGKILL)

        async def well() -> bool:
            return (await site.health()).available

        await eventually(well, within=10.0)


async def test_an_agent_ends_with_its_service(config, tmp_path):
    """Else it could submit something that nobody knows of."""
    program = (
        "import asyncio, sys, pathlib\n"
        "from cdmtaskservice.sites.htcondor.gateway import Gateway\n"
        "async def main():\n"
        "    gateway = Gateway('x', condor_config=pathlib.Path(sys.argv[1]))\n"
        "    await gateway.call('ping', 10)\n"
        "    print(gateway.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(config.condor_config), stdout=asyncio.subprocess.PIPE
    )
    agent = 0
    async with asyncio.timeout(20):
        while not agent:  # its log comes before
            line = await process.stdout.readline()
            agent = int(line) if line.strip().isdigit() else 0
    process.kill()
    await process.wait()

    async def gone() -> bool:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{agent}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
        return True

    await eventually(gone, within=10.0)


async def test_a_run_between_queue_and_history_is_not_lost_at_once(site):
    runs = runs_of(0)
    await site.submit(requests(runs))
    await until_all(site, runs, S.ENDED)

    async def nothing(wanted):
        return {}

    site._history = type(site._history)(nothing)
    for _ in range(2):
        status = (await site.poll(runs, lately()))[runs[0]]
        assert (status.state, status.holds_up) == (S.QUEUED, True)
    # It was there, so that it may not be submitted as if it had never been.
    ended = (await until_all(site, runs, S.ENDED))[runs[0]]
    assert (ended.detail, ended.error) == (
        "it has left HTCondor's queue, and the history has no record of it",
        None,
    )


async def test_what_somebody_removes_before_it_was_its_turn_is_an_error(config, pool):
    runs = runs_of(*range(500, 520))
    async with running(replace(config, idle_at_once=1)) as site:
        [cluster] = await site.submit(requests(runs, cpus=8))
        await until_all(site, runs[:1], S.RUNNING)
        pool.tool("condor_rm", cluster)
        found = await until_all(site, runs, S.ENDED)
    assert {str(s.error).partition(":")[0] for s in found.values()} == {
        "somebody at the cluster, or a rule of it, has removed it from the queue"
    }


async def test_a_diagnosis_that_cannot_be_made_holds_up_nothing(config):
    gateway = Gateway.of(config)
    async with running(config, gateway) as site:
        runs = runs_of(1)
        await site.submit(requests(runs, cpus=4000))

        async def unmatched():
            found = await site._queue.ask({runs[0].job_id})
            return found.procs[runs[0]].waits_unmatched

        await eventually(unmatched, within=60.0)
        asked, called = gateway.call, []

        async def call(name, limit, /, **arguments):
            called.append(name)
            if name == "analyze":
                raise SiteUnreachableError("too many slots")
            return await asked(name, limit, **arguments)

        gateway.call = call
        status = (await site.poll(runs, lately()))[runs[0]]
        assert (status.state, status.detail, "analyze" in called) == (S.QUEUED, None, True)
        await site.end(runs, "the test is over")


AGENT = """\
import json, sys
for line in sys.stdin.buffer:
    request = json.loads(sys.stdin.buffer.read(int(line)))
    answer = {"value": {"schedd": "s", "cluster": 1, "procs": 1, "arguments": sys.argv[1:]}, "schedd": "s"}
    user = request["arguments"].get("description", {}).get("accounting_group_user")
    if user in ("ann", "ben"):
        answer = {"error": "SCHEDD:1:too much memory", "refused": True, "schedd": "s"}
    if user == "nobody":
        answer = {"error": 'the schedd says "DENIED"', "refused": True, "schedd": "s"}
    data = json.dumps(answer).encode()
    sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
"""


async def test_the_schedd_that_was_found_stays_the_one(config):
    gateway = Gateway("kbase", command=(sys.executable, "-c", AGENT))
    try:
        assert (await gateway.call("ping", 5.0))["arguments"] == []
        await gateway.close()
        assert (await gateway.call("ping", 5.0))["arguments"] == ["--schedd=s"]
    finally:
        await gateway.close()


async def test_a_job_that_is_refused_closes_the_site_to_nobody_else():
    config = HTCondorSiteConfig(
        SiteInfo("kbase", "htcondor", 1, 8, 8 * 10**9, 3600.0),
        WorkerSetup("http://c", "/t", "http://c/x.sh", "http://s"),
    )

    async def open_after(site, *users: str) -> bool:
        for user in users:
            [request] = requests(runs_of(0))
            with contextlib.suppress(SubmissionRefusedError):
                await site.submit([replace(request, user=user)])
        return (await site.health()).available

    async with running(config, Gateway("kbase", command=(sys.executable, "-c", AGENT))) as site:
        with pytest.raises(SubmissionRefusedError) as refusal:
            await site.submit(requests(runs_of(0)))
        assert "refuses to take it" in str(refusal.value.told)
        assert await open_after(site, "ann", "ann", "ben")
        assert not await open_after(site, "nobody")
        assert await open_after(site, "cid")  # whose job is taken
