"""Looking at, reading, writing and removing objects of a real store."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from pydantic import SecretStr

from cdmtaskservice.domain.errors import (
    DependencyUnavailableError,
    IllegalS3PathError,
    NoSuchBucketError,
    NoSuchS3PathError,
)
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3 import uploading
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config, S3Object

KEYS = [
    "plain.txt",
    "a/deep/er/path.fa.gz",
    "with blank.txt",
    " leading and trailing ",
    "plus+plus",
    "per%cent %41 %2F",
    "hash#tag",
    "what?",
    "a&b=c&d",
    "equals=",
    'quote"quote',  # and no backslash, which SeaweedFS takes for a slash
    "(brackets)[and]{more}",
    "comma,colon:at@dollar$bang!star*",
    "tilde~caret^pipe|back`tick",
    "<xml>&amp;</xml>",
    "Schrödinger/Größe-½",
    "日本語/ファイル",
    "emoji-🧬",
    "combining-e\u0301",
    "dots...and..dots",
    ".hidden",
    "k" * 200,
]


@pytest.fixture(scope="module")
async def client(stack: EmbeddedStack) -> AsyncIterator[S3Client]:
    account = stack.s3
    async with S3Client.create(S3Config(account.url, account.access_key, SecretStr(account.secret_key))) as client:
        yield client


@pytest.fixture(scope="module")
async def other(stack: EmbeddedStack) -> AsyncIterator[Any]:
    """Another S3 client than ours, to see what is really there."""
    account = stack.s3
    async with get_session().create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
    ) as other:
        yield other


@pytest.fixture(scope="module")
async def bucket(client: S3Client) -> str:
    # One for all: each bucket takes some of the embedded store's few volumes.
    name = f"test-{uuid.uuid4().hex}"
    await client.create_bucket(name)
    return name


@pytest.fixture(scope="module")
async def empty_bucket(client: S3Client) -> str:
    name = f"test-{uuid.uuid4().hex}"
    await client.create_bucket(name)
    return name


async def _read(client: S3Client, path: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in client.read(path, offset, length)])


async def test_store_is_there(client: S3Client) -> None:
    await client.check()


async def test_wrong_credentials_are_the_services_fault(stack: EmbeddedStack) -> None:
    for access, code in (
        ("nobody", "InvalidAccessKeyId"),
        (stack.s3.access_key, "SignatureDoesNotMatch"),
    ):
        async with S3Client.create(S3Config(stack.s3.url, access, SecretStr("wrong-secret"))) as stranger:
            # A HEAD has no body that would tell what is wrong, and still it must not look like the user's fault.
            for attempt in (
                stranger.check(),
                stranger.head("bucket/key"),
                stranger.check_bucket("bucket"),
                stranger.put("bucket/key", b""),
            ):
                with pytest.raises(DependencyUnavailableError, match=code) as failure:
                    await attempt
                assert "wrong-secret" not in failure.value.message


async def test_wrong_clock_is_the_services_fault(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    config = S3Config(stack.s3.url, stack.s3.access_key, SecretStr(stack.s3.secret_key))
    moment = datetime.datetime.fromtimestamp(1_000_000_000, datetime.UTC)
    monkeypatch.setattr("botocore.crt.auth.get_current_datetime", lambda **_: moment)
    async with S3Client.create(config, clock=moment.timestamp) as late:
        with pytest.raises(DependencyUnavailableError, match=r"RequestTimeTooSkewed.*clock"):
            await late.head("bucket/key")


async def test_making_a_bucket_twice(client: S3Client, bucket: str) -> None:
    await client.create_bucket(bucket)
    await client.check_bucket(bucket)


@pytest.mark.parametrize("key", KEYS)
async def test_any_key_goes_there_and_back(client: S3Client, other: Any, bucket: str, key: str) -> None:
    path, data = f"{bucket}/{key}", key.encode()
    put = await client.put(path, data)
    assert put == S3Object(path, len(data), crc64nvme(data), put.etag)
    assert await client.head(path) == put
    assert await _read(client, path) == data

    listed = await other.list_objects_v2(Bucket=bucket)
    assert key in [each["Key"] for each in listed["Contents"]]
    seen = await other.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    assert seen["ChecksumCRC64NVME"] == put.crc64nvme
    assert seen["ETag"].strip('"') == put.etag

    await client.delete([path])
    with pytest.raises(NoSuchS3PathError):
        await client.head(path)


async def test_object_that_another_client_wrote_without_a_checksum(
    client: S3Client, stack: EmbeddedStack, bucket: str
) -> None:
    account = stack.s3
    async with get_session().create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
        config=AioConfig(request_checksum_calculation="when_required"),
    ) as old:
        await old.put_object(Bucket=bucket, Key="old", Body=b"1234")
    found = await client.head(f"{bucket}/old")
    assert (found.size, found.crc64nvme) == (4, None)


async def test_missing_object_and_missing_bucket_differ(client: S3Client, bucket: str) -> None:
    with pytest.raises(NoSuchS3PathError, match=f"'{bucket}/none'"):
        await client.head(f"{bucket}/none")
    with pytest.raises(NoSuchBucketError, match="'no-such-bucket'"):
        await client.head("no-such-bucket/none")
    with pytest.raises(NoSuchBucketError, match="'no-such-bucket'"):
        await client.check_bucket("no-such-bucket")
    with pytest.raises(NoSuchS3PathError, match=f"'{bucket}/none'"):
        await _read(client, f"{bucket}/none")
    with pytest.raises(NoSuchBucketError, match="'no-such-bucket'"):
        await _read(client, "no-such-bucket/none")


@pytest.mark.parametrize("path", ["bucket", "bucket/", "/key", ""])
async def test_a_path_without_a_key_touches_no_bucket(client: S3Client, path: str) -> None:
    for attempt in (
        client.head(path),
        client.delete([path]),
        client.put(path, b""),
        client.start_multipart(path, [], 60),
        client.abort_multipart(path, "id"),
        client.complete_multipart(path, "id", [], "AAAAAAAAAAA="),
        _read(client, path),
    ):
        with pytest.raises(IllegalS3PathError):
            await attempt


async def test_many_objects_in_order(client: S3Client, bucket: str) -> None:
    paths = [f"{bucket}/many/{number}" for number in range(150)]
    await asyncio.gather(*(client.put(path, path.encode()) for path in paths))
    found = await client.head_many([*paths, paths[3]], concurrency=16)
    assert [each.path for each in found] == [*paths, paths[3]]
    assert [each.crc64nvme for each in found[:-1]] == [crc64nvme(path.encode()) for path in paths]
    assert await client.head_many([]) == []


async def test_the_first_missing_object_is_told(client: S3Client, bucket: str) -> None:
    await client.put(f"{bucket}/there", b"")
    paths = [f"{bucket}/there"] * 300
    for at in (299, 211, 97):
        paths[at] = f"{bucket}/missing-{at}"
        for _ in range(5):
            with pytest.raises(NoSuchS3PathError, match=f"missing-{at}'"):
                await client.head_many(paths)
    paths[50] = "no-such-bucket/key"
    with pytest.raises(NoSuchBucketError, match="no-such-bucket"):
        await client.head_many(paths)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 4, b"0123"),
        (4, None, b"456789"),
        (4, 3, b"456"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (10, None, b""),
        (10, 5, b""),
        (99, None, b""),
        (0, 0, b""),
    ],
)
async def test_ranges(client: S3Client, bucket: str, offset: int, length: int | None, expected: bytes) -> None:
    await client.put(f"{bucket}/digits", b"0123456789")
    assert await _read(client, f"{bucket}/digits", offset, length) == expected


@pytest.mark.parametrize(("offset", "length"), [(0, None), (0, 5), (3, None)])
async def test_nothing_to_read(client: S3Client, bucket: str, offset: int, length: int | None) -> None:
    await client.put(f"{bucket}/empty", b"")
    assert await _read(client, f"{bucket}/empty", offset, length) == b""


async def test_stored_bytes_are_read_as_they_are(client: S3Client, other: Any, bucket: str) -> None:
    await other.put_object(Bucket=bucket, Key="log", Body=b"not gzip at all", ContentEncoding="gzip")
    assert await _read(client, f"{bucket}/log") == b"not gzip at all"


async def test_a_reader_may_stop_early(client: S3Client, bucket: str) -> None:
    await client.put(f"{bucket}/large", bytes(5_000_000))
    stream = client.read(f"{bucket}/large")
    assert 0 < len(await anext(stream)) <= 1 << 18
    await stream.aclose()
    assert len(await _read(client, f"{bucket}/large")) == 5_000_000


async def test_the_first_object_below_a_prefix(client: S3Client, bucket: str) -> None:
    await client.put(f"{bucket}/below/Größe + more/b", b"")
    await client.put(f"{bucket}/below/Größe + more/a", b"")
    await client.put(f"{bucket}/below/beside", b"")
    for prefix in ("below/Größe + more", "below/Größe + more/"):
        assert await client.first_below(f"{bucket}/{prefix}") == f"{bucket}/below/Größe + more/a"
    assert await client.first_below(f"{bucket}/below") == f"{bucket}/below/Größe + more/a"
    for prefix in ("below/Gr", "below/besid", "below/beside", "elsewhere/"):
        assert await client.first_below(f"{bucket}/{prefix}") is None
    for whole in (bucket, f"{bucket}/"):
        assert str(await client.first_below(whole)).startswith(f"{bucket}/")
    with pytest.raises(NoSuchBucketError, match="'no-such-bucket'"):
        await client.first_below("no-such-bucket/x")


async def test_a_mark_of_a_directory_is_no_file(client: S3Client, other: Any, bucket: str) -> None:
    await other.put_object(Bucket=bucket, Key="marked/inner/", Body=b"")
    assert await client.first_below(f"{bucket}/marked") is None
    await client.put(f"{bucket}/marked/inner/file", b"")
    assert await client.first_below(f"{bucket}/marked") == f"{bucket}/marked/inner/file"


async def test_removing_is_idempotent(client: S3Client, bucket: str) -> None:
    paths = [f"{bucket}/gone-{number}" for number in range(100)]
    await asyncio.gather(*(client.put(path, b"") for path in paths[::2]))
    await client.delete(paths)
    await client.delete([*paths, "no-such-bucket/key"])
    with pytest.raises(NoSuchS3PathError):
        await client.head(paths[0])


@pytest.mark.parametrize("prefix", ["", "/", "/some/prefix", "/some/prefix/", "/Größe + more/"])
async def test_proof_of_writability_leaves_nothing(
    client: S3Client, other: Any, empty_bucket: str, prefix: str
) -> None:
    await client.check_writable(empty_bucket + prefix)
    assert "Contents" not in await other.list_objects_v2(Bucket=empty_bucket)
    assert "Uploads" not in await other.list_multipart_uploads(Bucket=empty_bucket)


async def test_proof_of_writability_makes_no_bucket(client: S3Client) -> None:
    name = f"test-{uuid.uuid4().hex}"
    with pytest.raises(NoSuchBucketError, match=name):
        await client.check_writable(f"{name}/prefix/")
    with pytest.raises(NoSuchBucketError, match=name):
        await client.check_bucket(name)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
async def test_small_file(client: S3Client, bucket: str, tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"s" * size)
    sent = await client.upload_file(f"{bucket}/file", file)
    assert (sent.size, sent.crc64nvme) == (size, crc64nvme(b"s" * size))
    assert await client.head(f"{bucket}/file") == sent


async def test_large_file_goes_in_parts(
    client: S3Client, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PART_SIZE", 5 << 20)
    data = b"".join(bytes([number]) * (1 << 20) for number in range(17)) + b"rest"
    file = tmp_path / "file"
    file.write_bytes(data)
    sent = await client.upload_file(f"{bucket}/file", file)
    assert (sent.size, sent.crc64nvme) == (len(data), crc64nvme(data))
    assert sent.etag.endswith("-4")
    assert await _read(client, f"{bucket}/file") == data


async def test_missing_file(client: S3Client, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await client.upload_file(f"{bucket}/file", tmp_path / "none")
