"""A store of our own: with accounts that may do little, and taken away and brought back."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from cdmtaskservice.domain.errors import (
    DependencyUnavailableError,
    NoSuchS3PathError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
)
from cdmtaskservice.embedded.part import Launcher
from cdmtaskservice.embedded.stack import S3Store
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import PartSpec, S3Config

ACCOUNTS = {
    "owner": ["Admin", "Read", "Write", "List", "Tagging"],
    "reader": ["Read:shared", "List:shared"],
    "worker": ["Read:shared/in/*", "Write:shared/out/*"],
}


@pytest.fixture(scope="module")
def store(parts: Path) -> Iterator[S3Store]:
    home = Path(tempfile.mkdtemp(prefix="cts-s3-"))
    launcher = Launcher()
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
        for name, actions in ACCOUNTS.items()
    ]
    (home / "identities.json").write_text(json.dumps({"identities": identities}))
    store = S3Store(home, home / "log", launcher)
    try:
        store.start()
        yield store
    finally:
        store.kill()
        launcher.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
async def clients(store: S3Store) -> AsyncIterator[dict[str, S3Client]]:
    url = f"http://127.0.0.1:{store.port}"
    async with AsyncExitStack() as opened:
        clients = {
            name: await opened.enter_async_context(S3Client.create(S3Config(url, name, SecretStr(f"{name}-secret"))))
            for name in ACCOUNTS
        }
        for bucket in ("shared", "private"):
            await clients["owner"].create_bucket(bucket)
        for path in ("shared/in/a", "shared/out/a", "private/a"):
            await clients["owner"].put(path, b"1234")
        yield clients


async def _read(client: S3Client, path: str) -> bytes:
    return b"".join([chunk async for chunk in client.read(path)])


async def test_an_account_that_may_do_little_is_no_fault_of_the_store(clients: dict[str, S3Client]) -> None:
    for client in clients.values():
        await client.check()


async def test_denied_paths_are_named(clients: dict[str, S3Client]) -> None:
    reader, worker = clients["reader"], clients["worker"]
    assert (await reader.head("shared/in/a")).size == 4
    assert await _read(worker, "shared/in/a") == b"1234"
    for attempt, path in (
        (reader.head("private/a"), "private/a"),
        (reader.head("private/none"), "private/none"),
        (reader.put("shared/in/b", b""), "shared/in/b"),
        (reader.delete(["shared/in/a"]), "shared/in/a"),
        (reader.start_multipart("shared/in/a", [PartSpec(1, crc64nvme(b"1"))], 60), "shared/in/a"),
        (reader.abort_multipart("shared/in/a", "id"), "shared/in/a"),
        (reader.complete_multipart("shared/in/a", "id", ["e"], crc64nvme(b"")), "shared/in/a"),
        (worker.head("shared/out/a"), "shared/out/a"),
        (worker.head_many(["shared/in/a", "shared/out/a", "private/a"]), "shared/out/a"),
        (_read(worker, "private/a"), "private/a"),
    ):
        with pytest.raises(S3PathInaccessibleError, match=f"'{path}'"):
            await attempt
    assert (await clients["owner"].head("shared/in/a")).size == 4


async def test_denied_buckets_are_named(clients: dict[str, S3Client]) -> None:
    await clients["reader"].check_bucket("shared")
    with pytest.raises(S3BucketInaccessibleError, match="'private'"):
        await clients["reader"].check_bucket("private")
    with pytest.raises(S3BucketInaccessibleError, match="'another'"):
        await clients["reader"].create_bucket("another")


async def test_writability_is_that_of_the_prefix(clients: dict[str, S3Client]) -> None:
    # This account may not even look at the bucket, but it may write to one place in it.
    await clients["worker"].check_writable("shared/out/deeper/")
    for name, prefix in (
        ("worker", "shared/in/"),
        ("worker", "shared"),
        ("reader", "shared/out/"),
        ("reader", "private"),
    ):
        with pytest.raises(S3BucketInaccessibleError, match=f"'{prefix}'"):
            await clients[name].check_writable(prefix)


async def test_a_missing_object_is_not_hidden_from_who_may_read(clients: dict[str, S3Client]) -> None:
    with pytest.raises(NoSuchS3PathError):
        await clients["worker"].head("shared/in/none")


async def test_a_store_that_hangs_goes_away_and_comes_back(store: S3Store, clients: dict[str, S3Client]) -> None:
    client = clients["owner"]
    paths = ["shared/in/a"] * 500
    assert len(await client.head_many(paths)) == 500

    store.suspend()
    begin = time.monotonic()
    with pytest.raises(DependencyUnavailableError):
        await client.head_many(paths)
    assert time.monotonic() - begin < 7
    store.resume()
    assert len(await client.head_many(paths)) == 500

    store.kill()
    begin = time.monotonic()
    with pytest.raises(DependencyUnavailableError):
        await client.head_many(paths)
    assert time.monotonic() - begin < 7
    await asyncio.to_thread(store.start)
    # The same client, with whatever connections it has kept.
    assert len(await client.head_many(paths)) == 500
    assert await _read(client, "shared/in/a") == b"1234"


async def test_a_short_absence_is_not_noticed(store: S3Store, clients: dict[str, S3Client]) -> None:
    async def hang_briefly() -> None:
        store.suspend()
        await asyncio.sleep(1)
        store.resume()

    async with asyncio.TaskGroup() as group:
        group.create_task(hang_briefly())
        heads = group.create_task(clients["owner"].head_many(["shared/in/a"] * 200))
    assert len(heads.result()) == 200
