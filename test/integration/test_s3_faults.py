"""Stores that fail: away, silent, overloaded, broken off in the middle, or saying what no store should."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    DependencyUnavailableError,
    IllegalS3PathError,
    NoSuchBucketError,
    NoSuchS3PathError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
)
from cdmtaskservice.s3 import uploading
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config

DATA = bytes(range(256)) * 4096
CRC = crc64nvme(DATA)
BOUND = 6.5
"""Seconds within which a store that is away must be told of: the deadline of 5 s, and some grace for a busy machine."""


@dataclass
class Request:
    """What the scripted store was asked."""

    method: str
    target: str
    headers: dict[str, str]
    number: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Script = Callable[[Request], bytes | None]
"""The bytes to answer with, after which the connection is closed if they are short of what they announce; None for
silence."""


@dataclass
class FakeStore:
    """An HTTP server that says what a script tells it to: for what no real store does when it is asked to."""

    script: Script
    url: str = ""
    seen: list[Request] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, target, headers, len(self.seen))
                self.seen.append(request)
                answer = self.script(request)
                if answer is None:
                    await reader.read()
                    return
                writer.write(answer)
                await writer.drain()
                if not answer.startswith(b"HTTP/1.1") or b"x-cut" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def fake_store(
    script: Script, tls: ssl.SSLContext | None = None, insecure_tls: bool = False
) -> AsyncIterator[tuple[FakeStore, S3Client]]:
    store = FakeStore(script)
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0, ssl=tls)
    store.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with _client(store.url, insecure_tls) as client:
            yield store, client
    finally:
        server.close()
        await server.wait_closed()


def _client(url: str, insecure_tls: bool = False) -> S3Client:
    return S3Client.create(S3Config(url, "key", SecretStr("secret"), insecure_tls=insecure_tls))


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error(status: int, code: str) -> bytes:
    return reply(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())


def found(size: int = 0, crc: str = "AAAAAAAAAAA=") -> bytes:
    return f'HTTP/1.1 200 OK\r\ncontent-length: {size}\r\netag: "e"\r\nx-amz-checksum-crc64nvme: {crc}\r\n\r\n'.encode()


async def _read(client: S3Client, path: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in client.read(path, offset, length)])


async def _raises_in_time(kind: type[CTSError], attempt: Awaitable[object], match: str | None = None) -> float:
    begin = time.monotonic()
    with pytest.raises(kind, match=match):
        await attempt
    took = time.monotonic() - begin
    assert took < BOUND
    return took


CALLS: dict[str, Callable[[S3Client], Awaitable[object]]] = {
    "check": lambda client: client.check(),
    "check_bucket": lambda client: client.check_bucket("bucket"),
    "check_writable": lambda client: client.check_writable("bucket/prefix"),
    "create_bucket": lambda client: client.create_bucket("bucket"),
    "first_below": lambda client: client.first_below("bucket/prefix"),
    "head": lambda client: client.head("bucket/key"),
    "head_many": lambda client: client.head_many([f"bucket/{number}" for number in range(2000)]),
    "read": lambda client: _read(client, "bucket/key"),
    "put": lambda client: client.put("bucket/key", b"1234"),
    "delete": lambda client: client.delete(["bucket/1", "bucket/2"]),
    "abort": lambda client: client.abort_multipart("bucket/key", "id"),
}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.mark.parametrize("call", CALLS)
async def test_store_is_away(free_port: int, call: str) -> None:
    async with _client(f"http://127.0.0.1:{free_port}") as client:
        await _raises_in_time(DependencyUnavailableError, CALLS[call](client), "not available")


async def test_file_for_a_store_that_is_away(free_port: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    async with _client(f"http://127.0.0.1:{free_port}") as client:
        await _raises_in_time(DependencyUnavailableError, client.upload_file("bucket/key", file))


@pytest.mark.parametrize("call", ["check", "head_many", "read"])
async def test_silent_store(call: str) -> None:
    async with fake_store(lambda _: None) as (_, client):
        await _raises_in_time(DependencyUnavailableError, CALLS[call](client), "no answer within 5 s")


SLOW_DOWN = error(503, "SlowDown")
FAULTS = [
    SLOW_DOWN,
    error(500, "InternalError"),
    error(400, "RequestTimeout"),
    reply(502),
    reply(429),
    b"garbage\r\n\r\n",
    b"",
]


@pytest.mark.parametrize(
    ("call", "answer"), [*((call, SLOW_DOWN) for call in CALLS), *(("read", fault) for fault in FAULTS)]
)
async def test_a_store_that_keeps_failing_is_given_up_soon(call: str, answer: bytes) -> None:
    async with fake_store(lambda _: answer) as (store, client):
        await _raises_in_time(DependencyUnavailableError, CALLS[call](client), "4 attempts failed")
        assert store.seen
        for path in {request.path for request in store.seen}:
            assert sum(request.path == path for request in store.seen) <= 8, "aiohttp itself may repeat once"


@pytest.mark.parametrize("answer", FAULTS)
async def test_a_passing_fault_is_not_noticed(answer: bytes) -> None:
    async with fake_store(lambda request: answer if request.number < 2 else found(7)) as (_, client):
        assert (await client.head("bucket/key")).size == 7


@pytest.mark.parametrize("size", [4, len(DATA)])
async def test_bytes_are_sent_again_from_their_beginning(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(DATA[:size])
    answer = reply(200, x_amz_checksum_crc64nvme=crc64nvme(DATA[:size]))
    async with fake_store(lambda request: answer if request.number in (2, 5) else SLOW_DOWN) as (store, client):
        await client.put("bucket/key", DATA[:size])
        await client.upload_file("bucket/key", tmp_path / "file")
        assert [request.headers["content-length"] for request in store.seen] == [str(size)] * 6


async def test_a_no_is_not_asked_twice() -> None:
    async with fake_store(lambda _: error(404, "NoSuchKey")) as (store, client):
        with pytest.raises(NoSuchS3PathError):
            await _read(client, "bucket/key")
        assert len(store.seen) == 1


async def test_a_missing_file_beside_slow_ones_stops_the_batch() -> None:
    def script(request: Request) -> bytes | None:
        if request.target == "/bucket":
            return reply(200)
        number = int(request.path.rpartition("/")[2])
        return found() if number < 20 else reply(404) if number == 20 else None

    async with fake_store(script) as (store, client):
        took = await _raises_in_time(
            NoSuchS3PathError, client.head_many([f"bucket/{number}" for number in range(5000)]), "'bucket/20'"
        )
        assert took < 3
        assert len(store.seen) < 200


async def test_a_broken_off_read_goes_on_where_it_broke() -> None:
    def script(request: Request) -> bytes:
        begin = int(request.headers.get("range", "bytes=0-")[len("bytes=") : -1])
        rest = DATA[begin : begin + 400_000] if request.number < 2 else DATA[begin:]
        status = 206 if begin else 200
        head = f'HTTP/1.1 {status} OK\r\ncontent-length: {len(DATA) - begin}\r\netag: "v1"\r\nx-cut: 1\r\n\r\n'
        return head.encode() + rest

    async with fake_store(script) as (store, client):
        assert await _read(client, "bucket/key") == DATA
        assert [request.headers.get("if-match") for request in store.seen] == [None, '"v1"', '"v1"']


async def test_a_read_is_not_continued_in_another_object() -> None:
    def script(request: Request) -> bytes:
        if request.number:
            return error(412, "PreconditionFailed")
        return b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\netag: "v1"\r\nx-cut: 1\r\n\r\n12345'

    async with fake_store(script) as (_, client):
        with pytest.raises(DependencyUnavailableError, match="was replaced"):
            await _read(client, "bucket/key")


async def test_a_store_that_ignores_ranges() -> None:
    async with fake_store(lambda _: reply(200, b"all of it")) as (_, client):
        with pytest.raises(DependencyUnavailableError, match="range"):
            await _read(client, "bucket/key", 4)


async def test_an_error_inside_a_200() -> None:
    async with fake_store(lambda _: error(200, "InternalError")) as (_, client):
        await _raises_in_time(
            DependencyUnavailableError, client.complete_multipart("bucket/key", "id", ["e"], CRC), "4 attempts"
        )
    async with fake_store(lambda _: error(200, "BadDigest")) as (_, client):
        with pytest.raises(ChecksumMismatchError, match="bucket/key"):
            await client.complete_multipart("bucket/key", "id", ["e"], CRC)


@pytest.mark.parametrize(("crc", "fits"), [(CRC, True), ("AAAAAAAAAAA=", False)])
async def test_a_store_that_does_not_repeat_the_checksum_is_looked_after(crc: str, fits: bool) -> None:
    async with fake_store(lambda request: found(4, crc) if request.method == "HEAD" else reply(200)) as (_, client):
        for attempt in (client.complete_multipart("bucket/key", "id", ["e"], CRC), client.put("bucket/key", DATA)):
            if fits:
                await attempt
            else:
                with pytest.raises(ChecksumMismatchError, match="bucket/key"):
                    await attempt


async def test_a_lost_answer_to_a_completion_is_made_good() -> None:
    def script(request: Request) -> bytes:
        if request.method == "HEAD":
            return found(4, CRC)
        return b"" if request.number == 0 else error(404, "NoSuchUpload")

    async with fake_store(script) as (_, client):
        await client.complete_multipart("bucket/key", "id", ["e"], CRC)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "NoSuchBucket"), NoSuchBucketError),
        (error(403, "AccessDenied"), S3PathInaccessibleError),
        (error(400, "BadDigest"), ChecksumMismatchError),
        (error(400, "KeyTooLongError"), IllegalS3PathError),
        (error(403, "InvalidAccessKeyId"), DependencyUnavailableError),
        (error(400, "AuthorizationHeaderMalformed"), DependencyUnavailableError),
        (reply(301), DependencyUnavailableError),
        (error(501, "NotImplemented"), DependencyUnavailableError),
        (error(418, "Teapot"), DependencyUnavailableError),
        (reply(400, b"<Error"), DependencyUnavailableError),
    ],
)
async def test_refusals(answer: bytes, kind: type[CTSError]) -> None:
    async with fake_store(lambda _: answer) as (_, client):
        with pytest.raises(kind):
            await client.put("bucket/key", b"1234")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "NoSuchBucket"), NoSuchBucketError),
        (error(403, "AccessDenied"), S3BucketInaccessibleError),
        (error(403, "InvalidAccessKeyId"), DependencyUnavailableError),
        (error(418, "Teapot"), DependencyUnavailableError),
    ],
)
async def test_refused_lists(answer: bytes, kind: type[CTSError]) -> None:
    async with fake_store(lambda _: answer) as (_, client):
        with pytest.raises(kind):
            await client.first_below("bucket/prefix")


async def test_a_head_without_a_size() -> None:
    async with fake_store(lambda _: b"HTTP/1.1 200 OK\r\nx-cut: 1\r\n\r\n") as (_, client):
        with pytest.raises(DependencyUnavailableError, match="size"):
            await client.head("bucket/key")


async def test_writability_is_proven_even_if_the_proof_stays() -> None:
    def script(request: Request) -> bytes:
        if request.method == "POST":
            return reply(200, b"<R><UploadId>u</UploadId></R>")
        return error(403, "AccessDenied") if request.method == "DELETE" else reply(200)

    async with fake_store(script) as (store, client):
        await client.check_writable("bucket/prefix")
        assert [request.method for request in store.seen] == ["HEAD", "POST", "DELETE"]
        assert "uploadId=u" in store.seen[-1].target


@pytest.mark.parametrize("at", ["POST", "DELETE"])
async def test_a_cancelled_proof_of_writability_is_still_cleaned_up(at: str) -> None:
    def script(request: Request) -> bytes:
        if request.method == at:
            task.cancel()
        return reply(200, b"<R><UploadId>u</UploadId></R>" if request.method == "POST" else b"")

    async with fake_store(script) as (store, client):
        task = asyncio.create_task(client.check_writable("bucket/prefix"))
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [request.method for request in store.seen] == ["HEAD", "POST", "DELETE"]


async def test_a_cancelled_upload_leaves_no_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PART_SIZE", 100_000)
    file = tmp_path / "file"
    file.write_bytes(DATA)

    def script(request: Request) -> bytes | None:
        if request.method == "PUT":
            task.cancel()
            return None
        return reply(200, b"<R><UploadId>u</UploadId></R>" if request.method == "POST" else b"")

    async with fake_store(script) as (store, client):
        task = asyncio.create_task(client.upload_file("bucket/key", file))
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (store.seen[0].method, store.seen[-1].method) == ("POST", "DELETE")


async def test_settings_of_other_aws_clients_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    for name, value in {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    async with fake_store(lambda _: found(0)) as (_, client):
        await client.check_bucket("bucket")
        await client.head("bucket/key")


@pytest.mark.parametrize("path", ["Größe/key", "a b/key", "x" * 256 + "/key"])
async def test_a_bucket_that_cannot_be(path: str) -> None:
    async with fake_store(lambda _: reply(200)) as (store, client):
        with pytest.raises(IllegalS3PathError, match=path):
            await client.put(path, DATA)
        assert store.seen == []


async def test_certificates_are_checked_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(certificate))
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    for insecure in (False, True):
        async with fake_store(lambda _: found(3), context, insecure_tls=insecure) as (_, client):
            if insecure:
                assert (await client.head("bucket/key")).size == 3
                await client.check_bucket("bucket")
            else:
                await _raises_in_time(DependencyUnavailableError, client.head("bucket/key"))
                await _raises_in_time(DependencyUnavailableError, client.check_bucket("bucket"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with fake_store(lambda _: found(3), context) as (_, client):
        await client.check_bucket("bucket")


async def test_a_file_that_shrinks_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)

    def shrink_then_read(path: Path, offset: int, length: int) -> tuple[bytes, str]:
        path.write_bytes(DATA[:1000])
        return read(path, offset, length)

    read = uploading.read_part
    monkeypatch.setattr(uploading, "read_part", shrink_then_read)
    async with fake_store(lambda _: reply(200)) as (store, client):
        await _raises_in_time(ChecksumMismatchError, client.upload_file("bucket/key", file), "changed")
        assert store.seen == []


async def test_a_closed_client_says_so() -> None:
    client = _client("http://127.0.0.1:1")
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.check()
