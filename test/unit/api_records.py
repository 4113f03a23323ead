"""Callers, requests and records that the fakes of the services know or hand out."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from cdmtaskservice.auth.container_token import ContainerClaim
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import ContainerRecord, ImageRecord, InputFiles, JobRecord, Reached, Transition
from cdmtaskservice.domain.refdata import RefdataRecord, StagingRecord, StagingTransition
from cdmtaskservice.domain.states import JobState, RefdataState

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.UTC)
NOW_TEXT = "2030-01-02T03:04:05.678000Z"
CRC = "S8AXmd7A3f8="
DIGEST = "sha256:" + "a" * 64

CALLERS: Mapping[str, Principal | ContainerClaim] = {
    "ann": Principal("ann", frozenset({"user"})),
    "admin": Principal("adam", frozenset({"admin"})),
    "executor": Principal("exec", frozenset({"executor"})),
    "refserv": Principal("refs", frozenset({"refserv"})),
    "container": ContainerClaim("job1", 0, 1, NOW + datetime.timedelta(hours=1)),
}

JOB_INPUT: Mapping[str, Any] = {
    "cluster": "kbase",
    "image": "ghcr.io/kbase/tool:1",
    "params": {"args": ["--in", {"type": "input_files", "input_files_format": "comma_separated_list"}]},
    "num_containers": 2,
    "memory": "2GB",
    "runtime": "PT5M",
    "output_dir": "cts-data/out",
    "input_files": [{"file": "cts-data/in/a.fa", "data_id": "a"}, {"file": "cts-data/in/b.fa", "data_id": "b"}],
}

IMAGE = ImageRecord(
    name="ghcr.io/kbase/tool",
    digest=DIGEST,
    tag="1",
    entrypoint=("tool", "run"),
    registered_by="adam",
    registered_on=NOW,
    urls=("https://example.org",),
    usage_notes="be kind",
)
BARE_IMAGE = dataclasses.replace(IMAGE, tag=None, urls=None, usage_notes=None)
REFDATA = RefdataRecord("ref1", "cts-data/ref/db.tar.gz", CRC, 1000, True, "adam", NOW)
STAGING = StagingRecord("ref1", "kbase", RefdataState.CREATED, (StagingTransition(RefdataState.CREATED, NOW),))

STATES = (
    JobState.CREATED,
    JobState.DOWNLOAD_SUBMITTED,
    JobState.JOB_SUBMITTING,
    JobState.JOB_SUBMITTED,
    JobState.UPLOAD_SUBMITTING,
    JobState.UPLOAD_SUBMITTED,
    JobState.COMPLETE,
)

WORK_ORDER: Mapping[str, Any] = {
    "job_id": "job1",
    "container_number": 0,
    "attempt": 1,
    "token": "ctsc.x.y",
    "token_expires": NOW_TEXT,
    "image": f"ghcr.io/kbase/tool@{DIGEST}",
    "args": ["--in", "/input_files/a.fa"],
    "environment": {"A": "b"},
    "input_mount_point": "/input_files",
    "output_mount_point": "/output_files",
    "refdata": None,
    "limits": {"cpus": 1, "memory": 10**9, "runtime": 60.0, "gpus": 0, "pids": 4096},
    "network": False,
    "inputs": [{"file": "cts-data/a.fa", "path": "a.fa", "url": "http://s3/a", "size": 8, "crc64nvme": CRC}],
    "manifest": {"path": ".cts/manifest-0.txt", "content": "/input_files/a.fa\n"},
    "upload": {"part_size": 67108864, "batch": 500},
    "heartbeat_interval": 15.0,
    "silence_limit": 120.0,
}
UPLOADS: Mapping[str, Any] = {
    "files": [
        {
            "path": "o.txt",
            "file": "cts-data/out/o.txt",
            "url": None,
            "headers": {},
            "upload_id": "u1",
            "parts": [{"url": "http://s3/p1", "headers": {"x-amz-checksum-crc64nvme": CRC}}],
        }
    ],
    "logs": [
        {
            "stream": "stdout",
            "file": "cts-logs/job1/stdout.txt",
            "url": "http://s3/l",
            "headers": {},
            "upload_id": None,
            "parts": None,
        }
    ],
}


def job_record(job_id: str = "job1", states: Sequence[JobState] = STATES[:2], **changes: Any) -> JobRecord:
    """A job of ann's that has been in these states, a second each from `NOW` on; `changes` are fields."""
    job_input = JobInput.model_validate(JOB_INPUT)
    return dataclasses.replace(
        JobRecord(
            id=job_id,
            user="ann",
            site="kbase",
            input=job_input.preview().model_dump(mode="json", exclude_none=True),
            image=IMAGE,
            input_file_count=2,
            containers=2,
            runtime=300.0,
            state=states[-1],
            transitions=tuple(
                Transition(s, NOW + datetime.timedelta(seconds=n), f"{job_id}-t{n}") for n, s in enumerate(states)
            ),
        ),
        **changes,
    )


def finished_job(job_id: str = "job1", **changes: Any) -> JobRecord:
    """A complete job with everything that one can have."""
    fields: dict[str, Any] = {
        "published": 5,
        "admin_meta": {"ticket": "CTS-1", "tries": 2, "cost": 0.5},
        "logpath": f"cts-logs/{job_id}/",
        "cpu_hours": 0.25,
        "cpu_factor": 0.9,
        "max_memory": 123456789,
        "output_file_count": 1,
        "cleaned": True,
        "waiting": "the site does not answer",
    }
    return job_record(job_id, STATES, **{**fields, **changes})


def input_files(count: int = 2, *, data_ids: bool = True) -> InputFiles:
    """So many input files."""
    return InputFiles(
        files=[f"cts-data/in/sample-{n}.fa" for n in range(count)],
        crc64nvmes=[CRC] * count,
        sizes=[8] * count,
        places=[f"sample-{n}.fa" for n in range(count)],
        data_ids=[f"id-{n}" for n in range(count)] if data_ids else None,
    )


def container_record(number: int = 0, **changes: Any) -> ContainerRecord:
    """A container that came to `job_submitted`."""
    at = NOW + datetime.timedelta(seconds=1)
    record = ContainerRecord(
        job_id="job1",
        number=number,
        state=JobState.JOB_SUBMITTED,
        attempt=1,
        reached={JobState.JOB_SUBMITTED: Reached(at, at), JobState.CREATED: Reached(NOW, NOW)},
    )
    return dataclasses.replace(record, **changes)
