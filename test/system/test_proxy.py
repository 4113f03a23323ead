"""The proxy's configuration that docs/deploy.md shows, run by a real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cdmtaskservice.embedded import apt
from cdmtaskservice.embedded.part import free_ports

pytestmark = pytest.mark.long

PAGE = (Path(__file__).parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
PREFIX = "/services/cts"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: this machine's own, or Debian's."""
    if found := shutil.which("nginx"):
        return found
    work = tmp_path_factory.mktemp("nginx")
    own = apt.Apt(work / "apt")
    own.update()
    own.fetch(["nginx"])
    own.unpack(work)
    return str(work / "usr/sbin/nginx")


class Upstream:
    """Stands where the service is: tells what it was asked, and streams as the service does."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()
        """Until then a stream that has begun says nothing more."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                path = head.split()[1]
                self.paths.append(path)
                if "/events" in path or "follow=true" in path:
                    await self._stream(writer)
                else:
                    said = f"{len(body)} {head}".encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
                    await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        await self.go_on.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")
        await writer.drain()


@pytest.fixture
async def proxied(nginx: str, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Upstream]]:
    """A client of an nginx with the page's own configuration, and what is behind it."""
    [shown] = re.findall(r"<!-- tried: nginx -->\n```nginx\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    port, behind = free_ports(2)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=example.org"),
            *("-addext", "subjectAltName=DNS:example.org,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    here = {
        "127.0.0.1:5000": f"127.0.0.1:{behind}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/example.org.pem": str(certificate),
        "/etc/ssl/private/example.org.key": str(key),
    }
    for there, ours in here.items():
        assert there in shown
        shown = shown.replace(there, ours)
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{name}_temp_path {tmp_path}/{name};\n" for name in paths)
    config = tmp_path / "nginx.conf"
    config.write_text(
        # Its workers write to a directory that is ours alone.
        f"{'user root;' if os.geteuid() == 0 else ''}\ndaemon off;\npid {tmp_path}/pid;\nworker_processes 1;\n"
        f"error_log {tmp_path}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{places}{shown}}}\n"
    )
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", behind)
    process = await asyncio.create_subprocess_exec(
        nginx, "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(config)
    )
    trusted = ssl.create_default_context(cafile=certificate)
    client = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}{PREFIX}", verify=trusted, timeout=10, trust_env=False
    )
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get("/up")
                    break
                assert process.returncode is None, (tmp_path / "error.log").read_text()
                await asyncio.sleep(0.05)
        upstream.paths.clear()
        yield client, upstream
    finally:
        await client.aclose()
        process.terminate()
        await process.wait()
        upstream.go_on.set()
        server.close()


async def test_requests_arrive_as_they_were_sent(proxied: tuple[httpx.AsyncClient, Upstream]) -> None:
    client, upstream = proxied
    reply = await client.get("/jobs/j/files?kind=outputs", headers={"Authorization": "Bearer t"})
    assert reply.status_code == 200
    assert upstream.paths == [f"{PREFIX}/jobs/j/files?kind=outputs"]
    assert "Authorization: Bearer t" in reply.text
    assert "Host: 127.0.0.1" in reply.text


async def test_a_submission_of_all_files_gets_through(proxied: tuple[httpx.AsyncClient, Upstream]) -> None:
    client, _ = proxied
    reply = await client.post("/jobs", content=b" " * 15_000_000)
    assert reply.text.startswith("15000000 POST")
    assert (await client.post("/jobs", content=b" " * 17_000_000)).status_code == 413


@pytest.mark.parametrize(
    "path", ["/jobs/j/events", "/jobs/j/log/0/stdout?follow=true", "/ui/jobs/j/log/0/stderr?follow=true"]
)
async def test_streams_come_as_they_are_sent(path: str, proxied: tuple[httpx.AsyncClient, Upstream]) -> None:
    """The second piece is sent only once the first has arrived: whoever holds it back waits for ever."""
    client, upstream = proxied
    async with client.stream("GET", path) as reply:
        pieces = reply.aiter_bytes()
        assert await anext(pieces) == b"first"
        upstream.go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"last"


async def test_numbers_stay_inside(proxied: tuple[httpx.AsyncClient, Upstream]) -> None:
    client, upstream = proxied
    for path in ("/metrics", "/metrics/", "/metrics//"):
        assert (await client.get(path)).status_code == 404, path
    assert upstream.paths == []
