"""What a thousand readers of one container's log cost the service. The benchmark plays the executor."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from benchmarks.figures import Effort, Figure, median
from benchmarks.load import Caller, Refused
from benchmarks.processes import memory_mib
from benchmarks.stage import House
from cdmtaskservice.executor.live_logs import PIECE

READERS = 1000
_PATIENCE = 60.0
_LINE = b"one line of a log\n"


class _Reader:
    """One who follows a log; what comes is counted, and not kept."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.seen = 0
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def has(self, count: int) -> None:
        """Wait for so many bytes, what HTTP adds to them included."""
        while self.seen < count:
            self._grown.clear()
            await self._grown.wait()

    async def _read(self) -> None:
        while data := await self._reader.read(PIECE):
            self.seen += len(data)
            self._grown.set()

    def leave(self) -> None:
        """Read no more."""
        self._task.cancel()


async def followers(house: House, effort: Effort) -> list[Figure]:
    """Readers wait for a log, get a line of it together, and then megabytes."""
    count, pieces = effort.times(READERS, 200), effort.times(16, 4)
    [file] = await house.stage.files(1)
    job_id = await house.submit(house.job([file]))
    path = f"/external_exec/jobs/{job_id}/container/0"
    await _until_running(house, job_id)
    claim = json.dumps({"claim": secrets.token_hex(16)}).encode()
    order = json.loads(await house.executor.call("POST", f"{path}/work", claim))
    pid = house.service.pid
    assert pid is not None
    async with Caller(house.service.url, order["token"]) as executor, AsyncExitStack() as connections:
        before = memory_mib(pid)[0]
        readers = [await connections.enter_async_context(_following(house, job_id)) for _ in range(count)]
        offset = await _until_asked(executor, path)
        waiting = memory_mib(pid)[0]
        delays = []
        for _ in range(effort.times(20, 5)):
            begun = time.perf_counter()
            offset = await _send(executor, path, offset, _LINE)
            await _all_have(readers, offset)
            delays.append(time.perf_counter() - begun)
        cpu, begun = house.cpu_since(), time.perf_counter()
        for _ in range(pieces):
            offset = await _send(executor, path, offset, secrets.token_bytes(PIECE))
            await _all_have(readers, offset)
        seconds = time.perf_counter() - begun
        cpu = house.cpu_since(cpu)
        after = memory_mib(pid)[0]
    await house.cancel([job_id])
    megabytes = count * pieces * PIECE / 1e6
    return [
        Figure("followers.memory", f"memory that {count:,} log followers add", after - before, "MiB", note="RSS"),
        Figure("followers.each", "for each of them", 1024 * (after - before) / count, "KiB"),
        Figure("followers.waiting", "while they wait for the first line", waiting - before, "MiB", note="RSS"),
        Figure("followers.delay", f"a line sent → all {count:,} have it", 1000 * median(delays), "ms"),
        Figure("followers.rate", "bytes to all followers together", megabytes / seconds, "MB/s", "more"),
        Figure("followers.cpu", "CPU time of the service for each of these MB", 1000 * cpu / megabytes, "ms"),
    ]


@asynccontextmanager
async def _following(house: House, job_id: str) -> AsyncIterator[_Reader]:
    incoming, outgoing = await asyncio.open_connection("127.0.0.1", house.service.port)
    outgoing.write(
        f"GET /jobs/{job_id}/log/0/stdout?follow=true HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {house.service.tokens['ann']}\r\n\r\n".encode()
    )
    head = await incoming.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise Refused(f"{HTTPStatus.OK} was due for a log, not {head!r}")
    reader = _Reader(incoming)
    try:
        yield reader
    finally:
        reader.leave()
        outgoing.close()


async def _beat(executor: Caller, path: str, **more: object) -> int | None:
    """The offset that the answer to a heartbeat asks for."""
    body = json.dumps({"phase": "running", **more}).encode()
    answer = json.loads(await executor.call("POST", f"{path}/heartbeat", body))
    if answer["stop"]:
        raise Refused(f"the executor that the benchmark plays was told to stop: {answer['reason']}")
    return None if answer["logs"] is None else int(answer["logs"]["stdout"])


async def _send(executor: Caller, path: str, offset: int, data: bytes) -> int:
    piece = {"stream": "stdout", "offset": offset, "data": base64.b64encode(data).decode()}
    await _beat(executor, path, logs=[piece])
    return offset + len(data)


async def _until_running(house: House, job_id: str) -> None:
    """An executor that claims before its run has begun counts as one whose engine has lost it."""
    async with asyncio.timeout(_PATIENCE):
        while (await house.admin.get(f"/admin/jobs/{job_id}/runner_status")).get("state") != "running":
            await asyncio.sleep(0.05)


async def _until_asked(executor: Caller, path: str) -> int:
    async with asyncio.timeout(_PATIENCE):
        while (offset := await _beat(executor, path)) is None:
            await asyncio.sleep(0.1)
    return offset


async def _all_have(readers: list[_Reader], count: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        for reader in readers:
            await reader.has(count)
