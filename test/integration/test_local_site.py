"""The local site with real processes, and a stand-in for the executor that does as it is told."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from cdmtaskservice.sites.base import Run, RunState, SiteUnreachableError
from cdmtaskservice.sites.local.runs import RunFiles

from .local_site_bench import Bench, all_ended, all_in, request, runs_of, until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.tidy()


async def test_a_run_is_queued_runs_and_ends(bench: Bench) -> None:
    bench.cpus = 1
    first, second = runs = runs_of("job", 2)
    changed: list[str] = []
    async with bench.site(changed.append) as site:
        assert await all_in(site, runs, RunState.UNKNOWN)
        await site.submit([request(r) for r in runs])
        await until(lambda: bench.told("start") == ["job.0.1"])
        states = await site.poll(runs)
        assert [states[r].state for r in runs] == [RunState.RUNNING, RunState.QUEUED]
        assert not changed
        bench.go(first)
        await until(lambda: bench.told("start") == ["job.0.1", "job.1.1"])
        assert (await site.poll([first]))[first].state is RunState.ENDED
        bench.go(second, 2)
        await until(lambda: all_ended(site, runs))
        states = await site.poll(runs)
        assert states[first].detail == "the executor exited with 0"
        assert states[second].detail == "the executor exited with 2; it said last: exiting with 2"
        assert changed == ["job", "job"]
        assert bench.told("cleanup") == []


async def test_the_executor_is_told_what_it_needs_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBCTS_S3_SECRET", "hush")
    run = Run("job", 3, 2)
    bench.go()
    async with bench.site(refdata_dir=bench.directory / "refdata") as site:
        await site.submit([request(run)])
        await until(lambda: all_ended(site, [run]))
    environment = json.loads((bench.control / "environment.job.3.2").read_text())
    allowed = {"PATH", "HOME", "LANG", "LC_CTYPE", "XDG_RUNTIME_DIR", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"}
    assert environment.keys() - allowed == {"CTS_TEST_CONTROL"}
    arguments = json.loads((bench.control / "arguments.job.3.2").read_text())[1:]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options == {
        "--url": "http://127.0.0.1:1",
        "--token-file": str(bench.control / "token"),
        "--job": "job",
        "--container": "3",
        "--attempt": "2",
        "--work-dir": str(bench.work_dir / "runs" / "job.3.2" / "work"),
        "--runtime": "auto",
        "--keep-trying": "86400",
        "--stop-grace": "0.3",
        "--refdata-dir": str(bench.directory / "refdata"),
        "--runtime-path": str(bench.runtime),
    }


async def test_only_the_executor_holds_the_lock(bench: Bench) -> None:
    run = Run("job", 0, 1)
    async with bench.site() as site:
        await site.submit([request(run)])
        await until(lambda: bench.told("start") == ["job.0.1"])
        lock = os.stat(bench.work_dir / "runs" / "job.0.1" / "alive").st_ino
        holders = []
        for pid in (os.getpid(), bench.pid(run)):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if fd.stat().st_ino == lock:
                        flags = int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split()[3], 8)
                        holders.append((pid, bool(flags & os.O_CLOEXEC)))
        assert holders == [(bench.pid(run), True)]


async def test_never_more_than_the_cpus_and_first_come_first_served(bench: Bench) -> None:
    bench.cpus = 4
    small, large, last = runs_of("a", 3), Run("b", 0, 1), runs_of("c", 2)
    async with bench.site() as site:
        await site.submit([request(r) for r in small])
        await site.submit([request(large, cpus=3)])
        await site.submit([request(r) for r in last])
        await until(lambda: len(bench.told("start")) == 3)
        bench.go(small[0])
        await until(lambda: all_ended(site, small[:1]))
        # Two CPUs are free: not enough for the head of the queue, and nobody passes it.
        assert await all_in(site, [large, *last], RunState.QUEUED)
        bench.go(small[1])
        await until(lambda: bench.told("start")[3:] == ["b.0.1"])
        assert await all_in(site, last, RunState.QUEUED)
        bench.go(small[2])
        await until(lambda: bench.told("start")[3:] == ["b.0.1", "c.0.1"])
        bench.go()
        await until(lambda: all_ended(site, [*small, large, *last]))
        assert bench.told("start")[3:] == ["b.0.1", "c.0.1", "c.1.1"]


async def test_memory_and_gpus_are_bounded_too(bench: Bench) -> None:
    bench.cpus = 8
    info = replace(bench.config().info, gpus_per_node=1)
    memory, gpu = runs_of("memory", 2), runs_of("gpu", 2)
    async with bench.site(memory=10**9, info=info) as site:
        await site.submit([request(r, memory=6 * 10**8) for r in memory])
        await until(lambda: bench.told("start") == ["memory.0.1"])
        await site.submit([request(r, gpus=1) for r in gpu])
        bench.go(memory[0])
        await until(lambda: set(bench.told("start")[1:]) == {"memory.1.1", "gpu.0.1"})
        assert await all_in(site, gpu[1:], RunState.QUEUED)
        bench.go()
        await until(lambda: all_ended(site, [*memory, *gpu]))


async def test_what_can_never_fit_does_not_block_the_queue(bench: Bench) -> None:
    large, small = Run("large", 0, 1), Run("small", 0, 1)
    bench.go()
    changed: list[str] = []
    async with bench.site(changed.append) as site:
        await site.submit([request(large, cpus=3), request(small)])
        await until(lambda: all_ended(site, [large, small]))
        assert (await site.poll([large]))[large].detail == "the container needs 3 CPUs, and site here has 2"
        assert bench.told("start") == ["small.0.1"]
        assert changed == ["large", "small"]


async def test_a_repeated_submit_starts_nothing_twice(bench: Bench) -> None:
    run = Run("job", 0, 1)
    bench.go()
    async with bench.site() as site:
        for _ in range(3):
            await site.submit([request(run), request(run)])
            await until(lambda: all_ended(site, [run]))
            await site.submit([request(run)])
    assert bench.told("start") == ["job.0.1"]


async def test_a_queued_run_that_is_ended_never_starts(bench: Bench) -> None:
    bench.cpus = 1
    runs = runs_of("job", 3)
    second = runs[1]
    async with bench.site() as site:
        await site.submit([request(r) for r in runs])
        await until(lambda: bench.told("start") == ["job.0.1"])
        assert not await site.end([second], "it was cancelled")
        assert (await site.poll([second]))[second].state is RunState.ENDED
        assert (await site.poll([second]))[second].detail == "it was cancelled"
        bench.go()
        await until(lambda: all_ended(site, runs))
        assert bench.told("start") == ["job.0.1", "job.2.1"]
        # What the engine does not know is over.
        assert not await site.end([Run("other", 0, 1)], "why not")


async def test_ending_a_running_executor_is_asked_for_first(bench: Bench) -> None:
    run = Run("job", 0, 1)
    async with bench.site(grace=60.0) as site:
        await site.submit([request(run)])
        await until(lambda: bench.told("start") == ["job.0.1"])
        assert await site.end([run], "it was cancelled") == [run]
        await until(lambda: bench.told("term") == ["job.0.1"])

        async def over() -> bool:
            return not await site.end([run], "it was cancelled")

        await until(over)
        detail = (await site.poll([run]))[run].detail
        assert detail == "the executor exited with 0 after it was told to end: it was cancelled"
        assert bench.told("cleanup") == []


async def test_an_executor_that_does_not_end_is_killed_and_cleaned_up_after(bench: Bench) -> None:
    run = Run("job", 0, 1)
    (bench.control / "deaf").touch()
    async with bench.site(grace=0.2) as site:
        await site.submit([request(run)])
        await until(lambda: bench.told("start") == ["job.0.1"])
        await site.end([run], "it was cancelled")
        await until(lambda: all_ended(site, [run]))
        assert bench.told("cleanup") == ["job.0.1"]
        detail = (await site.poll([run]))[run].detail
        assert detail == "the executor was killed by signal 9 after it was told to end: it was cancelled"


async def test_a_killed_executor_has_not_ended_before_its_container_is_gone(bench: Bench) -> None:
    bench.cpus = 1
    first, second = runs_of("job", 2)
    (bench.control / "stuck").touch()
    async with bench.site() as site:
        await site.submit([request(first), request(second)])
        await until(lambda: bench.told("start") == ["job.0.1"])
        os.kill(bench.pid(first), signal.SIGKILL)

        async def said() -> bool:
            status = (await site.poll([first]))[first]
            assert status.state is RunState.RUNNING
            return "the container engine does not answer" in (status.detail or "")

        await until(said)
        assert await site.end([first], "why not") == [first]
        # Its container may still use the CPU.
        assert await all_in(site, [second], RunState.QUEUED)
        (bench.control / "stuck").unlink()
        await until(lambda: all_ended(site, [first]))
        assert bench.told("cleanup") == ["job.0.1"]
        await until(lambda: bench.told("start") == ["job.0.1", "job.1.1"])


async def test_executors_outlive_the_service_and_are_found_again(bench: Bench) -> None:
    running, queued = runs_of("job", 2)[:1], runs_of("job", 4)[1:]
    bench.cpus = 2
    async with bench.site() as site:
        await site.submit([request(running[0])])
        await until(lambda: len(bench.told("start")) == 1)
        pid = bench.pid(running[0])
    changed: list[str] = []
    async with bench.site(changed.append) as site:
        await site.submit([request(r) for r in queued])
        await until(lambda: len(bench.told("start")) == 2)
        assert await all_in(site, running, RunState.RUNNING)
        assert await all_in(site, queued[1:], RunState.QUEUED)
        assert bench.pid(running[0]) == pid
        bench.go(running[0], 3)
        await until(lambda: changed == ["job"])
        assert "exited with 3" in str((await site.poll(running))[running[0]].detail)
        bench.go()
        await until(lambda: all_ended(site, queued))
    assert bench.most_at_once() == 2


async def test_an_adopted_executor_can_be_ended(bench: Bench) -> None:
    asked, deaf = runs = runs_of("job", 2)
    async with bench.site() as site:
        await site.submit([request(r) for r in runs])
        await until(lambda: len(bench.told("start")) == 2)
    async with bench.site(grace=0.2) as site:
        await site.end([asked], "it was cancelled")
        await until(lambda: all_ended(site, [asked]))
        (bench.control / "deaf").touch()
        await site.end([deaf], "it was cancelled")
        await until(lambda: all_ended(site, [deaf]))
        assert bench.told("term") == ["job.0.1"]
        assert bench.told("cleanup") == ["job.1.1"]


async def test_stop_with_service(bench: Bench) -> None:
    running, queued = runs_of("job", 3)[:2], runs_of("job", 3)[2:]
    async with bench.site(stop_with_service=True) as site:
        await site.submit([request(r) for r in [*running, *queued]])
        await until(lambda: len(bench.told("start")) == 2)
    assert sorted(bench.told("term")) == ["job.0.1", "job.1.1"]
    assert len(bench.told("start")) == 2
    async with bench.site() as site:
        assert await all_in(site, running, RunState.ENDED)
        await until(lambda: all_in(site, queued, RunState.RUNNING))


async def test_release_and_clean(bench: Bench) -> None:
    bench.cpus = 3
    good, bad, running, other = [*runs_of("job", 3), Run("job.x", 0, 1)]
    async with bench.site() as site:
        await site.submit([request(r) for r in (good, bad, running, other)])
        await until(lambda: len(bench.told("start")) == 3)
        bench.go(good)
        bench.go(bad, 7)
        await until(lambda: all_ended(site, [good, bad]))
        await site.release("job")
        await until(lambda: all_in(site, [good, bad], RunState.UNKNOWN))
        # What runs is ended, and goes when it is over.
        await until(lambda: all_in(site, [running], RunState.UNKNOWN))
        assert bench.told("term") == ["job.2.1"]
        assert os.listdir(bench.work_dir / "runs") == ["job.x.0.1"]
        await until(lambda: not os.listdir(bench.work_dir / "tmp"))
        status = await site.runner_status(bad)
        assert status["state"] == "released"
        assert "exiting with 7" in status["log"]  # type: ignore[operator]
        assert await site.runner_status(good) == {}
        await site.clean("job")
        assert await site.runner_status(bad) == {}
        assert await all_in(site, [other], RunState.RUNNING)
        await site.clean("job")


async def test_runner_status_tells_no_secret(bench: Bench) -> None:
    run = Run("job", 0, 1)
    bench.go(code=2)
    async with bench.site() as site:
        await site.submit([request(run)])
        await until(lambda: all_ended(site, [run]))
        status = dict(await site.runner_status(run))
    assert isinstance(status.pop("pid"), int)
    for key in ("submitted_at", "started_at", "ended_at"):
        assert str(status.pop(key)).endswith("+00:00")
    assert status == {
        "state": "ended",
        "detail": "the executor exited with 2; it said last: exiting with 2",
        "user": "ann",
        "cpus": 1,
        "memory": 10**6,
        "gpus": 0,
        "exit_code": 2,
        "log": ["Authorization: Bearer … the token is …", "exiting with 2", '{"event": "over"}'],
    }


async def test_health_says_what_is_wrong_and_nothing_starts_meanwhile(bench: Bench) -> None:
    run = Run("job", 0, 1)
    bench.go()
    bench.runtime.write_text("#!/bin/sh\necho no storage; exit 1\n")
    async with bench.site(health_interval=0.02) as site:
        health = await site.health()
        assert not health.available
        assert health.reason == f"{bench.runtime.name} does not work on the service's machine"
        await site.submit([request(run)])

        async def says(text: str) -> bool:
            status = (await site.poll([run]))[run]
            assert status.state is RunState.QUEUED
            return text in (status.detail or "")

        await until(lambda: says("does not work"))
        bench.runtime.write_text("#!/bin/sh\nexit 0\n")
        (bench.control / "token").write_text("")
        await until(lambda: says("the executor's token file is empty"))
        (bench.control / "token").unlink()
        await until(lambda: says("cannot be read"))
        assert bench.told("start") == []
        (bench.control / "token").write_text("abc")
        await until(lambda: all_ended(site, [run]))
        assert (await site.health()).available


async def test_a_full_disk_and_a_runtime_that_is_not_there(bench: Bench) -> None:
    async with bench.site(min_free_disk=1 << 60) as site:
        assert "bytes free" in str((await site.health()).reason)
    async with bench.site(container_runtime_path=bench.directory / "podman-x") as site:
        assert "cannot be started: No such file" in str((await site.health()).reason)
    async with bench.site(container_runtime_path=bench.directory / "x") as site:
        assert "does not say which container runtime" in str((await site.health()).reason)


async def test_an_interpreter_that_is_not_there_costs_no_attempt(bench: Bench) -> None:
    run = Run("job", 0, 1)
    bench.go()
    python = bench.directory / "python"
    async with bench.site(python=str(python)) as site:
        await site.submit([request(run)])

        async def unhealthy() -> bool:
            return "no executor can be started" in str((await site.health()).reason)

        await until(unhealthy)
        assert await all_in(site, [run], RunState.QUEUED)
        python.symlink_to(sys.executable)
        (bench.directory / "pyvenv.cfg").write_text(
            (Path(sys.prefix) / "pyvenv.cfg").read_text() if sys.prefix != sys.base_prefix else ""
        )
        await until(lambda: all_ended(site, [run]))
        assert (await site.health()).available
    assert bench.told("start") == ["job.0.1"]


async def test_the_real_executor_says_why_it_gave_up(bench: Bench) -> None:
    run = Run("job", 0, 1)
    async with bench.site(executor=("-m", "cdmtaskservice.executor"), keep_trying=0.0) as site:
        await site.submit([request(run)])
        await until(lambda: all_ended(site, [run]))
        detail = (await site.poll([run]))[run].detail
        assert "exited with 75; it said last: the service did not answer /work" in str(detail)
        assert not (bench.work_dir / "runs" / "job.0.1" / "work").exists()


async def test_the_real_cleanup_follows_a_killed_executor(bench: Bench) -> None:
    run = Run("job", 0, 1)
    work = bench.work_dir / "runs" / "job.0.1" / "work"
    async with bench.site(executor=("-m", "cdmtaskservice.executor")) as site:
        await site.submit([request(run)])
        await until(lambda: (work / "aside").exists())
        os.kill(bench.pid(run), signal.SIGKILL)
        await until(lambda: all_ended(site, [run]))
        assert not work.exists()


async def test_a_directory_that_is_away_says_nothing_of_any_run(bench: Bench) -> None:
    run = Run("job", 0, 1)
    async with bench.site() as site:
        await site.submit([request(run)])
        await until(lambda: bench.told("start") == ["job.0.1"])
        (bench.work_dir / "runs").rename(bench.work_dir / "away")
        with pytest.raises(SiteUnreachableError):
            await site.poll([run])
        with pytest.raises(SiteUnreachableError):
            await site.end([run], "why not")
        with pytest.raises(SiteUnreachableError):
            await site.submit([request(Run("other", 0, 1))])
        (bench.work_dir / "away").rename(bench.work_dir / "runs")
        bench.go()
        await until(lambda: all_ended(site, [run]))


async def test_polling_a_thousand_runs_is_cheap(bench: Bench) -> None:
    runs = runs_of("job", 1000)
    bench.cpus = 1
    async with bench.site() as site:
        await site.submit([request(r) for r in runs])
        await until(lambda: bench.told("start") == ["job.0.1"])
        best = 9.0
        for _ in range(5):
            begin = time.perf_counter()
            states = await site.poll(runs)
            best = min(best, time.perf_counter() - begin)
        assert sum(s.state is RunState.QUEUED for s in states.values()) == 999
        # Measured 15 ms; the bound leaves room for a busy machine.
        assert best < 0.15
        assert not await site.end(runs[1:], "it was cancelled")


async def test_a_free_cpu_does_not_wait(bench: Bench) -> None:
    """From submit to a process, and from one's end to the next one's start: no second's sweep is in between."""
    bench.cpus = 1
    first, second = runs_of("job", 2)
    async with bench.site() as site:
        await site.health()
        before = time.time()
        await site.submit([request(first), request(second)])
        await until(lambda: len(bench.told("start")) == 1)
        files = RunFiles(bench.work_dir)
        fate = files.fate("job.0.1")
        assert fate is not None
        assert fate.time - before < 0.3
        bench.go(first)
        await until(lambda: len(bench.told("start")) == 2)
        fate = files.fate("job.1.1")
        assert fate is not None
        ended = next(e["time"] for e in bench.journal() if e["what"] == "end")
        assert fate.time - ended < 0.3
