"""How fast jobs are read: their states, whole jobs, and lists."""

from __future__ import annotations

from benchmarks import reference
from benchmarks.figures import Effort, Figure, median, percentile
from benchmarks.load import hammer, timed
from benchmarks.stage import House

_CLIENTS = 8
_LISTED = 1000


async def states(house: House, effort: Effort) -> list[Figure]:
    """GET /jobs/{id}/status, of a small and of a large job."""
    small, large = [await house.submit(house.job(await house.stage.files(n))) for n in (1, effort.most_files)]
    times = effort.times(3000, 600)
    before = house.cpu_since()
    load = await hammer([lambda: house.ann.call("GET", f"/jobs/{small}/status")] * times, _CLIENTS)
    cpu = house.cpu_since(before) / times
    alternating = effort.times(300, 80)
    # In turns, so that what else this machine does meets both alike.
    latencies: dict[str, list[float]] = {small: [], large: []}
    for _ in range(alternating):
        for job_id, samples in latencies.items():
            samples += await timed(lambda j=job_id: house.ann.call("GET", f"/jobs/{j}/status"), 1)  # type: ignore[misc]
    alive = await hammer([lambda: house.ann.call("GET", "/health/live")] * times, _CLIENTS)
    await house.cancel([small, large])
    return [
        Figure(
            "status.rate",
            f"GET /jobs/…/status, {_CLIENTS} clients",
            load.rate,
            "/s",
            "more",
            reference.STATUS_PER_SECOND,
        ),
        Figure("status.cpu", "CPU time of the service for each", cpu * 1000, "ms"),
        Figure("status.p95", "GET /jobs/…/status, 95 %", percentile(load.latencies, 0.95) * 1000, "ms"),
        Figure("status.alone", "GET /jobs/…/status, one client", median(latencies[small]) * 1000, "ms"),
        Figure(
            "flat.status",
            f"status of a job of {effort.most_files:,} files ÷ of one file",
            median(latencies[large]) / median(latencies[small]),
            "×",
            note="1 is flat",
        ),
        Figure(
            "live.rate",
            f"GET /health/live, {_CLIENTS} clients",
            alive.rate,
            "/s",
            "more",
            note="what HTTP and the token alone allow",
        ),
    ]


async def jobs(house: House, effort: Effort) -> list[Figure]:
    """GET /jobs/{id} of a job of 1 000 files, and GET /jobs of 1 000 jobs."""
    whole = await house.submit(house.job(await house.stage.files(1000)))
    load = await hammer([lambda: house.ann.call("GET", f"/jobs/{whole}")] * effort.times(400, 80), 4)
    await house.cancel([whole])
    missing = effort.times(_LISTED, 200) - len((await house.ann.get("/jobs"))["jobs"])
    if missing > 0:
        body = await house.stage.files(1)
        job_ids: list[str] = []

        async def submit() -> None:
            job_ids.append(await house.submit(house.job(body)))

        await hammer([submit] * missing, _CLIENTS)
        await house.cancel(job_ids)
    listed = len((await house.ann.get("/jobs"))["jobs"])
    samples = await timed(lambda: house.ann.call("GET", "/jobs"), effort.times(15, 5))
    full = listed == _LISTED
    return [
        Figure(
            "job.rate",
            "GET /jobs/… of a job of 1,000 files, 4 clients",
            load.rate,
            "/s",
            "more",
            reference.JOB_1000_PER_SECOND,
        ),
        Figure(
            "list.median",
            f"GET /jobs of {listed:,} jobs",
            median(samples) * 1000,
            "ms",
            reference=reference.LIST_1000_MS if full else None,
            note="" if full else "fewer jobs than the reference's 1,000",
        ),
    ]
