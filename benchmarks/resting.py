"""How a service starts, and what it costs when it has nothing to do."""

from __future__ import annotations

import asyncio
import http.client
import time

from benchmarks import reference
from benchmarks.figures import Effort, Figure, files_of, median
from benchmarks.processes import cpu_seconds, memory_mib
from benchmarks.proxy import CountingProxy
from benchmarks.stage import House, Stage
from cdmtaskservice.embedded.service import EmbeddedService

_SETTLING = 3.0


async def start(stage: Stage, effort: Effort) -> list[Figure]:
    """From exec to the first answer, of a service that has its indexes already."""
    service = stage.service()
    live: list[float] = []
    ready: list[float] = []
    for number in range(effort.times(5, 2) + 1):
        begun = time.perf_counter()
        service.launch()
        alive = await asyncio.to_thread(_until_ok, service, "/health/live")
        able = await asyncio.to_thread(_until_ok, service, "/health/ready")
        await asyncio.to_thread(service.stop)
        if number:  # the first start makes the database and the topic
            live.append(alive - begun)
            ready.append(able - begun)
    return [
        Figure(
            "start.live",
            "exec → /health/live answers",
            median(live),
            "s",
            reference=reference.START_SECONDS,
            note=f"{len(live)} starts",
        ),
        Figure("start.ready", "exec → /health/ready is 200", median(ready), "s"),
    ]


async def idle(stage: Stage, effort: Effort) -> list[Figure]:
    """A service without jobs, left alone."""
    seconds = effort.times(10, 4)
    async with (
        CountingProxy(stage.stack.database.port) as proxy,
        stage.house({"KBCTS_MONGO_URI": proxy.uri}) as house,
    ):
        pid = house.service.pid
        assert pid is not None
        await asyncio.sleep(_SETTLING)
        cpu, commands = cpu_seconds(pid), proxy.total
        await asyncio.sleep(seconds)
        cpu, commands = cpu_seconds(pid) - cpu, proxy.total - commands
        rss, pss = memory_mib(pid)
        per_job = await _commands_per_job(house, proxy, commands / seconds, effort)
    return [
        Figure("idle.rss", "memory when idle: RSS", rss, "MiB", reference=reference.IDLE_MIB),
        Figure("idle.pss", "memory when idle: PSS", pss, "MiB"),
        Figure("idle.cpu", "CPU when idle", 100 * cpu / seconds, "%", note="of one CPU"),
        Figure("idle.commands", "database commands when idle", commands / seconds, "/s"),
        *per_job,
    ]


async def _commands_per_job(house: House, proxy: CountingProxy, idle_rate: float, effort: Effort) -> list[Figure]:
    """How many commands a job costs until it is queued and Kafka knows of it, less those of an idle service."""
    figures = []
    for count, times in ((1, effort.times(40, 15)), (1000, effort.times(6, 2))):
        files = await house.stage.files(count)
        before, begun = proxy.total, time.perf_counter()
        job_ids = [await house.submit(house.job(files)) for _ in range(times)]
        caused = proxy.total - before - idle_rate * (time.perf_counter() - begun)
        await house.cancel(job_ids)
        what = f"database commands for a job of {files_of(count)}, until it is queued"
        figures.append(Figure(f"commands.files_{count}", what, max(0.0, caused / times), ""))
    return figures


def _until_ok(service: EmbeddedService, path: str, patience: float = 60.0) -> float:
    """When the service first answered 200 there, as a time of `perf_counter`. It is asked every 10 ms."""
    end = time.perf_counter() + patience
    last = "nothing"
    while time.perf_counter() < end:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            if reply.status == http.HTTPStatus.OK:
                return time.perf_counter()
            last = f"{reply.status} {reply.read(500)!r}"
        except OSError as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.01)
    raise TimeoutError(f"{path} was not 200 within {patience:.0f} s, but {last}; see {service.log}")
