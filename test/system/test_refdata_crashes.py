"""Whatever dies while reference data is staged or retired: it comes to its right end, and nothing else is left."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cdmtaskservice.embedded.refdata_service import EmbeddedRefdataService
from cdmtaskservice.embedded.service import EmbeddedService
from test.stand_ins.held_wire import HeldWire
from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import QUICK
from test.system.driver import Driver, until
from test.system.mortal import kept_alive
from test.system.refdata_room import QUICK_REFDATA, Refdata, files_below, left_by_staging, random_files, tar_gz
from test.system.test_crashes import REPO
from test.system.through_jaws import LAWRENCIUM, QUICK_JAWS, jaws_service

SETTINGS = QUICK | QUICK_REFDATA
FILES = random_files(6_000_000)
DEATHS_WHILE_STAGING = [
    "insert_staging",
    "register",
    "note_staging",
    "set_staging",
    "move_staging:download_submitted",
    "claim_errand",
    "release_staging",
    "end_errand",
    "move_staging:complete",
]
DEATHS_WHILE_RETIRING = ["retire", "note_staging", "claim_errand", "end_errand", "release_staging"]
DEATHS_AT_NERSC = ["begin_task:refdata", "note_staging", "move_staging:download_submitted", "move_staging:complete"]
DEATHS_OF_A_REFDATA_SERVICE = ["work", "begin", "progress", "follow", "update"]


def dying(home: Path, death: str) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    return {"CTS_DIE_AFTER": death, "CTS_DIE_MARKER": str(home / "died"), "PYTHONPATH": REPO}


def mortal_service(stack, home: Path, death: str) -> EmbeddedService:
    settings = SETTINGS | dying(home, death)
    return EmbeddedService(stack, home, settings, command=["-m", "test.system.dying_service"])


async def registered_whatever_happens(refdata: Refdata, file: str) -> str:
    """Register a file, again after no answer, as a careful administrator does."""

    async def registered() -> str | None:
        with contextlib.suppress(httpx.TransportError):
            client = refdata.driver.client("admin")
            reply = await client.post(f"/admin/refdata/{file}", params={"unpack": True})
            if reply.status_code == 200:
                return str(reply.json()["id"])
            if reply.status_code == 400 and reply.json()["error"]["appcode"] == 50100:
                [found] = (await client.get(f"/refdata/path/{file}")).json()["data"]
                return str(found["id"])
            assert reply.status_code == 503, reply.text
        return None

    return await until(registered, "the file is registered")


@pytest.mark.parametrize("death", DEATHS_WHILE_STAGING)
async def test_kill_9_of_the_service(stack, home: Path, s3, seqtool_image, death: str):
    service = mortal_service(stack, home, death)
    async with kept_alive(service), Driver(service, s3, seqtool_image) as driver:
        refdata = Refdata(driver)
        refdata_id = await registered_whatever_happens(refdata, await refdata.put(tar_gz(FILES)))
        await refdata.over(refdata_id)
        assert (home / "died").exists(), "the service was to die and did not"
        assert files_below(home / "refdata" / refdata_id) == FILES
        assert left_by_staging(home / "refdata") == [f"{refdata_id}/{name}" for name in FILES]
        assert [r["id"] for r in (await driver.admin("/admin/refdata"))["data"]] == [refdata_id]


@pytest.mark.parametrize("death", DEATHS_WHILE_RETIRING)
async def test_kill_9_while_it_is_retired(stack, home: Path, s3, seqtool_image, death: str):
    plain = EmbeddedService(stack, home, SETTINGS)
    plain.start()
    async with Driver(plain, s3, seqtool_image) as driver:
        refdata = Refdata(driver)
        refdata_id = await refdata.register(await refdata.put(tar_gz(FILES)))
        await refdata.over(refdata_id)
    await asyncio.to_thread(plain.stop)
    service = mortal_service(stack, home, death)
    async with kept_alive(service), Driver(service, s3, seqtool_image) as driver:
        refdata = Refdata(driver)

        async def removed() -> bool:
            with contextlib.suppress(httpx.TransportError):
                reply = await driver.client("admin").delete(f"/admin/refdata/{refdata_id}")
                assert reply.status_code in {204, 503}, reply.text
                return "removed_on" in await refdata.at(refdata_id)
            return False

        await until(removed, "it is removed", 60)
        assert (home / "died").exists(), "the service was to die and did not"
        assert left_by_staging(home / "refdata") == []


@pytest.mark.parametrize("death", DEATHS_AT_NERSC)
async def test_kill_9_of_the_service_while_it_is_staged_at_nersc(
    stack, home: Path, s3, seqtool_image, nersc: NerscSite, death: str
):
    settings = SETTINGS | QUICK_JAWS | dying(home, death) | {"KBCTS_LOCAL_REFDATA_DIR": ""}
    service = jaws_service(stack, home, nersc, settings, command=["-m", "test.system.dying_service"])
    async with kept_alive(service), Driver(service, s3, seqtool_image) as driver:
        refdata = Refdata(driver)
        refdata_id = await registered_whatever_happens(refdata, await refdata.put(tar_gz(FILES)))
        await refdata.over(refdata_id, LAWRENCIUM)
        assert (home / "died").exists(), "the service was to die and did not"
        assert files_below(nersc.refdata_dir / "cts" / refdata_id) == FILES
        assert files_below(nersc.layout.refdata_at("jgi") / "cts" / refdata_id) == FILES


@contextlib.asynccontextmanager
async def beside_a_service(stack, home: Path, s3, image, **overrides: str) -> AsyncIterator[Refdata]:
    """A service whose local site waits for a reference data service."""
    service = EmbeddedService(stack, home, SETTINGS | {"KBCTS_LOCAL_REFDATA_BY": "refdata_service"} | overrides)
    service.start()
    try:
        async with Driver(service, s3, image) as driver:
            yield Refdata(driver)
    finally:
        await asyncio.to_thread(service.stop)


@pytest.mark.parametrize("death", DEATHS_OF_A_REFDATA_SERVICE)
async def test_kill_9_of_a_refdata_service(stack, home: Path, s3, seqtool_image, death: str):
    async with (
        HeldWire(stack.s3_store.port, after=15_000_000) as wire,
        beside_a_service(stack, home, s3, seqtool_image, KBCTS_S3_EXTERNAL_ENDPOINT=wire.url) as refdata,
    ):
        refdata_id = await refdata.register(await refdata.put(tar_gz(random_files(30_000_000))))
        helper = EmbeddedRefdataService(
            refdata.driver.service,
            "local",
            home / "refdata",
            dying(home, death),
            command=["-m", "test.system.dying_refdata_service"],
        )
        async with kept_alive(helper):
            if death in {"work", "begin", "progress"}:
                await until(lambda: has_died(home), "it has died")
            wire.release()
            await refdata.over(refdata_id)
            await until(lambda: has_died(home), "it has died")
            await until(lambda: nothing_but_four_files(home / "refdata"), "the one that came back has tidied up")


async def test_kill_9_of_what_does_the_work(stack, home: Path, s3, seqtool_image):
    async with beside_a_service(stack, home, s3, seqtool_image) as refdata:
        refdata_id = await refdata.register(await refdata.put(tar_gz(random_files(30_000_000))))
        helper = EmbeddedRefdataService(refdata.driver.service, "local", home / "refdata")
        helper.start()
        try:
            [pid] = await until(lambda: workers(helper.pid), "it works")
            os.kill(pid, signal.SIGKILL)
            status = await refdata.over(refdata_id)
            assert status["state"] == "complete"
            await until(lambda: nothing_but_four_files(home / "refdata"), "it has tidied up")
        finally:
            helper.stop()


async def test_another_refdata_service_takes_over(stack, home: Path, s3, seqtool_image):
    """Two of them work for one directory; the one that has the work is suspended, and the other one does it."""
    async with beside_a_service(stack, home, s3, seqtool_image) as refdata:
        both = [
            EmbeddedRefdataService(refdata.driver.service, "local", home / "refdata", name=name) for name in ("a", "b")
        ]
        file = await refdata.put(tar_gz(random_files(30_000_000)))
        try:
            both[0].start()
            refdata_id = await refdata.register(file)
            [worker] = await until(lambda: workers(both[0].pid), "it works")
            both[0].suspend()
            os.kill(worker, signal.SIGKILL)
            both[1].start()
            await refdata.over(refdata_id)
            both[0].resume()  # what it still has to tell is refused
            again = await refdata.register(await refdata.put(tar_gz(FILES)))
            await refdata.over(again)
            assert (await refdata.at(refdata_id))["state"] == "complete"
        finally:
            for helper in both:
                helper.kill()


async def has_died(home: Path) -> bool:
    return (home / "died").exists()


async def nothing_but_four_files(root: Path) -> bool:
    return len(left_by_staging(root)) == 4


async def workers(parent: int | None) -> list[int]:
    """The processes that a reference data service has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found
