"""The calls of executors for uploads, and their reports of outputs, on a real database and a real S3 store."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    IllegalParameterError,
    IllegalS3PathError,
    InvalidJobStateError,
)
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import ContainerUpdate, UploadsComplete, UploadsRequest
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.sites.base import Run

from .workers_room import BUCKET, EXECUTOR, LOGS, PART, body, put, update, uploads

S = JobState


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
