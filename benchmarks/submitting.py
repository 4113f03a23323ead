"""How long a submission takes, by the number of its files, and how many of them a second."""

from __future__ import annotations

import asyncio

from benchmarks import reference
from benchmarks.figures import Effort, Figure, files_of, median, percentile
from benchmarks.load import hammer, timed
from benchmarks.stage import House

_CLIENTS = 8


async def latency(house: House, effort: Effort) -> list[Figure]:
    """One submission after the other; the files are there already."""
    figures = []
    medians: dict[int, float] = {}
    counts = (1, 100, 1000, effort.most_files)
    for count, full, quick in zip(counts, (40, 30, 15, 5), (10, 6, 3, 2), strict=True):
        files = await house.stage.files(count)
        job_ids: list[str] = []

        async def submit(files: list[str] = files, job_ids: list[str] = job_ids) -> None:
            # A new body each time, since each job has an output directory of its own.
            job_ids.append(await house.submit(house.job(files)))

        if count < 1000:
            # The first one opens connections.
            await submit()
        samples = [s * 1000 for s in await timed(submit, effort.times(full, quick))]
        await house.cancel(job_ids)
        medians[count] = median(samples)
        figures += [
            Figure(
                f"submit.files_{count}.median",
                f"submit a job of {files_of(count)}: median",
                medians[count],
                "ms",
                reference=reference.SUBMIT_MS.get(count),
                note=f"{len(samples)} submissions",
            ),
            Figure(
                f"submit.files_{count}.p95", f"submit a job of {files_of(count)}: 95 %", percentile(samples, 0.95), "ms"
            ),
        ]
    per_file = (medians[counts[-1]] - medians[1]) / (counts[-1] - 1)
    figures.append(Figure("submit.per_file", "of that, each further file", per_file, "ms"))
    return figures


async def rate(house: House, effort: Effort) -> list[Figure]:
    """Small jobs by several clients at once."""
    files = await house.stage.files(1)
    job_ids: list[str] = []

    async def submit() -> None:
        job_ids.append(await house.submit(house.job(files)))

    before = house.cpu_since()
    load = await hammer([submit] * effort.times(300, 60), _CLIENTS)
    cpu = house.cpu_since(before) / len(job_ids)
    # What the site and the broker still have to be told of these jobs is not to disturb the next benchmark.
    await house.cancel(job_ids)
    await asyncio.sleep(0.5)
    return [
        Figure(
            "submit.rate",
            f"submissions of one file, {_CLIENTS} clients",
            load.rate,
            "/s",
            "more",
            reference.SUBMITS_PER_SECOND,
            note="with the looks, site and Kafka work that they cause",
        ),
        Figure("submit.cpu", "CPU time of the service for each", cpu * 1000, "ms"),
    ]
