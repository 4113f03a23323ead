"""The desk that serves executors, in a job house with a real S3 store, and what executors ask there."""

from __future__ import annotations

import datetime
from typing import Any

import httpx

from cdmtaskservice.auth.container_token import ContainerClaim, ContainerTokens
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import InputFiles
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import ContainerUpdate, UploadsRequest, WorkRequest
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.services.feeds import Feeds
from cdmtaskservice.services.jobs import Jobs
from cdmtaskservice.services.live_logs import LiveLogs
from cdmtaskservice.services.workers import WorkerConfig, Workers
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.live_logs import LiveLogStore
from test.stand_ins.clockwork import FakeClock, counting_ids
from test.stand_ins.fake_site import FakeSite
from test.stand_ins.job_house import JobHouse

S = JobState
BUCKET = "workers-test"
LOGS = "workers-logs"
EXECUTOR = Principal("exec", frozenset({"CTS_EXTERNAL_EXECUTOR"}))
FILES = ["in/a.fa", "in/sub/b.fa", "in/it's.fa".replace("'", "_"), "in/d d.fa"]
PART = 5 * 1024 * 1024


class Room(JobHouse):
    """The job house with the workers' desk."""

    def __init__(self, database: Database, s3: S3Client) -> None:
        super().__init__(database)
        self.s3 = s3
        # Presigned URLs are signed with the real time, so the service's clock starts there.
        self.clock = FakeClock(datetime.datetime.now(datetime.UTC).replace(microsecond=0))
        self.site = FakeSite(network=True)
        self.changes: list[tuple[str, bool]] = []
        self.tokens = ContainerTokens(b"k" * 32)
        self.owned = Jobs(
            self.jobs, self.containers, self.files, s3, self.clock, counting_ids("t"), lambda job_id: None, 600
        )
        self.feeds = Feeds(6, 16)
        self.live_logs = LiveLogs(self.owned, self.containers, LiveLogStore(database), self.feeds, ["here"], self.clock)
        self.workers = Workers(
            self.jobs,
            self.containers,
            self.files,
            s3,
            {"here": self.site},
            self.tokens,
            self.live_logs,
            self.clock,
            self._changed,
            WorkerConfig(
                silence_limit=30.0,
                heartbeat_interval=15.0,
                presign_expiry=600,
                token_lifetime=1000.0,
                part_size=PART,
                upload_batch=500,
                max_attempts=3,
            ),
            self.meter,
        )

    def _changed(self, job_id: str, full: bool) -> None:
        self.changes.append((job_id, full))
        if self.reconciler is not None:
            self.reconciler.hint(job_id, full=full)

    async def accept(self, job: JobInput | None = None, job_id: str = "j", **more: Any) -> str:
        """Store a job with its inputs. more: fields of its record."""
        job = job or body()
        found = await self.s3.head_many(job.files)
        ids = [f.data_id for f in job.input_files]
        await self.files.insert_inputs(
            job_id,
            InputFiles(
                job.files,
                [o.crc64nvme for o in found],
                [o.size for o in found],
                [f.removeprefix(f"{BUCKET}/in/") for f in job.files],
                ids if ids[0] else None,
            ),
        )
        await self.submitted(
            job_id,
            job.num_containers,
            input=job.preview().model_dump(mode="json", exclude_none=True),
            input_file_count=len(job.files),
            runtime=job.runtime.total_seconds(),
            logpath=f"{LOGS}/{job_id}/",
            **more,
        )
        return job_id

    async def claim(
        self, number: int = 0, claim: str = "a", attempt: int | None = 1, job_id: str = "j", run: int | None = None
    ) -> tuple[dict, ContainerClaim]:
        order = await self.workers.work(job_id, number, WorkRequest(claim=claim * 32, attempt=attempt, run=run))
        return order, self.tokens.verify(order["token"], self.clock())


def body(containers: int = 2, **kwargs) -> JobInput:
    params = {
        "input_mount_point": "/in",
        "output_mount_point": "/out",
        "args": ["run", {"type": "input_files", "input_files_format": "repeat_parameter", "flag": "--in="}],
        "environment": {"NUM": {"type": "container_number", "container_num_prefix": "n-"}, "MODE": "fast"},
    } | kwargs.pop("params", {})
    values = {
        "cluster": "here",
        "image": "localhost/a/b:1.0",
        "params": params,
        "num_containers": containers,
        "cpus": 2,
        "memory": "1GB",
        "runtime": 90,
        "input_roots": [f"{BUCKET}/in"],
        "output_dir": f"{BUCKET}/out",
        "input_files": [f"{BUCKET}/{name}" for name in FILES],
    }
    return JobInput.model_validate(values | kwargs)


async def put(request: dict, data: bytes) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        return await http.put(request["url"], content=data, headers=request["headers"])


def update(room: Room, **kwargs) -> ContainerUpdate:
    return ContainerUpdate.model_validate({"time": room.clock().isoformat()} | kwargs)


def uploads(*files: tuple[str, bytes], logs: tuple[tuple[str, bytes], ...] = ()) -> UploadsRequest:
    return UploadsRequest.model_validate(
        {
            "files": [{"path": p, "size": len(d), "crc64nvme": crc64nvme(d)} for p, d in files],
            "logs": [{"stream": s, "size": len(d), "crc64nvme": crc64nvme(d)} for s, d in logs],
        }
    )
