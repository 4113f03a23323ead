"""The application behind a real server: what bytes on a socket make of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from structlog.testing import capture_logs

from test.unit.api_fakes import FakeServices
from test.unit.api_records import JOB_INPUT

_LIMIT = 100_000


class Served:
    """An application and where it is served."""

    def __init__(self, services: FakeServices, port: int) -> None:
        self.services = services
        self.port = port
        self.url = f"http://127.0.0.1:{port}"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """The application behind uvicorn on a free port, until the test is over."""
    services = FakeServices()
    config = uvicorn.Config(
        services.app(max_body=_LIMIT, root_path="/services/cts"), port=0, log_config=None, lifespan="on", ws="none"
    )
    server = uvicorn.Server(config)
    with capture_logs():
        task = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(20):
                while not server.started:
                    await asyncio.sleep(0.01)
            yield Served(services, server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await task


async def _exchange(port: int, request: bytes) -> bytes:
    """What comes back for these bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_job_is_submitted_and_read(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": "Bearer ann"}) as http:
        assert (await http.post("/jobs", json=JOB_INPUT)).json() == {"job_id": "job1"}
        assert (await http.get("/services/cts/jobs/job1")).json()["id"] == "job1"
        assert (await http.put("/jobs/job1/cancel")).status_code == 204
        assert (await http.get("/openapi.json")).json()["servers"] == [{"url": "/services/cts"}]


async def test_connection_serves_on_after_every_refusal(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url) as http:
        for path, token, status in (
            ("/jobs", None, 401),
            ("/jobs", "nobody", 401),
            ("/jobs/j/cancel", "ann", 405),
            ("/nowhere", "ann", 404),
            ("/jobs", "ann", 400),
            ("/sites", None, 405),
        ):
            headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
            response = await http.post(path, content=b"{" * 1000, headers=headers)
            assert response.status_code == status
            assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


async def test_announced_body_too_large(served: Served) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ann\r\nContent-Type: application/json\r\n"
    answer = await _exchange(served.port, head + b"Connection: close\r\nContent-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["httpcode"] == 413


async def test_chunked_body_too_large(served: Served) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(_LIMIT // 1000 + 10):
            yield b" " * 1000

    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": "Bearer ann"}) as http:
        response = await http.post("/jobs", content=body(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert served.services.submission.calls == []


@pytest.mark.parametrize(
    "target",
    [
        b"//sites",
        b"/sites//",
        b"/%2F/sites",
        b"/sites?%00=%ff&%",
        b"/jobs/%00",
        b"/jobs/%ff%fe",
        b"/images/%0d%0a",
        b"*",
        b"/;/..//",
    ],
)
async def test_odd_targets(target: bytes, served: Served) -> None:
    answer = await _exchange(
        served.port,
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ann\r\nConnection: close\r\n\r\n",
    )
    status = int(answer.split(b" ", 2)[1])
    assert status < 500
    if b"sites" in target:
        assert status == 200


async def test_log_that_breaks_off_is_seen_to_be_incomplete(served: Served) -> None:
    served.services.jobs.log_chunks = [b"first", RuntimeError("S3 went away")]
    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": "Bearer ann"}) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/jobs/job1/log/0/stdout")
        assert (await http.get("/sites")).status_code == 200


async def test_client_that_leaves_ends_its_log(served: Served) -> None:
    served.services.jobs.log_chunks = [b"x" * 65536] * 10_000
    async with (
        httpx.AsyncClient(base_url=served.url, headers={"Authorization": "Bearer ann"}) as http,
        http.stream("GET", "/jobs/job1/log/0/stdout") as response,
    ):
        assert response.status_code == 200
        await anext(response.aiter_raw())
    async with asyncio.timeout(20):
        while not served.services.jobs.log_closed:
            await asyncio.sleep(0.01)
