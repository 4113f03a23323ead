"""Presigned requests and uploads in parts, sent to a real store as an executor sends them: by the standard library."""

from __future__ import annotations

import asyncio
import http.client
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest
from aiobotocore.session import get_session
from pydantic import SecretStr

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    IllegalParameterError,
    NoSuchS3PathError,
)
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3 import multipart, uploading
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import PartSpec, PresignedRequest, S3Config

DATA = b"the right bytes"
CRC = crc64nvme(DATA)
PARTS = [b"a" * (5 << 20), b"b" * (5 << 20), b"the end"]
WHOLE = crc64nvme(b"".join(PARTS))
SPECS = [PartSpec(len(part), crc64nvme(part)) for part in PARTS]
KEYS = ["plain", "a b+c%20/d#e?f&g=h", "Größe/日本語 🧬", " blanks ", "(a)'less[b]*!~"]


@dataclass(frozen=True)
class Reply:
    status: int
    etag: str
    body: bytes


@pytest.fixture(scope="module")
async def client(stack: EmbeddedStack) -> AsyncIterator[S3Client]:
    account = stack.s3
    async with S3Client.create(S3Config(account.url, account.access_key, SecretStr(account.secret_key))) as client:
        yield client


@pytest.fixture(scope="module")
async def bucket(client: S3Client) -> str:
    name = f"test-{uuid.uuid4().hex}"
    await client.create_bucket(name)
    return name


@pytest.fixture
def path(bucket: str) -> str:
    return f"{bucket}/{uuid.uuid4().hex}"


def _send(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body, dict(headers))
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers.get("ETag", ""), answer.read())
    finally:
        connection.close()


async def _put(request: PresignedRequest, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    sent = request.headers if headers is None else headers
    return await asyncio.to_thread(_send, request.method, request.url, sent, body)


async def _get(url: str) -> Reply:
    return await asyncio.to_thread(_send, "GET", url, {}, None)


async def _read(client: S3Client, path: str) -> bytes:
    return b"".join([chunk async for chunk in client.read(path)])


async def _is_there(client: S3Client, path: str) -> bool:
    try:
        await client.head(path)
    except NoSuchS3PathError:
        return False
    return True


@pytest.mark.parametrize("key", KEYS)
async def test_presigned_requests_of_any_key(client: S3Client, bucket: str, key: str) -> None:
    path = f"{bucket}/{key}"
    reply = await _put(client.presign_put(path, len(DATA), CRC, 60), DATA)
    assert reply.status == 200, reply
    assert (await client.head(path)).crc64nvme == CRC
    assert await _get(client.presign_get(path, 60)) == Reply(200, reply.etag, DATA)


async def test_presigned_put_of_no_bytes(client: S3Client, path: str) -> None:
    assert (await _put(client.presign_put(path, 0, crc64nvme(b""), 60), b"")).status == 200
    found = await client.head(path)
    assert (found.size, found.crc64nvme) == (0, crc64nvme(b""))


async def test_presigned_put_may_be_repeated(client: S3Client, path: str) -> None:
    request = client.presign_put(path, len(DATA), CRC, 60)
    assert [(await _put(request, DATA)).status for _ in range(2)] == [200, 200]


async def test_presigned_put_refuses_other_bytes(client: S3Client, path: str) -> None:
    request = client.presign_put(path, len(DATA), CRC, 60)
    assert (await _put(request, DATA[::-1])).status == 400
    assert not await _is_there(client, path)


async def test_presigned_put_refuses_another_size_before_it_reads_the_bytes(client: S3Client, path: str) -> None:
    request = client.presign_put(path, len(DATA), CRC, 60)
    assert (await _put(request, DATA + b"more")).status == 403
    assert not await _is_there(client, path)


async def test_presigned_put_refuses_another_checksum(client: S3Client, path: str) -> None:
    request = client.presign_put(path, len(DATA), CRC, 60)
    other = DATA[::-1]
    changed = client.presign_put(path, len(other), crc64nvme(other), 60).headers
    assert (await _put(request, other, changed)).status == 403
    assert not await _is_there(client, path)


@pytest.mark.parametrize("name", ["x-amz-checksum-crc64nvme", "x-amz-sdk-checksum-algorithm"])
async def test_presigned_put_refuses_a_missing_header(client: S3Client, path: str, name: str) -> None:
    request = client.presign_put(path, len(DATA), CRC, 60)
    fewer = {header: value for header, value in request.headers.items() if header != name}
    assert len(fewer) == len(request.headers) - 1
    assert (await _put(request, DATA, fewer)).status == 403
    assert not await _is_there(client, path)


async def test_presigned_get_serves_one_path_only(client: S3Client, bucket: str, path: str) -> None:
    await client.put(path, DATA)
    await client.put(f"{bucket}/secret", DATA)
    url = client.presign_get(path, 60)
    assert (await _get(url.replace(path, f"{bucket}/secret"))).status == 403


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("out/seqtats.tsv", "seqtats.tsv"),
        ("out/a b+c;d.txt", "a b+c;d.txt"),
        ("out/Größe 🧬.tsv", "Gr__e _.tsv"),
        ('out/it\'s "5%" \\.html', "it's _5__ _.html"),
    ],
)
async def test_a_download_keeps_its_name_whatever_it_is(client: S3Client, bucket: str, key: str, plain: str) -> None:
    await client.put(f"{bucket}/{key}", DATA)
    response = await asyncio.to_thread(urlopen, client.presign_get(f"{bucket}/{key}", 60, download=True), timeout=10)
    with response:
        assert response.read() == DATA
        assert response.headers["content-type"] == "application/octet-stream"
        kind, filename, extended = re.fullmatch(
            r"(attachment); filename=\"([^\"]*)\"; filename\*=UTF-8''(\S+)", response.headers["content-disposition"]
        ).groups()
        assert (kind, filename, unquote(extended)) == ("attachment", plain, key.removeprefix("out/"))


async def test_expired_presigned_get(stack: EmbeddedStack, client: S3Client, path: str) -> None:
    await client.put(path, DATA)
    config = S3Config(stack.s3.url, stack.s3.access_key, SecretStr(stack.s3.secret_key))
    async with S3Client.create(config, clock=lambda: time.time() - 120) as earlier:
        assert (await _get(earlier.presign_get(path, 300))).status == 200
        assert (await _get(earlier.presign_get(path, 60))).status == 403


async def test_many_urls_are_those_of_each(client: S3Client, bucket: str) -> None:
    paths = [f"{bucket}/{number}" for number in range(1200)]
    urls = await client.presign_gets(paths, 60)
    assert [urlsplit(url).path for url in urls] == [f"/{path}" for path in paths]


async def test_upload_in_parts(client: S3Client, path: str) -> None:
    upload_id, requests = await client.start_multipart(path, SPECS, 60)
    replies = [await _put(request, part) for request, part in zip(requests, PARTS, strict=True)]
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert not await _is_there(client, path)

    etags = [reply.etag for reply in replies]
    await client.complete_multipart(path, upload_id, etags, WHOLE)
    found = await client.head(path)
    assert (found.size, found.crc64nvme) == (sum(map(len, PARTS)), WHOLE)
    assert await _read(client, path) == b"".join(PARTS)

    # Once more: the answer was lost, or two processes of the service were asked.
    await client.complete_multipart(path, upload_id, etags, WHOLE)
    await client.abort_multipart(path, upload_id)
    assert (await client.head(path)).crc64nvme == WHOLE


@pytest.mark.parametrize("quoted", [True, False])
async def test_parts_checksums_and_bare_etags_are_taken(client: S3Client, path: str, quoted: bool) -> None:
    upload_id, requests = await client.start_multipart(path, SPECS, 60)
    etags = [(await _put(request, part)).etag for request, part in zip(requests, PARTS, strict=True)]
    await client.complete_multipart(
        path,
        upload_id,
        etags if quoted else [etag.strip('"') for etag in etags],
        WHOLE,
        part_checksums=[spec.crc64nvme for spec in SPECS],
    )
    assert (await client.head(path)).crc64nvme == WHOLE


async def test_a_part_of_other_bytes_is_refused(client: S3Client, path: str) -> None:
    upload_id, requests = await client.start_multipart(path, SPECS, 60)
    assert (await _put(requests[0], PARTS[1])).status == 400
    await client.abort_multipart(path, upload_id)


async def test_a_wrong_checksum_of_the_whole(client: S3Client, path: str) -> None:
    upload_id, requests = await client.start_multipart(path, SPECS, 60)
    etags = [(await _put(request, part)).etag for request, part in zip(requests, PARTS, strict=True)]
    with pytest.raises(ChecksumMismatchError, match=path):
        await client.complete_multipart(path, upload_id, etags, CRC)
    assert not await _is_there(client, path)
    await client.complete_multipart(path, upload_id, etags, WHOLE)


async def test_parts_that_were_not_sent(client: S3Client, path: str) -> None:
    upload_id, requests = await client.start_multipart(path, SPECS, 60)
    etag = (await _put(requests[0], PARTS[0])).etag
    with pytest.raises(ChecksumMismatchError, match=path):
        await client.complete_multipart(path, upload_id, [etag, etag, etag], WHOLE)
    await client.abort_multipart(path, upload_id)


async def test_an_upload_that_is_not_there_any_more(client: S3Client, path: str) -> None:
    upload_id, _ = await client.start_multipart(path, SPECS, 60)
    for _ in range(2):
        await client.abort_multipart(path, upload_id)
    with pytest.raises(NoSuchS3PathError, match=path):
        await client.complete_multipart(path, upload_id, ["e"], WHOLE)
    # The object is there although the upload is not: completed by somebody, if it is the right object.
    await client.put(path, DATA)
    await client.complete_multipart(path, upload_id, ["e"], CRC)
    with pytest.raises(ChecksumMismatchError, match=path):
        await client.complete_multipart(path, upload_id, ["e"], WHOLE)


@pytest.mark.parametrize("count", [0, 10_001])
async def test_a_number_of_parts_that_no_store_takes(client: S3Client, path: str, count: int) -> None:
    with pytest.raises(IllegalParameterError, match=f"in {count} parts"):
        await client.start_multipart(path, [PartSpec(5 << 20, CRC)] * count, 60)


async def test_the_largest_number_of_parts(client: S3Client, path: str) -> None:
    upload_id, requests = await client.start_multipart(path, [PartSpec(5 << 20, CRC)] * 10_000, 60)
    assert len({request.url for request in requests}) == 10_000
    assert "partNumber=10000&" in requests[-1].url
    # As many parts as there can be make a body of about a megabyte. None has been sent.
    with pytest.raises((ChecksumMismatchError, NoSuchS3PathError), match=path):
        await client.complete_multipart(path, upload_id, ["0" * 32] * 10_000, WHOLE)
    await client.abort_multipart(path, upload_id)


async def test_a_failed_upload_leaves_no_parts(
    stack: EmbeddedStack, client: S3Client, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ChecksumMismatchError("as a store that finds the whole wrong")

    monkeypatch.setattr(uploading, "PART_SIZE", 5 << 20)
    monkeypatch.setattr(multipart, "complete", refuse)
    file = tmp_path / "file"
    file.write_bytes(b"".join(PARTS))
    with pytest.raises(ChecksumMismatchError):
        await client.upload_file(f"{bucket}/left/over", file)

    async with get_session().create_client(
        "s3",
        endpoint_url=stack.s3.url,
        aws_access_key_id=stack.s3.access_key,
        aws_secret_access_key=stack.s3.secret_key,
        region_name="us-east-1",
    ) as other:
        uploads = (await other.list_multipart_uploads(Bucket=bucket)).get("Uploads", [])
    assert [upload for upload in uploads if upload["Key"].startswith("left/")] == []
