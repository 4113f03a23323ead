"""`cts s3`, as a process, on a real store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session
from pydantic import SecretStr

from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3 import mending, uploading
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.mending import look, mend
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.s3.reading import ReplacedError
from cdmtaskservice.s3.store import Store

LARGE = os.urandom(1 << 20) * 20
KEPT = {
    "ContentType": "text/x-fasta",
    "CacheControl": "no-store",
    "ContentDisposition": 'attachment; filename="x.fa"',
    "Metadata": {"sample": "S1", "who": "ann"},
}


@dataclass
class Room:
    """A bucket, and another S3 client than ours."""

    stack: EmbeddedStack
    bucket: str
    s3: Any

    async def put(self, key: str, data: bytes, **more: Any) -> str:
        """An object without a CRC64NVME."""
        await self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, **more)
        return f"{self.bucket}/{key}"

    async def put_in_parts(self, key: str, data: bytes, size: int, **more: Any) -> str:
        at = {"Bucket": self.bucket, "Key": key}
        upload = (await self.s3.create_multipart_upload(**at, **more))["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), size), 1):
            sent = await self.s3.upload_part(**at, UploadId=upload, PartNumber=number, Body=data[start : start + size])
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        await self.s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
        return f"{self.bucket}/{key}"

    async def head(self, key: str) -> Any:
        return await self.s3.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")

    async def get(self, key: str) -> bytes:
        answer = await self.s3.get_object(Bucket=self.bucket, Key=key)
        async with answer["Body"] as body:
            return bytes(await body.read())

    async def cts(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `cts s3 checksum`."""
        return await self.cts_s3("checksum", *arguments, **environment)

    async def cts_s3(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """The same of `cts s3`."""
        account = self.stack.s3
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        keys = {
            "AWS_ENDPOINT_URL": account.url,
            "AWS_ACCESS_KEY_ID": account.access_key,
            "AWS_SECRET_ACCESS_KEY": account.secret_key,
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cdmtaskservice.cli", "s3", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in (clean | keys | environment).items() if value},
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture(scope="module")
async def s3(stack: EmbeddedStack) -> AsyncIterator[Any]:
    account = stack.s3
    async with get_session().create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
        # What it would add by itself is a checksum.
        config=_without_checksums(),
    ) as client:
        yield client


def _without_checksums() -> Any:
    from aiobotocore.config import AioConfig

    return AioConfig(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )


@pytest.fixture(scope="module")
async def room(stack: EmbeddedStack, s3: Any) -> Room:
    bucket = f"test-{uuid.uuid4().hex}"
    await s3.create_bucket(Bucket=bucket)
    return Room(stack, bucket, s3)


@pytest.fixture
async def store(stack: EmbeddedStack) -> AsyncIterator[Store]:
    account = stack.s3
    store = Store(S3Config(account.url, account.access_key, SecretStr(account.secret_key)))
    yield store
    await store.close()


def rows(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


async def test_files_are_sent_with_checksums(room: Room, tmp_path: Path) -> None:
    files = {"a b.fa": b">a\nACGT\n", "deep/er/large": LARGE, "empty": b""}
    for name, data in files.items():
        file = tmp_path / "reads" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    prefix = f"{room.bucket}/put/"
    code, out, err = await room.cts_s3("put", str(tmp_path / "reads"), f"s3://{prefix}")
    assert (code, sorted(out.splitlines())) == (0, sorted(prefix + name for name in files)), err
    assert "3 files sent" in err
    for name, data in files.items():
        assert (await room.head(f"put/{name}"))["ChecksumCRC64NVME"] == crc64nvme(data)
        assert await room.get(f"put/{name}") == data
    one = str(tmp_path / "reads" / "a b.fa")
    code, out, _ = await room.cts_s3("put", one, f"{prefix}other.fa", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"files": [{"file": f"{prefix}other.fa", "size": 8, "crc64nvme": crc64nvme(files["a b.fa"])}]},
    )


async def test_hidden_files_and_what_links_lead_to_are_sent(room: Room, tmp_path: Path) -> None:
    for name in ("reads/.hidden/.x", "elsewhere/deep/y"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "reads" / "one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "reads" / "two").symlink_to("../elsewhere/deep")
    (tmp_path / "reads" / "z").symlink_to("../elsewhere/deep/y")
    prefix = f"{room.bucket}/linked/"
    code, out, err = await room.cts_s3("put", str(tmp_path / "reads"), prefix)
    names = [".hidden/.x", "one/deep/y", "two/y", "z"]
    assert (code, sorted(out.splitlines())) == (0, [prefix + name for name in names]), err
    assert await room.get("linked/one/deep/y") == b"elsewhere/deep/y"


async def test_what_cannot_be_sent_is_refused_before_anything_is(room: Room, tmp_path: Path) -> None:
    for name in ("one/x", "two/x", "it's"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "bare").mkdir()
    one, two, quoted = (str(tmp_path / name) for name in ("one/x", "two/x", "it's"))
    prefix = f"{room.bucket}/refused/"
    for words, code, told in (
        ([one, two, prefix], 1, "would both become"),
        ([one, str(tmp_path / "bare"), prefix], 1, "no files below"),
        ([one, str(tmp_path / "none"), prefix], 1, "There is no file"),
        ([one, quoted, prefix], 1, "it's"),
        ([str(tmp_path / "one"), prefix.rstrip("/")], 2, "write a / at its end"),
        ([one, two, prefix + "k"], 2, "write a / at its end"),
    ):
        done = await room.cts_s3("put", *words)
        assert (done[0], done[1]) == (code, ""), done
        assert told in done[2]
    with pytest.raises(Exception, match="404"):
        await room.head("refused/x")
    code, _, err = await room.cts_s3("put", one, prefix, AWS_SECRET_ACCESS_KEY="wrong")
    assert (code, "does not accept your keys" in err) == (1, True), err
    code, _, err = await room.cts_s3("put", one, "no-such-bucket-here/x")
    assert (code, "no-such-bucket-here" in err) == (1, True), err


async def test_what_lacks_a_checksum_is_told_and_given_one(room: Room) -> None:
    small = await room.put("t1/in/a b.fa", b">a\nACGT\n", **KEPT)
    await room.put("t1/in/empty", b"")
    await room.put_in_parts("t1/in/large", LARGE, 6 << 20, **KEPT)
    with_one = b"has one"
    await room.put("t1/in/z", with_one, ChecksumAlgorithm="CRC64NVME")
    await room.put("t1/other", b"not asked for")

    code, out, err = await room.cts(f"{room.bucket}/t1/in/")
    assert code == 1
    assert err == "3 of 4 files have no CRC64NVME; --add gives them one\n"
    told = [
        [small, "8", "lacking", ""],
        [f"{room.bucket}/t1/in/empty", "0", "lacking", ""],
        [f"{room.bucket}/t1/in/large", str(len(LARGE)), "lacking", ""],
        [f"{room.bucket}/t1/in/z", "7", "complete", crc64nvme(with_one)],
    ]
    assert rows(out) == told
    untouched = await room.head("t1/in/z")

    code, out, err = await room.cts("--add", f"s3://{room.bucket}/t1/in/", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "files": [
            {"file": small, "size": 8, "crc64nvme": crc64nvme(b">a\nACGT\n"), "added": True},
            {"file": f"{room.bucket}/t1/in/empty", "size": 0, "crc64nvme": crc64nvme(b""), "added": True},
            {"file": f"{room.bucket}/t1/in/large", "size": len(LARGE), "crc64nvme": crc64nvme(LARGE), "added": True},
            {"file": f"{room.bucket}/t1/in/z", "size": 7, "crc64nvme": crc64nvme(with_one)},
        ]
    }
    for key, data in (("t1/in/a b.fa", b">a\nACGT\n"), ("t1/in/large", LARGE)):
        head = await room.head(key)
        assert head["ChecksumCRC64NVME"] == crc64nvme(data)
        assert {name: head[name] for name in KEPT} == KEPT
        assert await room.get(key) == data
    assert (await room.head("t1/in/z"))["LastModified"] == untouched["LastModified"]
    assert "ChecksumCRC64NVME" not in await room.head("t1/other")
    assert (await room.s3.list_multipart_uploads(Bucket=room.bucket)).get("Uploads", []) == []

    code, out, err = await room.cts(f"{room.bucket}/t1/in/large")
    assert (code, rows(out)[0][2], err) == (0, "complete", "")


async def test_what_is_not_there_is_told_beside_what_is(room: Room) -> None:
    there = await room.put("t2/a", b"x", ChecksumAlgorithm="CRC64NVME")
    code, out, err = await room.cts(there, f"{room.bucket}/t2/none", "--add")
    assert code == 1
    assert [row[2] for row in rows(out)] == ["complete", "error"]
    assert "There is no file at S3 path" in rows(out)[1][3]
    assert err == "1 of 2 files have no CRC64NVME\n"
    code, out, err = await room.cts(f"{room.bucket}/t2/nothing/")
    assert (code, out, err) == (1, "", f"There is nothing below {room.bucket}/t2/nothing/\n")
    code, out, err = await room.cts("no-such-bucket-here/x/")
    assert (code, out) == (1, "")
    assert "There is no S3 bucket" in err


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 1, "does not accept your keys (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, 1, "does not accept your keys (InvalidAccessKeyId)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 1, "There are no S3 keys: set AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": ""}, 2, "--endpoint or AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, 1, "cannot be used"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 3, "not available"),
        ({"AWS_PROFILE": "nobody"}, 1, "nobody"),
    ],
)
async def test_a_store_that_cannot_be_asked(room: Room, environment: dict[str, str], code: int, said: str) -> None:
    path = await room.put("t3/a", b"x")
    ended, out, err = await room.cts(path, **environment)
    assert (ended, out) == (code, ""), err
    assert said in err
    assert err.count("\n") == 1


async def test_keys_and_store_from_aws_files(room: Room, tmp_path: Path) -> None:
    account = room.stack.s3
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url = {account.url}\nregion = us-east-1\n")
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {account.access_key}\naws_secret_access_key = {account.secret_key}\n"
    )
    path = await room.put("t4/a", b"x", ChecksumAlgorithm="CRC64NVME")
    nothing = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    code, out, err = await room.cts(path, "--profile", "mine", **nothing, **files)
    assert (code, err) == (0, ""), err
    assert rows(out)[0][0] == path


@pytest.mark.parametrize("path", ["bucket", "/key", "s3://bucket", ""])
async def test_what_is_no_path_is_wrong_usage(room: Room, path: str) -> None:
    code, out, err = await room.cts(path)
    assert (code, out) == (2, "")
    assert "write BUCKET/KEY" in err


@pytest.mark.parametrize("part_size", [1 << 30, 5 << 20], ids=["whole", "parts"])
@pytest.mark.parametrize("when", ["before", "while it is read", "at last"])
async def test_what_is_replaced_meanwhile_stays_as_it_is(
    room: Room, store: Store, when: str, part_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PART_SIZE", part_size)
    key, new = f"t5/{uuid.uuid4().hex}", b"somebody else's"
    path = await room.put(key, LARGE)
    found = await look(store, path)
    if when == "before":
        await room.put(key, new)
    name = "read_object" if when == "while it is read" else "_unchanged"
    real: Any = getattr(mending, name)

    async def reading(*arguments: Any) -> AsyncIterator[bytes]:
        async for chunk in real(*arguments):
            yield chunk
        await room.put(key, new)

    async def looking(*arguments: Any) -> None:
        await real(*arguments)
        await room.put(key, new)

    if when != "before":
        monkeypatch.setattr(mending, name, reading if name == "read_object" else looking)
    with pytest.raises(ReplacedError):
        await mend(store, found)
    assert await room.get(key) == new
    assert (await room.s3.list_multipart_uploads(Bucket=room.bucket)).get("Uploads", []) == []


async def test_bytes_that_went_wrong_on_their_way_replace_nothing(
    room: Room, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await room.put("t6/a", LARGE)
    parts = await room.put_in_parts("t6/b", LARGE, 6 << 20)
    real: Any = mending.read_object
    reads = []

    async def reading(*arguments: Any) -> AsyncIterator[bytes]:
        reads.append(arguments)
        first = len(reads) % 2
        async for chunk in real(*arguments):
            yield bytes(len(chunk)) if first else chunk

    monkeypatch.setattr(mending, "read_object", reading)
    for path, key in ((whole, "t6/a"), (parts, "t6/b")):
        with pytest.raises(mending.ChecksumMismatchError, match="other bytes the second time"):
            await mend(store, await look(store, path))
        assert await room.get(key) == LARGE
        assert "ChecksumCRC64NVME" not in await room.head(key)


async def test_an_answer_that_is_lost_is_no_failure(room: Room, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write is done, and what is told is that the object is not the one that it should replace."""
    path = await room.put("t7/a", b"x" * 100)
    call: Any = store.call

    async def lost(operation: str, *arguments: Any, **more: Any) -> Any:
        answer = await call(operation, *arguments, **more)
        if operation == "put_object":
            raise mending.RefusedError(path, 412, "PreconditionFailed")
        return answer

    monkeypatch.setattr(store, "call", lost)
    assert (await mend(store, await look(store, path))).crc64nvme == crc64nvme(b"x" * 100)


async def test_a_store_without_conditions(room: Room, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await room.put("t8/a", b"x" * 100)
    call: Any = store.call

    async def old(operation: str, *arguments: Any, **more: Any) -> Any:
        if operation == "put_object" and "IfMatch" in more:
            raise mending.RefusedError(path, 501, "NotImplemented")
        return await call(operation, *arguments, **more)

    monkeypatch.setattr(store, "call", old)
    assert (await mend(store, await look(store, path))).crc64nvme == crc64nvme(b"x" * 100)


async def test_tags_stay(room: Room, store: Store) -> None:
    path = await room.put("t9/a", b"tagged", Tagging="project=rice&kind=a%20b")
    await mend(store, await look(store, path))
    tags = (await room.s3.get_object_tagging(Bucket=room.bucket, Key="t9/a"))["TagSet"]
    assert {t["Key"]: t["Value"] for t in tags} == {"project": "rice", "kind": "a b"}


async def test_tags_stay_that_a_head_does_not_count(room: Room, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await room.put("t10/a", b"tagged", Tagging="project=rice")
    call: Any = store.call

    async def silent(operation: str, *arguments: Any, **more: Any) -> Any:
        answer = await call(operation, *arguments, **more)
        return {name: value for name, value in answer.items() if name != "TagCount"}

    monkeypatch.setattr(store, "call", silent)
    assert (await mend(store, await look(store, path))).crc64nvme == crc64nvme(b"tagged")
    tags = (await room.s3.get_object_tagging(Bucket=room.bucket, Key="t10/a"))["TagSet"]
    assert tags == [{"Key": "project", "Value": "rice"}]


@pytest.mark.parametrize(
    ("status", "code", "mended"),
    [
        (403, "AccessDenied", False),
        (404, "NoSuchTagSet", True),
        (405, "MethodNotAllowed", True),
        (501, "NotImplemented", True),
        (400, "NotImplemented", True),
    ],
)
async def test_a_store_that_does_not_tell_tags(
    room: Room, store: Store, status: int, code: str, mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"t11/{status}-{code}"
    path = await room.put(key, b"x" * 100)
    call: Any = store.call

    async def without(operation: str, *arguments: Any, **more: Any) -> Any:
        if operation == "get_object_tagging":
            raise mending.RefusedError(path, status, code)
        return await call(operation, *arguments, **more)

    monkeypatch.setattr(store, "call", without)
    found = await look(store, path)
    if mended:
        assert (await mend(store, found)).crc64nvme == crc64nvme(b"x" * 100)
    else:
        with pytest.raises(mending.TagsHiddenError):
            await mend(store, found)
        assert await look(store, path) == found


async def test_more_than_a_page_is_found(store: Store) -> None:
    """A list comes in pages of a thousand."""
    pages = [
        {"Contents": [{"Key": "p/a", "Size": 1}, {"Key": "p/", "Size": 0}], "IsTruncated": True}
        | {"NextContinuationToken": "t"},
        {"Contents": [{"Key": "p/b", "Size": 0}], "IsTruncated": False},
    ]
    asked: list[dict[str, Any]] = []

    class Pages:
        async def call(self, operation: str, path: str, deadline: float, /, **params: Any) -> dict[str, Any]:
            asked.append({"operation": operation, "path": path, **params})
            return pages[len(asked) - 1]

    assert [path async for path in mending.below(Pages(), "b/p/")] == ["b/p/a", "b/p/b"]  # type: ignore[arg-type]
    assert asked == [
        {"operation": "list_objects_v2", "path": "b", "Prefix": "p/"},
        {"operation": "list_objects_v2", "path": "b", "Prefix": "p/", "ContinuationToken": "t"},
    ]


@pytest.mark.parametrize(
    ("answer", "crc", "composite"),
    [
        ({"ChecksumCRC64NVME": "S8AXmd7A3f8=", "ChecksumType": "FULL_OBJECT"}, "S8AXmd7A3f8=", False),
        ({"ChecksumCRC64NVME": "S8AXmd7A3f8="}, "S8AXmd7A3f8=", False),
        ({"ChecksumCRC64NVME": "S8AXmd7A3f8=", "ChecksumType": "COMPOSITE"}, None, True),
        ({"ChecksumCRC64NVME": "S8AXmd7A3f8=-3"}, None, True),
        ({"ChecksumSHA256": "x"}, None, False),
    ],
)
async def test_only_the_checksum_of_all_bytes_counts(answer: dict[str, Any], crc: str | None, composite: bool) -> None:
    class One:
        async def call(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {"ContentLength": 5, "ETag": '"e"', **answer}

    found = await look(One(), "b/k")  # type: ignore[arg-type]
    assert (found.crc64nvme, found.composite) == (crc, composite)
