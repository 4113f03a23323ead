"""What the executor and the local site add to a scientist's program: real workers, real containers."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.figures import Effort, Figure, median
from benchmarks.stage import House, Stage

_SETTINGS = {"KBCTS_LOCAL_STOP_WITH_SERVICE": "true"}


async def executor(stage: Stage, effort: Effort) -> list[Figure]:
    """How long the executor takes to be there, and a container from its claim on."""
    starts = [await asyncio.to_thread(_start_seconds) for _ in range(effort.times(10, 3))]
    async with stage.house(_SETTINGS, real_workers=True) as house:
        jobs = [await _run(house, n) for n in range(effort.times(6, 2) + 1)][1:]  # the first one pulls the image
    claim_to_run = [_between(c, "download_submitted", "job_submitted") for _, c in jobs]
    rest = [_between(c, "job_submitted", "complete") for _, c in jobs]
    return [
        Figure("executor.start", "start of the executor, with its imports", median(starts) * 1000, "ms"),
        Figure(
            "executor.claim_to_run",
            "claim → the container runs",
            median(claim_to_run) * 1000,
            "ms",
            note="one input downloaded and verified, the image there already",
        ),
        Figure("executor.run_to_complete", "the container runs → its last report", median(rest) * 1000, "ms"),
        Figure(
            "executor.job",
            "a job that does next to nothing: submitted → complete",
            median([seconds for seconds, _ in jobs]),
            "s",
        ),
    ]


def _start_seconds() -> float:
    # What the executor imports when it runs a container, and not only to read its arguments.
    modules = "cdmtaskservice.executor.__main__, cdmtaskservice.executor.run, cdmtaskservice.executor.checksum"
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, timeout=60, env=dict(os.environ))
    return time.perf_counter() - begun


async def _run(house: House, number: int) -> tuple[float, dict[str, datetime.datetime]]:
    """Seconds of a job with one container, and when its container came to each state, by the worker's clock."""
    files = await house.stage.files(1)
    begun = time.perf_counter()
    job_id = await house.submit(house.job(files, args=["write", f"result-{number}.txt", "100"]))
    status = await house.reached(job_id, "complete")
    seconds = time.perf_counter() - begun
    if status["state"] != "complete":
        raise AssertionError((await house.admin.get(f"/admin/jobs/{job_id}")).get("error"))
    container: dict[str, Any] = await house.admin.get(f"/admin/jobs/{job_id}/container/0")
    reached = {t["state"]: datetime.datetime.fromisoformat(t["time"]) for t in container["transition_times"]}
    return seconds, reached


def _between(reached: dict[str, datetime.datetime], one: str, other: str) -> float:
    return (reached[other] - reached[one]).total_seconds()
