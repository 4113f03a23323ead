"""How many reports of containers a second the service takes, by the number of the job's files."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Awaitable, Callable

from benchmarks import reference
from benchmarks.figures import Effort, Figure
from benchmarks.load import hammer
from benchmarks.stage import House
from cdmtaskservice.embedded.service import BUCKET
from cdmtaskservice.s3.model import S3Object

CONTAINERS = 1000
_CLIENTS = 16
_STATES = (
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
)


async def rate(house: House, effort: Effort) -> list[Figure]:
    """Every container of a job goes through all states, with one real output; the job must end `complete`.

    The containers report 16 at a time, each all of its states in order, as those of a site with 16 slots do.
    """
    figures = []
    rates: dict[int, float] = {}
    counts = (1000, effort.most_files)
    for files in counts:
        containers = effort.times(CONTAINERS, 100)
        output_dir = f"{BUCKET}/ann/out/reports-{files}/"
        outputs = await house.stage.put([f"{output_dir}result-{n:04}.txt" for n in range(containers)])
        job_id = await house.submit(house.job(await house.stage.files(files), containers, output_dir))
        before = house.cpu_since()
        load = await hammer([_container(house, job_id, n, o) for n, o in enumerate(outputs)], _CLIENTS)
        cpu = house.cpu_since(before) / (containers * len(_STATES))
        begun = time.perf_counter()
        status = await house.reached(job_id, "complete")
        ending = time.perf_counter() - begun
        if status["state"] != "complete":
            raise AssertionError(f"job {job_id} ended {status['state']}")
        rates[files] = containers * len(_STATES) / load.seconds
        figures += [
            Figure(
                f"reports.files_{files}.rate",
                f"container reports, job of {containers:,} containers, {files:,} files",
                rates[files],
                "/s",
                "more",
                reference.REPORTS_PER_SECOND.get(files),
                note="one in six has an output that is verified in S3",
            ),
            Figure(f"reports.files_{files}.cpu", "CPU time of the service for each, looks included", cpu * 1000, "ms"),
            Figure(
                f"reports.files_{files}.ending", f"last report → job complete, {files:,} files", ending * 1000, "ms"
            ),
        ]
    few, many = counts
    figures.append(
        Figure(
            "flat.reports",
            f"report rate at {few:,} files ÷ at {many:,}",
            rates[few] / rates[many],
            "×",
            reference=_reference_ratio(few, many),
            note="1 is flat",
        )
    )
    return figures


def _reference_ratio(few: int, many: int) -> float | None:
    known = reference.REPORTS_PER_SECOND
    return known[few] / known[many] if few in known and many in known else None


def _container(house: House, job_id: str, number: int, output: S3Object) -> Callable[[], Awaitable[None]]:
    """All reports of one container."""

    async def report() -> None:
        for state in _STATES:
            body: dict[str, object] = {"time": datetime.datetime.now(datetime.UTC).isoformat()}
            if state == "upload_submitting":
                body["exit_code"] = 0
            if state == "complete":
                body["outputs"] = [{"file": output.path, "crc64nvme": output.crc64nvme}]
            path = f"/external_exec/jobs/{job_id}/container/{number}/update/{state}"
            await house.executor.call("PUT", path, json.dumps(body).encode())

    return report
