"""A thousand tiny containers in one job on a pool. How long it takes and what memory it needs is told at the end."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdmtaskservice.embedded.pool import CondorPool
from test.system.driver import HAPPY
from test.system.pooled import LISTED, Room

CONTAINERS = 1000


@pytest.fixture
def wide(room: Room) -> Iterator[Room]:
    """A pool with more slots than there are CPUs, as jobs mostly wait. They let the service go first."""
    root, parts, registry = room.stack.root / "wide", room.stack.parts, room.stack.registry
    polite = {"JOB_RENICE_INCREMENT": "19"}
    with CondorPool(root, parts, registry, cpus=16, memory_mb=16_384, settings=polite) as pool:
        yield Room(room.stack, pool, room.s3, room.image)


def peak_memory(pid: int) -> int:
    """The most memory, in MiB, that a process has had. Source: proc(5), VmHWM."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


@pytest.mark.long
async def test_a_thousand_containers(wide: Room, home: Path, record_property: Callable[[str, object], None]):
    # Nothing is killed here, and a thousand jobs on two cores may be silent for a while.
    patient = {"KBCTS_JOBS__HEARTBEAT_INTERVAL": "15", "KBCTS_JOBS__HEARTBEAT_TIMEOUT": "600"}
    async with wide.running(home, patient) as driver:
        files = await driver.upload({f"{n:03}.txt": f"{n}".encode() for n in range(CONTAINERS)})
        begun = time.monotonic()
        job_id = await driver.submit(files, ["copy", LISTED], memory="10MB")
        job = await driver.over(job_id, within=1200)
        seconds = time.monotonic() - begun
        pid = driver.service.pid
        assert pid is not None
        record_property(f"{CONTAINERS} containers on a pool, POST to complete", f"{seconds:.0f} s")
        record_property("the service's memory at its peak meanwhile", f"{peak_memory(pid)} MiB")
        outputs = {o["file"].rpartition("/")[2]: o["crc64nvme"] for o in job["outputs"]}
        assert sorted(outputs) == sorted(f.rpartition("/")[2] for f in files)
        assert {f["file"].rpartition("/")[2]: f["crc64nvme"] for f in job["job_input"]["input_files"]} == outputs
        assert (await driver.client().get(f"/jobs/{job_id}/exit_codes")).json()["exit_codes"] == [0] * CONTAINERS
        assert [len(c) for c in (await asyncio.to_thread(wide.clusters, job_id)).values()] == [1]
        await driver.check_history(job_id, HAPPY)
