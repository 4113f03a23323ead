"""What the tests on an HTCondor pool share: services with a pool, and the pool's own view of a job."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.service import EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3.client import S3Client
from test.system.conftest import QUICK
from test.system.driver import Driver

SITE = "kbase"
LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}
QUICK_POOL = {
    **QUICK,
    # A pool's job starts a second or two after it was submitted, and many of them share two cores.
    "KBCTS_JOBS__HEARTBEAT_TIMEOUT": "20",
    "KBCTS_HTCONDOR_TIMEOUT": "5",
    "KBCTS_HTCONDOR_SUBMIT_TIMEOUT": "5",
    "KBCTS_HTCONDOR_VACATE_TIME": "15",
    "KBCTS_HTCONDOR_KEEP_TRYING": "PT5M",
}


class Room:
    """The parts that services on a pool need."""

    def __init__(self, stack: EmbeddedStack, pool: CondorPool, s3: S3Client, image: Pushed) -> None:
        self.stack = stack
        self.pool = pool
        self.s3 = s3
        self.image = image

    def service(self, home: Path, overrides: Mapping[str, str] | None = None, **more: Any) -> EmbeddedService:
        """A service with the pool as a site, not started."""
        return EmbeddedService(self.stack, home, QUICK_POOL | dict(overrides or {}), pool=self.pool, **more)

    def driver(self, service: EmbeddedService) -> Driver:
        """Drives a service, with jobs for the pool."""
        return Driver(service, self.s3, self.image, SITE)

    @asynccontextmanager
    async def running(
        self, home: Path, overrides: Mapping[str, str] | None = None, *, ready: bool = True, **more: Any
    ) -> AsyncIterator[Driver]:
        """A running service of the test's own."""
        service = self.service(home, overrides, **more)
        service.start()
        try:
            async with self.driver(service) as driver:
                if ready:
                    await driver.ready()
                yield driver
        finally:
            service.stop()

    def queue(self, job_id: str, *attributes: str) -> list[list[str]]:
        """These attributes of each of the job's procs in the queue."""
        return self._asked("condor_q", job_id, attributes)

    def history(self, job_id: str, *attributes: str) -> list[list[str]]:
        """The same of those that have left it."""
        return self._asked("condor_history", job_id, attributes)

    def clusters(self, job_id: str) -> dict[int, set[int]]:
        """The clusters of each attempt of the job, whatever became of them."""
        found: dict[int, set[int]] = {}
        for cluster, attempt in [
            *self.queue(job_id, "ClusterId", "CTSAttempt"),
            *self.history(job_id, "ClusterId", "CTSAttempt"),
        ]:
            found.setdefault(int(attempt), set()).add(int(cluster))
        return found

    @staticmethod
    def processes(job_id: str) -> list[str]:
        """The command lines of processes of the job's containers, their monitors' and clients' included."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"cts-{job_id}" in (line := entry.read_text(errors="replace").replace("\0", " ")):
                    found.append(line)
        return found

    def _asked(self, tool: str, job_id: str, attributes: tuple[str, ...]) -> list[list[str]]:
        told = self.pool.tool(tool, "-constraint", f'CTSJobID == "{job_id}"', "-af:t", *attributes)
        return [line.split("\t") for line in told.splitlines() if line.strip()]
