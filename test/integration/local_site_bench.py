"""A working directory of the local site, with all that a test of it needs around it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdmtaskservice.sites.base import Run, RunRequest, RunState
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.runs import RunFiles
from cdmtaskservice.sites.local.site import LocalSite

from .local_site_service import config_of

HERE = Path(__file__).parent


def request(run: Run, cpus: int = 1, memory: int = 10**6, gpus: int = 0) -> RunRequest:
    return RunRequest(run, "ann", cpus, memory, 60.0, gpus)


def runs_of(job: str, count: int) -> list[Run]:
    return [Run(job, n, 1) for n in range(count)]


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value if isinstance(value, bool) else await value:
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it has not come to that in time")


@dataclass
class Bench:
    """A working directory, the control directory of the executors there, and the processes that use them."""

    directory: Path
    cpus: int = 2
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.control.mkdir()
        (self.control / "token").write_text("TOKEN-IN-FILE\n")
        self.runtime.write_text("#!/bin/sh\nexit 0\n")
        self.runtime.chmod(0o755)

    @property
    def control(self) -> Path:
        return self.directory / "control"

    @property
    def runtime(self) -> Path:
        return self.directory / "podman"

    @property
    def work_dir(self) -> Path:
        return self.directory / "work"

    def options(self) -> dict[str, Any]:
        return {
            "work_dir": str(self.work_dir),
            "control": str(self.control),
            "runtime": str(self.runtime),
            "executor": str(HERE / "local_site_executor.py"),
            "cpus": self.cpus,
        }

    def config(self) -> LocalSiteConfig:
        return config_of(self.options())

    @asynccontextmanager
    async def site(self, on_change: Callable[[str], None] | None = None, **changes: Any) -> AsyncIterator[LocalSite]:
        site = LocalSite(replace(self.config(), **changes), on_change)
        await site.start()
        try:
            yield site
        finally:
            await site.stop()

    def service(self, submit: Sequence[Run], **more: Any) -> subprocess.Popen[bytes]:
        """Another process of the service."""
        options = {**self.options(), "submit": [[r.job_id, r.container] for r in submit], **more}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "local_site_service.py"), json.dumps(options)],
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=HERE.parents[1],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )
        self.services.append(process)
        return process

    def go(self, run: Run | None = None, code: int = 0) -> None:
        """Let executors end, one or all."""
        name = "go" if run is None else f"go.{run.job_id}.{run.container}.{run.attempt}"
        aside = self.control / f"{name}.new"
        aside.write_text(str(code))
        aside.rename(self.control / name)

    def journal(self) -> list[dict[str, Any]]:
        try:
            lines = (self.control / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def told(self, what: str) -> list[str]:
        """The runs of which the journal says `what`, in order."""
        return [e["run"] for e in self.journal() if e["what"] == what]

    def pid(self, run: Run) -> int:
        files = RunFiles(self.work_dir)
        process = files.process(f"{run.job_id}.{run.container}.{run.attempt}")
        assert process is not None
        return process.pid

    def most_at_once(self) -> int:
        now = most = 0
        for entry in self.journal():
            now += {"start": 1, "cleanup": -1}.get(entry["what"], -1)
            most = max(most, now)
        return most

    def tidy(self) -> None:
        """End what is still there: services by their process, executors by their lock."""
        for service in self.services:
            service.kill()
            service.wait(10)
        self.go()
        files = RunFiles(self.work_dir)
        if not (self.work_dir / "runs").exists():
            return
        end = time.monotonic() + 10
        for name in files.names():
            while files.alive(name) and time.monotonic() < end:
                time.sleep(0.005)


async def all_in(site: LocalSite, runs: Sequence[Run], state: RunState) -> bool:
    return all(s.state is state for s in (await site.poll(runs)).values())


async def all_ended(site: LocalSite, runs: Sequence[Run]) -> bool:
    return await all_in(site, runs, RunState.ENDED)
