"""A job of a thousand containers and ten thousand files, put into the database as if it had run."""

from __future__ import annotations

import datetime
import uuid

from cdmtaskservice.domain.records import ImageRecord, InputFiles, JobRecord, OutputFiles, Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.service import BUCKET, LOG_BUCKET, EmbeddedService
from cdmtaskservice.store.codec import to_millis
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

CONTAINERS = 1000
FILES = 10_000
CRC = "S8AXmd7A3f8="

_S = JobState
_WAY = (_S.CREATED, _S.DOWNLOAD_SUBMITTED, _S.JOB_SUBMITTING, _S.JOB_SUBMITTED)
_END = (_S.ERROR_PROCESSING_SUBMITTING, _S.ERROR_PROCESSING_SUBMITTED, _S.ERROR)


async def insert_big_job(
    service: EmbeddedService, image: Pushed, *, over: bool = True, site: str = "local", name: str = "A thousand genomes"
) -> str:
    """Insert it, as a job of ann's; returns its ID. over: it has ended in error; else most containers still run."""
    database = Database.connect(service.stack.mongo_uri, f"cts-{service.home.parent.name}", 10)
    try:
        return await _insert(database, image, over, site, name)
    finally:
        database.close()


async def _insert(database: Database, image: Pushed, over: bool, site: str, name: str) -> str:
    job_id = str(uuid.uuid4())
    begun = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=3)
    at = [begun + datetime.timedelta(minutes=9 * n) for n in range(7)]
    way = _WAY + _END if over else _WAY
    files = [f"{BUCKET}/ann/genomes/sample-{n:05}.fasta" for n in range(FILES)]
    inputs = InputFiles(
        files, [CRC] * FILES, [1_000_000 + n for n in range(FILES)], [f.rpartition("/")[2] for f in files]
    )
    job = JobRecord(
        id=job_id,
        user="ann",
        site=site,
        input={
            "cluster": site,
            "image": image.by_tag,
            "params": {
                "input_mount_point": "/input_files",
                "output_mount_point": "/output_files",
                "declobber": True,
                "args": ["stats", {"type": "input_files", "input_files_format": "space_separated_list"}],
            },
            "num_containers": CONTAINERS,
            "cpus": 2,
            "memory": 2_000_000_000,
            "runtime": "PT1H",
            "output_dir": f"{BUCKET}/ann/genomes-out/",
            "name": name,
            "tags": ["genomes", "paper-2"],
        },
        image=ImageRecord(image.name, image.digest, ("/usr/local/bin/tool",), "admin", begun, tag=image.tag),
        input_file_count=FILES,
        containers=CONTAINERS,
        runtime=3600.0,
        state=way[-1],
        transitions=tuple(Transition(s, t, str(uuid.uuid4())) for s, t in zip(way, at, strict=False)),
        logpath=f"{LOG_BUCKET}/containers/{job_id}/",
    )
    store = FileStore(database)
    await store.insert_inputs(job_id, inputs)
    outputs = [f"{BUCKET}/ann/genomes-out/{n // 10}/part-{n % 10}.tsv" for n in range(FILES)]
    if over:
        await store.put_outputs(job_id, OutputFiles(outputs, [CRC] * FILES))
    await database.db.containers.insert_many([_container(job_id, n, at, over) for n in range(CONTAINERS)])
    jobs = JobStore(database)
    await jobs.insert(job)
    fields = {"owed": 0, "published": len(way), "next_look": None}
    if over:
        fields |= {"cpu_hours": 1234.5, "cpu_factor": 0.81, "max_memory": 1_730_000_000, "output_file_count": FILES}
        fields["error"] = (
            "12 of 1000 containers failed:\ncontainer 83: its program exited with the code 1; see its logs"
        )
    await jobs.set_fields(job_id, fields)
    return job_id


def _container(job_id: str, number: int, at: list[datetime.datetime], over: bool) -> dict[str, object]:
    failed = number % 83 == 0 and number > 0
    if over:
        state = _S.ERROR if failed else _S.COMPLETE
    else:
        state = [_S.COMPLETE, _S.JOB_SUBMITTED, _S.UPLOAD_SUBMITTING, _S.DOWNLOAD_SUBMITTED, _S.CREATED][
            0 if number < 420 else 1 if number < 700 else 2 if number < 730 else 3 if number < 800 else 4
        ]
        if failed and number < 420:
            state = _S.ERROR
    reached = {"created": {"time": to_millis(at[0]), "at": to_millis(at[0])}}
    if state is not _S.CREATED:
        reached[state.value] = {"time": to_millis(at[3]), "at": to_millis(at[3])}
    document: dict[str, object] = {
        "_id": f"{job_id}:{number}",
        "job": job_id,
        "n": number,
        "state": state.value,
        "attempt": 1,
        "reached": reached,
    }
    if state.is_terminal:
        document |= {"exit_code": 1 if failed else 0, "cpu_seconds": 3000.5, "wall_seconds": 1900.0}
        document["max_memory"] = 1_000_000_000 + number
    if state is _S.ERROR:
        document["error"] = f"its program exited with the code 1 after 1900 s; see its logs (input {number})"
    return document
