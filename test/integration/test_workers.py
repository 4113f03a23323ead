"""The calls of executors for work, inputs and life signs, on a real database and a real S3 store."""

from __future__ import annotations

import asyncio
import datetime
import json
from dataclasses import replace

import httpx
import pytest

from cdmtaskservice.domain.errors import (
    IllegalParameterError,
    InvalidJobStateError,
    NoSuchJobError,
    NoSuchSubJobError,
    UnauthorizedError,
)
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.domain.worker_calls import Heartbeat, InputsRequest, UploadsComplete
from cdmtaskservice.s3.checksum import crc64nvme
from test.stand_ins.job_house import IMAGE

from .workers_room import BUCKET, EXECUTOR, FILES, PART, body, update, uploads

S = JobState


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
        "silence_limit": 30.0,
    }
    json.dumps(order)
    assert (claim.job_id, claim.container_number, claim.attempt) == ("j", 1, 1)
    assert claim.expires == room.clock() + datetime.timedelta(seconds=90 + 1000)
    assert expires == claim.expires.isoformat().replace("+00:00", "Z")
    assert token not in json.dumps(urls)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        for name, url in zip(FILES[2:], urls, strict=True):
            assert (await http.get(url)).content == name.encode()


@pytest.mark.parametrize(
    ("default", "mine", "expected"), [("/images", None, "/images"), ("/images", "/mine", "/mine"), (None, None, None)]
)
async def test_reference_data_is_named_with_its_place(room, default, mine, expected):
    params = body().params.model_copy(update={"refdata_mount_point": mine})
    image = replace(IMAGE, refdata_id="id-1", default_refdata_mount_point=default)
    await room.accept(body().model_copy(update={"params": params}), image=image)
    order, _ = await room.claim()
    assert order["refdata"] == (None if expected is None else {"id": "id-1", "mount_point": expected})


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
    assert await room.workers.heartbeat(two, "j", 0, beat) == {"stop": False, "reason": None, "logs": None}
    with pytest.raises(InvalidJobStateError, match="this attempt is over"):
        await room.workers.update(one, "j", 0, S.JOB_SUBMITTED, update(room))
    with pytest.raises(InvalidJobStateError):
        await room.workers.uploads(one, "j", 0, uploads(("x", b"1")))
    await room.claim(claim="c", attempt=None)
    with pytest.raises(InvalidJobStateError):  # the third was the last
        await room.claim(claim="d", attempt=None)


async def test_a_claim_for_a_run_supersedes_within_the_run_only(room):
    await room.accept()
    await room.claim(claim="a", attempt=None, run=1)
    order, _ = await room.claim(claim="b", attempt=None, run=1)
    container = await room.containers.get("j", 0)
    assert (order["attempt"], container.attempt, container.run) == (2, 2, 1)
    assert [lost.why for lost in container.lost] == ["its executor was started again by the site"]
    # The engine was asked for another run: executors of the first one are not wanted any more.
    await room.containers.next_attempt("j", 0, 2, room.clock(), "it was lost")
    with pytest.raises(InvalidJobStateError, match="is at run 3, not 1"):
        await room.claim(claim="c", attempt=None, run=1)
    order, _ = await room.claim(claim="d", attempt=None, run=3)
    assert order["attempt"] == 3


async def test_why_an_executor_was_started_again_is_what_the_one_before_said(room):
    await room.accept()
    _, one = await room.claim(claim="a", attempt=None, run=1)
    await room.workers.heartbeat(one, "j", 0, Heartbeat(phase="running", ending="evicted by SIGTERM"))
    await room.claim(claim="b", attempt=None, run=1)
    assert [lost.why for lost in (await room.containers.get("j", 0)).lost] == ["evicted by SIGTERM"]


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
