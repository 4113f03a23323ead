"""What the benchmarks run on: the embedded stack, and services on it whose containers never start.

So that only the service is measured, the workers of these sites are a program that sleeps: a job is accepted, queued
and looked at as any other, and the benchmark reports in its containers' place.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.load import Caller, Refused, hammer
from benchmarks.processes import CpuWatch, cpu_seconds
from cdmtaskservice.embedded.image import Pushed, push_seqtool
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.service import BUCKET, LOG_BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config, S3Object

TERMINAL = frozenset({"complete", "error", "canceled"})
_PATIENCE = 120.0
_UPLOADS = 32


class Stage:
    """The stack, its S3 store, the files of jobs, and services."""

    def __init__(self, stack: EmbeddedStack, s3: S3Client, image: Pushed) -> None:
        self.stack = stack
        self.s3 = s3
        self.image = image
        self._files: list[S3Object] = []
        self._homes = itertools.count()

    async def files(self, count: int) -> list[str]:
        """S3 paths of so many small files with checksums, which are there already where they were asked for before."""
        if missing := range(len(self._files), count):
            paths = [f"{BUCKET}/ann/in/part-{n // 1000:03}/reads-{n:05}.fastq.gz" for n in missing]
            self._files += await self.put(paths)
        return [f.path for f in self._files[:count]]

    async def put(self, paths: Sequence[str]) -> list[S3Object]:
        """Small objects at these paths."""
        made: dict[str, S3Object] = {}

        async def put(path: str) -> None:
            made[path] = await self.s3.put(path, path.encode())

        await hammer([lambda p=p: put(p) for p in paths], _UPLOADS)  # type: ignore[misc]
        return [made[p] for p in paths]

    def service(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        real_workers: bool = False,
        pool: CondorPool | None = None,
    ) -> EmbeddedService:
        """A service of its own, not started. settings: variables over the stack's."""
        home = self.stack.root / f"h{next(self._homes)}"
        sleepers = {} if real_workers else _sleepers(self.stack.root)
        return EmbeddedService(self.stack, home, {**sleepers, **(settings or {})}, pool=pool)

    def watch(self, service: EmbeddedService | None = None) -> CpuWatch:
        """Who uses the CPUs from now on."""
        parts: dict[str, int | None] = {} if service is None else {"service": service.pid}
        parts |= {"database": self.stack.database.pid, "s3": self.stack.s3_store.pid, "client": os.getpid()}
        return CpuWatch(parts)

    @asynccontextmanager
    async def house(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        real_workers: bool = False,
        pool: CondorPool | None = None,
    ) -> AsyncIterator[House]:
        """A service that runs and takes jobs."""
        service = self.service(settings, real_workers=real_workers, pool=pool)
        try:
            await asyncio.to_thread(service.start)
            async with AsyncExitStack() as callers:
                ann, admin, executor = [
                    await callers.enter_async_context(Caller(service.url, service.tokens[user]))
                    for user in ("ann", "admin", "executor")
                ]
                house = House(self, service, ann, admin, executor)
                await house.open()
                yield house
        finally:
            await asyncio.to_thread(service.stop)


class House:
    """A running service with its callers."""

    def __init__(self, stage: Stage, service: EmbeddedService, ann: Caller, admin: Caller, executor: Caller) -> None:
        self.stage = stage
        self.service = service
        self.ann = ann
        self.admin = admin
        self.executor = executor

    async def open(self) -> None:
        """Wait until the site takes jobs, and approve the image."""
        end = time.monotonic() + _PATIENCE
        while not all(site["available"] for site in (await self.ann.get("/sites"))["sites"]):
            if time.monotonic() > end:
                raise Refused("the site does not become available; its reason is in GET /sites")
            await asyncio.sleep(0.1)
        await self.admin.call("POST", f"/admin/images/{self.stage.image.by_tag}")

    def watch(self) -> CpuWatch:
        """Who uses the CPUs from now on."""
        return self.stage.watch(self.service)

    def cpu_since(self, before: float = 0.0) -> float:
        """CPU seconds of the service, less those before: unlike rates, they say much on a machine with other work."""
        return cpu_seconds(self.service.pid or 0) - before

    def job(
        self,
        files: Sequence[str],
        containers: int = 1,
        output_dir: str | None = None,
        args: Sequence[object] = ("say", "1"),
        cluster: str = "local",
    ) -> bytes:
        """The body of a job, as it is sent."""
        return json.dumps(
            {
                "cluster": cluster,
                "image": self.stage.image.by_tag,
                "params": {"args": list(args)},
                "num_containers": containers,
                "memory": "50MB",
                "runtime": 60,
                "input_files": list(files),
                "input_roots": [f"{BUCKET}/ann/in"],
                "output_dir": output_dir or f"{BUCKET}/ann/out/{uuid.uuid4().hex[:8]}",
            }
        ).encode()

    async def submit(self, body: bytes) -> str:
        """The ID of the job that this body makes."""
        reply: dict[str, str] = json.loads(await self.ann.call("POST", "/jobs", body))
        return reply["job_id"]

    async def reached(self, job_id: str, *states: str, within: float = _PATIENCE) -> Mapping[str, Any]:
        """The job's status once it is in one of these states, or over. within: seconds."""
        end = time.monotonic() + within
        while True:
            status: dict[str, Any] = await self.ann.get(f"/jobs/{job_id}/status")
            if status["state"] in states or status["state"] in TERMINAL:
                return status
            if time.monotonic() > end:
                raise Refused(f"job {job_id} is {status['state']}, not {' or '.join(states)}, after {within:.0f} s")
            await asyncio.sleep(0.01)

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel these jobs and wait until the service has nothing left to do for them."""
        await hammer([lambda j=j: self.ann.call("PUT", f"/jobs/{j}/cancel") for j in job_ids], 8)  # type: ignore[misc]
        for job_id in job_ids:
            await self.reached(job_id, "canceled")


@asynccontextmanager
async def staged(parts: Path | None = None) -> AsyncIterator[Stage]:
    """A stage in a directory of its own, which is removed at the end."""
    # Unix sockets of some parts bear no long names.
    root = Path(tempfile.mkdtemp(prefix="cts-bench-"))
    stack = EmbeddedStack(root, parts)
    try:
        await asyncio.to_thread(stack.start)
        account = stack.s3
        config = S3Config(account.url, account.access_key, SecretStr(account.secret_key))
        async with S3Client.create(config) as s3:
            for bucket in (BUCKET, LOG_BUCKET):
                await s3.create_bucket(bucket)
            image = await asyncio.to_thread(push_seqtool, stack.registry, stack.parts)
            yield Stage(stack, s3, image)
    finally:
        await asyncio.to_thread(stack.close)
        shutil.rmtree(root, ignore_errors=True)


def _sleepers(root: Path) -> dict[str, str]:
    """Settings of a site of one CPU, whose first worker sleeps for as long as the service runs."""
    runtime, python = root / "idle/podman", root / "idle/python"
    runtime.parent.mkdir(exist_ok=True)
    for program, text in ((runtime, "exit 0"), (python, "exec sleep 86400")):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return {
        "KBCTS_LOCAL_CPUS_PER_NODE": "1",
        "KBCTS_LOCAL_CONTAINER_RUNTIME_PATH": str(runtime),
        "KBCTS_LOCAL_PYTHON": str(python),
        "KBCTS_LOCAL_STOP_WITH_SERVICE": "true",
    }
