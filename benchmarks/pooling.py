"""Jobs on a real HTCondor pool of 8 slots, beside bare HTCondor jobs on the same pool: the limit to come near."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import statistics
import time
import uuid
from pathlib import Path

from benchmarks import reference
from benchmarks.figures import Effort, Figure, median
from benchmarks.stage import House, Stage
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.sites.htcondor.gateway import Gateway

_LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}
_CALL = 60.0
_PATIENCE = 1800.0


async def pool(stage: Stage, effort: Effort) -> list[Figure]:
    """One container, 20, 100 and 1 000 at once, and as many jobs that only say when they began."""
    with CondorPool(stage.stack.root / "pool", stage.stack.parts, stage.stack.registry) as condor:
        bare = Bare(condor)
        try:
            async with stage.house(real_workers=True, pool=condor) as house:
                await _job(house, 1)  # the first one pulls the image and unpacks the executor
                return await _figures(house, bare, effort)
        finally:
            await bare.gateway.close()


async def _figures(house: House, bare: Bare, effort: Effort) -> list[Figure]:
    times = effort.times(8, 3)
    plain = [await bare.run(1) for _ in range(times)]
    jobs = [await _job(house, 1) for _ in range(times)]
    bare_start, bare_done = (median([p[i] for p in plain]) for i in (0, 1))
    start = median([j.to_start for j in jobs])
    done = median([j.seconds for j in jobs])
    gap = median([j.began_to_start for j in jobs])
    figures = [
        Figure("pool.bare.start", "bare HTCondor job: submitted → it runs", bare_start, "s"),
        Figure("pool.bare.one", "bare HTCondor job: submitted → in the history", bare_done, "s"),
        Figure("pool.start", "POST → the container runs", start, "s", note="image and code there already"),
        Figure("pool.start.over", "POST → the container runs, beyond the bare job's start", start - bare_start, "s"),
        Figure(
            "pool.overhead",
            "start of the HTCondor job → the container runs",
            gap,
            "s",
            reference=reference.POOL_JOB_START_SECONDS,
        ),
        Figure("pool.one", "POST → complete, one container", done, "s", reference=reference.POOL_JOB_SECONDS),
        Figure("pool.one.ratio", "the same ÷ bare HTCondor job", done / bare_done, "×", note="1 is the limit"),
        Figure(
            "pool.executor.cpu",
            "CPU time of the executor and the engine's clients, one container",
            median([j.executor_cpu for j in jobs]),
            "s",
        ),
        Figure(
            "pool.executor.memory",
            "the executor's memory at its peak",
            max(j.executor_mib for j in jobs),
            "MiB",
            reference=reference.EXECUTOR_MIB,
        ),
    ]
    for count in (effort.times(1, 0) and [20, 100, 1000]) or [20, 100]:
        _, bare_seconds = await bare.run(count)
        job = await _job(house, count)
        figures += [
            Figure(f"pool.bare.{count}", f"bare HTCondor jobs, {count:,} of them", bare_seconds, "s"),
            Figure(
                f"pool.{count}",
                f"POST → complete, {count:,} containers",
                job.seconds,
                "s",
                reference=reference.POOL_TWENTY_SECONDS if count == 20 else None,
            ),
            Figure(f"pool.{count}.ratio", "the same ÷ the bare jobs", job.seconds / bare_seconds, "×"),
        ]
    figures.append(Figure("pool.service.memory", "the service's memory at its peak", _peak(house.service.pid), "MiB"))
    return figures


class Bare:
    """Jobs that only HTCondor has to do with: bash says what time it is."""

    def __init__(self, condor: CondorPool) -> None:
        self._pool = condor
        self.gateway = Gateway("bare", condor_config=condor.client_config)

    async def run(self, count: int) -> tuple[float, float]:
        """Seconds from submission until the median job ran, and until all were in the history."""
        name = str(uuid.uuid4())
        description = {
            "executable": "/bin/bash",
            "transfer_executable": "false",
            "arguments": "\"-c 'date +%s.%N'\"",
            "output": f"bare-{name}-$(Process)",
            "initialdir": str(self._pool.worker_dir),
            "should_transfer_files": "YES",
            "request_memory": "71",
            "request_disk": "10000",
            "My.Bare": f'"{name}"',
        }
        begun = time.time()
        await self.gateway.call("submit", _CALL, description=description, items=[{}] * count)
        while await self.gateway.call("query", _CALL, constraint=f'Bare == "{name}"', attributes=["ProcId"]):
            if time.time() - begun > _PATIENCE:
                raise AssertionError("the bare jobs do not end")
            await asyncio.sleep(0.05)
        done = time.time() - begun
        files = list(self._pool.worker_dir.glob(f"bare-{name}-*"))
        starts = [float(file.read_text()) - begun for file in files]
        for file in files:
            file.unlink()
        return statistics.median(starts), done


class _Job:
    """A job that is over. to_start: seconds from its acceptance until its first container ran; began_to_start: from the
    start of that HTCondor job. executor_cpu: seconds; executor_mib: at its peak."""

    def __init__(
        self, seconds: float, to_start: float, began_to_start: float, executor_cpu: float, executor_mib: float
    ) -> None:
        self.seconds = seconds
        self.executor_cpu = executor_cpu
        self.to_start = to_start
        self.began_to_start = began_to_start
        self.executor_mib = executor_mib


async def _job(house: House, count: int) -> _Job:
    files = await house.stage.files(count)
    body = house.job(files, count, args=["copy", _LISTED], cluster="kbase")
    begun = time.time()
    job_id = await house.submit(body)
    status = await house.reached(job_id, "complete", within=_PATIENCE)
    seconds = time.time() - begun
    if status["state"] != "complete":
        raise AssertionError((await house.admin.get(f"/admin/jobs/{job_id}")).get("error"))
    container = await house.admin.get(f"/admin/jobs/{job_id}/container/0")
    reached = {
        t["state"]: datetime.datetime.fromisoformat(t["time"]).timestamp() for t in container["transition_times"]
    }
    logs = await asyncio.to_thread(_executor_log, house, job_id)
    over = json.loads(logs.strip().splitlines()[-1])
    began = datetime.datetime.fromisoformat(over["time"]).timestamp() - over["seconds"]
    to_start = reached["job_submitted"]
    return _Job(seconds, to_start - begun, to_start - began, over["cpu_seconds"], over["max_memory"] / 2**20)


def _executor_log(house: House, job_id: str) -> str:
    """What the first container's executor said, once HTCondor has brought it back."""
    assert house.service.pool is not None
    file: Path = house.service.pool.worker_dir / f"cts-{job_id}-0-1.log"
    end = time.monotonic() + 10
    while not (file.exists() and '"over"' in file.read_text()):
        if time.monotonic() > end:
            raise AssertionError(f"{file} does not come to its end")
        time.sleep(0.05)
    return file.read_text()


def _peak(pid: int | None) -> float:
    """The most memory that a process has had, in MiB. Source: proc(5), VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1024
