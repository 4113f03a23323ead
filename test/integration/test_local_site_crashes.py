"""The local site under SIGKILL: processes of the service die at any step, and others go on from there."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cdmtaskservice.sites.base import Run, RunState
from cdmtaskservice.sites.local.runs import RunFiles

from .local_site_bench import Bench, all_ended, all_in, request, runs_of, until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.tidy()


async def test_another_process_takes_over_when_one_is_killed(bench: Bench) -> None:
    bench.cpus = 2
    mine, other = runs_of("mine", 3), runs_of("other", 3)
    service = bench.service(other)
    await until(lambda: len(bench.told("start")) == 2)
    async with bench.site() as site:
        await site.submit([request(r) for r in mine])
        assert await all_in(site, mine, RunState.QUEUED)
        assert await all_in(site, other[:2], RunState.RUNNING)
        service.send_signal(signal.SIGKILL)
        service.wait(10)
        # Both that it started live on, and count.
        bench.go(other[0])
        await until(lambda: bench.told("start")[2:] == ["other.2.1"])
        bench.go()
        await until(lambda: all_ended(site, [*mine, *other]))
    files = RunFiles(bench.work_dir)
    decided = {name: fate.time for name in files.names() if (fate := files.fate(name))}
    assert sorted(decided, key=decided.__getitem__)[3:] == ["mine.0.1", "mine.1.1", "mine.2.1"]
    assert len(bench.told("start")) == 6
    assert bench.most_at_once() == 2


async def test_every_process_can_submit_and_end_what_another_starts(bench: Bench) -> None:
    bench.cpus = 1
    bench.service([Run("first", 0, 1)])
    await until(lambda: bench.told("start") == ["first.0.1"])
    running, queued = runs_of("mine", 2)
    async with bench.site() as site:
        await site.submit([request(running), request(queued)])
        assert await site.end([Run("first", 0, 1)], "it was cancelled") == [Run("first", 0, 1)]
        await until(lambda: bench.told("start") == ["first.0.1", "mine.0.1"])
        assert not await site.end([queued], "it was cancelled")
        bench.go()
        await until(lambda: all_ended(site, [Run("first", 0, 1), running, queued]))
    assert bench.told("term") == ["first.0.1"]
    assert bench.told("start") == ["first.0.1", "mine.0.1"]


async def test_two_processes_and_their_kills_start_nothing_twice(bench: Bench) -> None:
    """Processes of the service come and go, by SIGKILL, while runs are started; all submit the same runs."""
    bench.cpus = 3
    runs = runs_of("job", 40)
    bench.go()
    for round_ in range(6):
        service = bench.service(runs, kill_at=150 + 97 * round_)
        second = bench.service(runs, kill_at=120 + 131 * round_)
        for process in (service, second):
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 3)
    async with bench.site() as site:
        await site.submit([request(r) for r in runs])
        await until(lambda: all_ended(site, runs), 60)
    started = bench.told("start")
    assert len(started) == len(set(started))
    assert len(started) >= len(runs) - 12
    assert bench.most_at_once() <= 3
    assert not [n for n in os.listdir(bench.work_dir / "runs") if RunFiles(bench.work_dir).alive(n)]


@pytest.mark.parametrize("ending", [False, True])
async def test_a_kill_at_any_step_loses_nothing_and_starts_nothing_twice(tmp_path: Path, ending: bool) -> None:
    """Kill the one process before each thing that it does to the disk; the next process finds a way on from there."""
    runs = runs_of("job", 2)
    more = {"end": [["job", 0], ["job", 1]]} if ending else {}

    def one(kill_at: int) -> tuple[Bench, subprocess.Popen[bytes]]:
        directory = tmp_path / str(kill_at)
        directory.mkdir()
        bench = Bench(directory, cpus=1)
        if not ending:
            bench.go()
        return bench, bench.service(runs, kill_at=kill_at, **more)

    step, outcomes, survived = 1, set(), False
    while not survived:
        for bench, service in [one(step), one(step + 1)]:
            finished = bench.control / "steps"
            try:
                await until(lambda s=service, f=finished: s.poll() is not None or f.exists())  # type: ignore[misc]
                survived |= finished.exists()
                async with bench.site() as site:
                    if not survived:
                        assert service.returncode == -signal.SIGKILL
                        await site.submit([request(r) for r in runs])
                        if ending:
                            await site.end(runs, "it was cancelled")
                    await until(lambda s=site: all_ended(s, runs))  # type: ignore[misc]
                    outcomes |= {s.detail for s in (await site.poll(runs)).values()}
                started = bench.told("start")
                assert len(started) == len(set(started))
                over = bench.told("end") + bench.told("term") + bench.told("cleanup")
                assert sorted(over) == sorted(started)
                assert bench.most_at_once() <= 1
            finally:
                bench.tidy()
        step += 2
    assert step > 40
    never = "the executor was never started, since the service was killed on the way"
    assert any((o or "").startswith(never) for o in outcomes)
