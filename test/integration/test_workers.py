"""The calls of executors, on a real database and a real S3 store."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid

import httpx
import pytest
from pydantic import SecretStr

from cdmtaskservice.auth.container_token import ContainerClaim, ContainerTokens
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    IllegalParameterError,
    IllegalS3PathError,
    InvalidJobStateError,
    NoSuchJobError,
    NoSuchSubJobError,
    UnauthorizedError,
)
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import InputFiles, Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import (
    ContainerUpdate,
    Heartbeat,
    InputsRequest,
    UploadsComplete,
    UploadsRequest,
    WorkRequest,
)
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.services.workers import WorkerConfig, Workers
from cdmtaskservice.sites.base import Run
from cdmtaskservice.store.database import Database
from test.stand_ins.clockwork import FakeClock
from test.stand_ins.fake_site import FakeSite
from test.stand_ins.job_house import IMAGE, JobHouse

S = JobState
BUCKET = "workers-test"
LOGS = "workers-logs"
EXECUTOR = Principal("exec", frozenset({"CTS_EXTERNAL_EXECUTOR"}))
FILES = ["in/a.fa", "in/sub/b.fa", "in/it's.fa".replace("'", "_"), "in/d d.fa"]
PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
async def s3(stack):
    account = stack.s3
    async with S3Client.create(S3Config(account.url, account.access_key, SecretStr(account.secret_key))) as client:
        for bucket in (BUCKET, LOGS):
            await client.create_bucket(bucket)
        for name in FILES:
            await client.put(f"{BUCKET}/{name}", name.encode())
        yield client


@pytest.fixture
async def room(stack, s3):
    database = Database.connect(stack.mongo_uri, f"test-{uuid.uuid4().hex}", 5)
    await database.create_indexes()
    yield Room(database, s3)
    database.close()


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
        self.workers = Workers(
            self.jobs,
            self.containers,
            self.files,
            s3,
            {"here": self.site},
            self.tokens,
            self.clock,
            self._changed,
            WorkerConfig(
                heartbeat_interval=15.0,
                presign_expiry=600,
                token_lifetime=1000.0,
                part_size=PART,
                upload_batch=500,
                max_attempts=3,
            ),
        )

    def _changed(self, job_id: str, full: bool) -> None:
        self.changes.append((job_id, full))
        if self.reconciler is not None:
            self.reconciler.hint(job_id, full=full)

    async def accept(self, job: JobInput | None = None, job_id: str = "j") -> str:
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
        )
        return job_id

    async def claim(
        self, number: int = 0, claim: str = "a", attempt: int | None = 1, job_id: str = "j"
    ) -> tuple[dict, ContainerClaim]:
        order = await self.workers.work(job_id, number, WorkRequest(claim=claim * 32, attempt=attempt))
        return order, self.tokens.verify(order["token"], self.clock())

    async def cancel(self, job_id: str = "j") -> None:
        await self.jobs.transition(job_id, Transition(S.CANCELING, self.clock(), f"c-{job_id}"))


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


# Work orders


async def test_a_work_order_has_all_that_an_executor_needs(room):
    await room.accept()
    order, claim = await room.claim(1)
    token, expires = order.pop("token"), order.pop("token_expires")
    urls = [i.pop("url") for i in order["inputs"]]
    assert order == {
        "job_id": "j",
        "container_number": 1,
        "attempt": 1,
        "image": f"{IMAGE.name}@{IMAGE.digest}",
        "args": ["run", "--in=/in/it_s.fa", "--in=/in/d d.fa"],
        "environment": {"NUM": "n-1", "MODE": "fast"},
        "input_mount_point": "/in",
        "output_mount_point": "/out",
        "refdata": None,
        "limits": {"cpus": 2, "memory": 1_000_000_000, "runtime": 90.0, "gpus": 0, "pids": 4096},
        "network": True,
        "inputs": [
            {
                "file": f"{BUCKET}/{name}",
                "path": name.removeprefix("in/"),
                "size": len(name),
                "crc64nvme": crc64nvme(name.encode()),
            }
            for name in FILES[2:]
        ],
        "manifest": None,
        "upload": {"part_size": PART, "batch": 500},
        "heartbeat_interval": 15.0,
    }
    json.dumps(order)
    assert (claim.job_id, claim.container_number, claim.attempt) == ("j", 1, 1)
    assert claim.expires == room.clock() + datetime.timedelta(seconds=90 + 1000)
    assert expires == claim.expires.isoformat().replace("+00:00", "Z")
    assert token not in json.dumps(urls)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        for name, url in zip(FILES[2:], urls, strict=True):
            assert (await http.get(url)).content == name.encode()


async def test_a_manifest_comes_with_the_order(room):
    files = [{"file": f"{BUCKET}/{name}", "data_id": f"id {i}"} for i, name in enumerate(FILES)]
    manifest = {"type": "manifest_file", "manifest_file_format": "data_ids", "manifest_file_header": "#ids"}
    await room.accept(body(input_files=files, params={"args": [manifest]}))
    order, _ = await room.claim(0)
    assert order["manifest"] == {"path": ".cts/manifest-0.txt", "content": "#ids\nid 0\nid 1\n"}
    assert order["args"] == ["/in/.cts/manifest-0.txt"]


async def test_a_repeated_claim_gets_the_same_order(room):
    await room.accept()
    first, _ = await room.claim()
    again, _ = await room.claim()
    without, _ = await room.claim(attempt=None)
    for order in (first, again, without):
        for i in order["inputs"]:
            del i["url"]  # signed with the time of the call
    assert first == again == without
    both = await asyncio.gather(*(room.claim() for _ in range(5)))
    assert {o["attempt"] for o, _ in both} == {1}


async def test_another_claim_for_the_same_attempt_is_refused(room):
    await room.accept()
    await room.claim(claim="a")
    with pytest.raises(InvalidJobStateError, match="has another executor"):
        await room.claim(claim="b")
    with pytest.raises(InvalidJobStateError, match="is at attempt 1, not 2"):
        await room.claim(claim="b", attempt=2)
    assert (await room.containers.get("j", 0)).claim == "a" * 32


async def test_another_claim_without_an_attempt_supersedes(room):
    await room.accept()
    _, one = await room.claim(claim="a", attempt=None)
    order, two = await room.claim(claim="b", attempt=None)
    assert (order["attempt"], two.attempt) == (2, 2)
    beat = Heartbeat(phase="running")
    assert await room.workers.heartbeat(one, "j", 0, beat) == {"stop": True, "reason": "this attempt is over"}
    assert await room.workers.heartbeat(two, "j", 0, beat) == {"stop": False, "reason": None}
    with pytest.raises(InvalidJobStateError, match="this attempt is over"):
        await room.workers.update(one, "j", 0, S.JOB_SUBMITTED, update(room))
    with pytest.raises(InvalidJobStateError):
        await room.workers.uploads(one, "j", 0, uploads(("x", b"1")))
    await room.claim(claim="c", attempt=None)
    with pytest.raises(InvalidJobStateError):  # the third was the last
        await room.claim(claim="d", attempt=None)


async def test_of_two_claims_in_one_instant_one_has_the_attempt(room):
    await room.accept()
    results = await asyncio.gather(*(room.claim(claim=c) for c in "abcdef"), return_exceptions=True)
    assert sum(not isinstance(r, Exception) for r in results) == 1
    assert {type(r) for r in results if isinstance(r, Exception)} == {InvalidJobStateError}


async def test_what_is_not_there_is_named(room):
    await room.accept()
    with pytest.raises(NoSuchJobError, match="'none'"):
        await room.claim(job_id="none")
    with pytest.raises(NoSuchSubJobError, match="no container 2; they are 0 to 1"):
        await room.claim(2)
    with pytest.raises(NoSuchSubJobError, match="no container 7"):
        await room.workers.update(EXECUTOR, "j", 7, S.JOB_SUBMITTED, update(room))
    with pytest.raises(NoSuchJobError):
        await room.workers.update(EXECUTOR, "none", 0, S.JOB_SUBMITTED, update(room))


async def test_a_token_serves_for_its_own_container_only(room):
    await room.accept()
    await room.accept(job_id="k")
    _, own = await room.claim(0)
    beat, asked = Heartbeat(phase="running"), uploads(("x", b"1"))
    done = UploadsComplete.model_validate(
        {"files": [{"path": "x", "crc64nvme": "AAAAAAAAAAA=", "upload_id": "u", "etags": ["e"]}]}
    )
    inputs = InputsRequest(files=(f"{BUCKET}/{FILES[0]}",))
    for caller, job_id, number in ((own, "j", 1), (own, "k", 0), (EXECUTOR, "j", 0)):
        calls = [
            room.workers.heartbeat(caller, job_id, number, beat),
            room.workers.inputs(caller, job_id, number, inputs),
            room.workers.uploads(caller, job_id, number, asked),
            room.workers.complete_uploads(caller, job_id, number, done),
        ]
        if caller is own:
            calls.append(room.workers.update(caller, job_id, number, S.COMPLETE, update(room)))
        for call in calls:
            with pytest.raises(UnauthorizedError):
                await call
    assert (await room.containers.get("j", 1)).state is S.CREATED
    assert room.changes == []


async def test_fresh_gets_are_for_own_inputs_only(room):
    await room.accept()
    _, own = await room.claim(0)
    answer = await room.workers.inputs(own, "j", 0, InputsRequest(files=(f"{BUCKET}/{FILES[1]}",)))
    [fresh] = answer["inputs"]
    assert fresh["file"] == f"{BUCKET}/{FILES[1]}"
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        assert (await http.get(fresh["url"])).content == FILES[1].encode()
    with pytest.raises(IllegalParameterError, match="is not an input of container 0"):
        await room.workers.inputs(own, "j", 0, InputsRequest(files=(f"{BUCKET}/{FILES[2]}",)))


# Heartbeats and cancelling


async def test_heartbeats_are_recorded_and_an_ending_is_news(room):
    await room.accept()
    _, own = await room.claim()
    room.clock.advance(30)
    assert not (await room.workers.heartbeat(own, "j", 0, Heartbeat(phase="pulling")))["stop"]
    assert (await room.containers.get("j", 0)).seen == room.clock()
    assert room.changes == []
    await room.workers.heartbeat(own, "j", 0, Heartbeat(phase="running", ending="SIGTERM"))
    assert room.changes == [("j", True)]
    assert (await room.containers.get("j", 0)).ending == "SIGTERM"


async def test_executors_of_a_job_that_is_cancelled_are_told_to_stop(room):
    await room.accept()
    _, own = await room.claim()
    await room.cancel()
    assert await room.workers.heartbeat(own, "j", 0, Heartbeat(phase="running")) == {
        "stop": True,
        "reason": "the job is canceling",
    }
    done = {"files": [{"path": "x", "crc64nvme": "AAAAAAAAAAA=", "upload_id": "u", "etags": ["e"]}]}
    for call in (
        room.claim(),
        room.claim(1),
        room.claim(claim="b", attempt=None),
        room.workers.inputs(own, "j", 0, InputsRequest(files=(f"{BUCKET}/{FILES[0]}",))),
        room.workers.uploads(own, "j", 0, uploads(("x", b"1"))),
        room.workers.complete_uploads(own, "j", 0, UploadsComplete.model_validate(done)),
    ):
        with pytest.raises(InvalidJobStateError, match="canceling"):
            await call
    await room.jobs.transition("j", Transition(S.CANCELED, room.clock(), "d"))
    assert (await room.workers.heartbeat(own, "j", 0, Heartbeat(phase="running")))["stop"]


async def test_reports_of_a_job_that_is_cancelled_do_not_move_it(room):
    await room.accept(body(1))
    _, own = await room.claim()
    async with room.reconciling():
        room.site.slow_end = 2
        await room.cancel()
        for state in (S.DOWNLOAD_SUBMITTED, S.JOB_SUBMITTED, S.ERROR):
            await room.workers.update(own, "j", 0, state, update(room))
        job = await room.until_state(S.CANCELED)
    assert [t.state for t in job.transitions] == [S.CREATED, S.CANCELING, S.CANCELED]


async def test_a_cancellation_in_the_middle_of_a_claim_is_seen(room):
    await room.accept()
    claim = room.containers.claim

    async def claim_and_cancel(*args):
        claimed = await claim(*args)
        await room.cancel()
        return claimed

    room.containers.claim = claim_and_cancel
    with pytest.raises(InvalidJobStateError, match="canceling"):
        await room.claim()


# Uploads and outputs


async def test_outputs_and_logs_go_where_they_belong(room):
    await room.accept()
    _, own = await room.claim(1)
    answer = await room.workers.uploads(
        own, "j", 1, uploads(("sub/ü 1.txt", b"data"), logs=(("stdout", b"out"), ("stderr", b"")))
    )
    [file], [out, err] = answer["files"], answer["logs"]
    assert (file["path"], file["file"], file["parts"], file["upload_id"]) == (
        "sub/ü 1.txt",
        f"{BUCKET}/out/sub/ü 1.txt",
        None,
        None,
    )
    assert (out["stream"], out["file"]) == ("stdout", f"{LOGS}/j/container-1/stdout.txt")
    assert (await put(file, b"flip")).status_code >= 400  # other bytes are not taken
    for request, data in ((file, b"data"), (out, b"out"), (err, b"")):
        assert (await put(request, data)).status_code == 200
        assert (await room.s3.head(request["file"])).crc64nvme == crc64nvme(data)


async def test_large_outputs_go_in_parts(room):
    await room.accept(body(1))
    _, own = await room.claim()
    data = [b"a" * PART, b"b" * 10]
    whole = crc64nvme(b"".join(data))
    request = {
        "path": "big",
        "size": PART + 10,
        "crc64nvme": whole,
        "parts": [{"size": len(d), "crc64nvme": crc64nvme(d)} for d in data],
    }
    answer = await room.workers.uploads(own, "j", 0, UploadsRequest.model_validate({"files": [request]}))
    [file] = answer["files"]
    assert file["url"] is None
    etags = []
    for part, piece in zip(file["parts"], data, strict=True):
        response = await put(part, piece)
        assert response.status_code == 200
        etags.append(response.headers["ETag"])
    done = {"path": "big", "crc64nvme": whole, "upload_id": file["upload_id"], "etags": etags}
    for _ in range(2):  # repeatable
        await room.workers.complete_uploads(own, "j", 0, UploadsComplete.model_validate({"files": [done]}))
    assert (await room.s3.head(file["file"])).size == PART + 10
    unknown = done | {"path": "other"}
    with pytest.raises(IllegalParameterError, match="there is no such upload"):
        await room.workers.complete_uploads(own, "j", 0, UploadsComplete.model_validate({"files": [unknown]}))


async def test_two_containers_that_write_one_file_are_both_named(room):
    await room.accept()
    _, zero = await room.claim(0)
    _, one = await room.claim(1)
    await room.workers.uploads(zero, "j", 0, uploads(("mine", b"1"), ("same", b"1")))
    await room.workers.uploads(zero, "j", 0, uploads(("same", b"1")))  # its own again
    with pytest.raises(IllegalParameterError, match="Containers 0 and 1 both write the output file 'same'"):
        await room.workers.uploads(one, "j", 1, uploads(("yours", b"1"), ("same", b"2")))
    results = await asyncio.gather(
        room.workers.uploads(zero, "j", 0, uploads(("race", b"1"))),
        room.workers.uploads(one, "j", 1, uploads(("race", b"1"))),
        return_exceptions=True,
    )
    assert [type(r) for r in results].count(IllegalParameterError) == 1


async def test_with_declobber_everybody_has_a_directory(room):
    await room.accept(body(params={"declobber": True}))
    targets = []
    for n in range(2):
        _, own = await room.claim(n)
        answer = await room.workers.uploads(own, "j", n, uploads(("same", b"1")))
        targets.append(answer["files"][0]["file"])
        other = {"file": f"{BUCKET}/out/{1 - n}/same", "crc64nvme": crc64nvme(b"1")}
        with pytest.raises(IllegalParameterError, match=f"is not below '{BUCKET}/out/{n}/'"):
            await room.workers.update(own, "j", n, S.COMPLETE, update(room, outputs=[other]))
    assert targets == [f"{BUCKET}/out/0/same", f"{BUCKET}/out/1/same"]


async def test_a_path_that_no_key_can_hold_is_refused(room):
    await room.accept()
    _, own = await room.claim()
    with pytest.raises(IllegalS3PathError):
        await room.workers.uploads(own, "j", 0, uploads(("x" * 1022, b"1")))  # with the directory it is too long
    with pytest.raises(ValueError, match=r"segment"):
        uploads(("../x", b"1"))


@pytest.mark.parametrize(
    ("file", "crc", "error", "match"),
    [
        (f"{BUCKET}/in/a.fa", crc64nvme(b"in/a.fa"), IllegalParameterError, "is not below"),
        (f"{BUCKET}/output/x", crc64nvme(b"1"), IllegalParameterError, "is not below"),
        (f"{BUCKET}/out/none", crc64nvme(b"1"), IllegalParameterError, "outputs: .*none"),
        (f"{BUCKET}/out/there", crc64nvme(b"other"), ChecksumMismatchError, "it changed on the way"),
    ],
)
async def test_outputs_are_believed_once_s3_says_the_same(room, file, crc, error, match):
    await room.s3.put(f"{BUCKET}/out/there", b"there")
    await room.accept(body(1))
    _, own = await room.claim()
    good = {"file": f"{BUCKET}/out/there", "crc64nvme": crc64nvme(b"there")}
    with pytest.raises(error, match=match):
        await room.workers.update(
            own, "j", 0, S.COMPLETE, update(room, outputs=[good, {"file": file, "crc64nvme": crc}])
        )
    assert (await room.containers.get("j", 0)).state is S.CREATED
    await room.workers.update(own, "j", 0, S.COMPLETE, update(room, outputs=[good]))
    assert (await room.containers.get("j", 0)).outputs.files == [f"{BUCKET}/out/there"]


@pytest.mark.parametrize("caller", ["container", "executor"])
async def test_many_outputs_are_kept_in_chunks_and_gathered(room, caller):
    names = [f"{BUCKET}/out/many-{i:03}" for i in range(101)]
    await asyncio.gather(*(room.s3.put(n, n.encode()) for n in names))
    outputs = [{"file": n, "crc64nvme": crc64nvme(n.encode())} for n in names]
    await room.accept(body(1))
    async with room.reconciling():
        await room.until_run(Run("j", 0, 1))
        room.site.begin(Run("j", 0, 1))
        _, own = await room.claim()
        who = own if caller == "container" else EXECUTOR
        for state in (S.DOWNLOAD_SUBMITTED, S.JOB_SUBMITTING, S.JOB_SUBMITTED):
            await room.workers.update(who, "j", 0, state, update(room))
        usage = {"cpu_seconds": 1.0, "wall_seconds": 2.0, "max_memory": 3}
        await room.workers.update(who, "j", 0, S.UPLOAD_SUBMITTING, update(room, exit_code=0, usage=usage))
        await room.workers.update(who, "j", 0, S.UPLOAD_SUBMITTED, update(room))
        for _ in range(2):
            await room.workers.update(who, "j", 0, S.COMPLETE, update(room, outputs=outputs))
        job = await room.until_state(S.COMPLETE)
    assert (await room.containers.get("j", 0)).outputs is None
    assert (job.output_file_count, job.max_memory) == (101, 3)
    gathered = await room.files.outputs("j")
    assert gathered.files == names
    assert gathered.crc64nvmes == [o["crc64nvme"] for o in outputs]
    assert len(job.transitions) == 7


@pytest.mark.parametrize("state", [S.CREATED, S.CANCELING, S.CANCELED])
async def test_containers_do_not_report_states_that_are_not_theirs(room, state):
    await room.accept()
    _, own = await room.claim()
    with pytest.raises(InvalidJobStateError, match=f"cannot report the state {state.value}"):
        await room.workers.update(own, "j", 0, state, update(room))


async def test_a_replay_of_many_outputs_does_not_change_what_stands(room):
    """A forged or mixed-up repetition must not rewrite the outputs of a container that is over."""
    names = [f"{BUCKET}/out/many-{i:03}" for i in range(102)]
    await asyncio.gather(*(room.s3.put(n, n.encode()) for n in names))
    outputs = [{"file": n, "crc64nvme": crc64nvme(n.encode())} for n in names]
    await room.accept(body(1))
    _, own = await room.claim()
    await room.workers.update(own, "j", 0, S.COMPLETE, update(room, outputs=outputs[:101]))
    await room.workers.update(own, "j", 0, S.COMPLETE, update(room, outputs=outputs[1:]))
    stored = await room.files.outputs("j", container=0, attempt=1)
    assert stored.files == names[:101]


async def test_the_worker_s_clock_is_shown_and_the_service_s_orders(room):
    await room.accept(body(1))
    _, own = await room.claim()
    ahead = room.clock() + datetime.timedelta(days=400)
    report = ContainerUpdate.model_validate({"time": ahead.isoformat()})
    await room.workers.update(own, "j", 0, S.DOWNLOAD_SUBMITTED, report)
    reached = (await room.containers.get("j", 0)).reached[S.DOWNLOAD_SUBMITTED]
    assert (reached.time, reached.at) == (ahead, room.clock())
