"""What a reply costs, so that nobody makes it dearer by an order of magnitude without noticing.

CPU time of this process, the best of several runs; the limits are what the service promises.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from structlog.testing import capture_logs

from test.unit.api_fakes import Client, FakeServices, finished_job, input_files


async def _best(request: Callable[[], Awaitable[object]], repeat: int = 7) -> float:
    """CPU seconds of the cheapest of some runs."""
    costs = []
    with capture_logs():
        for _ in range(repeat):
            begun = time.process_time()
            await request()
            costs.append(time.process_time() - begun)
    return min(costs)


async def test_job_of_a_thousand_files() -> None:
    services = FakeServices()
    services.jobs.inputs = input_files(1000)
    client = Client(services)
    assert await _best(lambda: client.get("/jobs/job1", "ann")) < 1 / 300


async def test_list_of_a_thousand_jobs() -> None:
    services = FakeServices()
    services.jobs.listed = [finished_job(f"job{n}") for n in range(1000)]
    client = Client(services)
    assert await _best(lambda: client.get("/jobs", "ann")) < 0.040
