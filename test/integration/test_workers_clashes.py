"""Containers of external executors that write outputs without asking the service for uploads."""

from __future__ import annotations

import pytest

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.states import JobState
from test.integration.workers_room import BUCKET, EXECUTOR, Room, body, update

S = JobState


async def report(room: Room, number: int, path: str, data: bytes) -> None:
    there = await room.s3.put(f"{BUCKET}/out/{path}", data)
    outputs = [{"file": there.path, "crc64nvme": there.crc64nvme}]
    await room.workers.update(EXECUTOR, "j", number, S.COMPLETE, update(room, outputs=outputs))


async def test_two_reports_of_one_file_name_both_containers(room: Room) -> None:
    await room.accept()
    await report(room, 0, "reported-twice", b"zero")
    with pytest.raises(IllegalParameterError, match="Containers 0 and 1 both write the output file 'reported-twice'"):
        await report(room, 1, "reported-twice", b"one")
    found = await room.containers.get("j", 1)
    assert found is not None
    assert found.state is S.CREATED
    await report(room, 0, "reported-twice", b"zero")  # its own report may come twice
    await report(room, 1, "reported-apart", b"one")


async def test_with_declobber_the_same_name_is_no_clash(room: Room) -> None:
    await room.accept(body(params={"declobber": True}))
    await report(room, 0, "0/reported", b"zero")
    await report(room, 1, "1/reported", b"one")
