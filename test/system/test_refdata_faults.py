"""Reference data that cannot be staged, or not now; what administrators see of it and do; and what jobs are told."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.embedded.refdata_service import EmbeddedRefdataService
from cdmtaskservice.embedded.service import EmbeddedService
from test.stand_ins.held_wire import HeldWire
from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import QUICK, new_home
from test.system.driver import Driver, until
from test.system.refdata_room import (
    QUICK_REFDATA,
    Refdata,
    files_below,
    left_by_staging,
    push_reftool,
    random_files,
    tar_gz,
)
from test.system.through_jaws import LAWRENCIUM, PERLMUTTER, QUICK_JAWS, jaws_service
from test.unit import archive_files as pack

SETTINGS = QUICK | QUICK_REFDATA
LIMITS = {"KBCTS_REFDATA__MAX_FILES": "50", "KBCTS_REFDATA__MAX_UNPACKED": "50MB"}
AWAY = 6.0
"""Seconds for which S3 is away: longer than a transfer waits for it."""


@pytest.fixture(scope="module")
async def limited(stack, s3, seqtool_image) -> AsyncIterator[Refdata]:
    """One service with low limits, for all tests that leave it as it is."""
    service = EmbeddedService(stack, new_home(stack), SETTINGS | LIMITS)
    service.start()
    async with Driver(service, s3, seqtool_image) as driver:
        await driver.ready()
        yield Refdata(driver)
    await asyncio.to_thread(service.stop)


@contextlib.asynccontextmanager
async def served(stack, home: Path, s3, image, **overrides: str) -> AsyncIterator[Refdata]:
    """A service of the test's own."""
    service = EmbeddedService(stack, home, SETTINGS | overrides)
    service.start()
    try:
        async with Driver(service, s3, image) as driver:
            await driver.ready()
            yield Refdata(driver)
    finally:
        await asyncio.to_thread(service.stop)


def store_of(refdata: Refdata) -> Path:
    return refdata.driver.service.home.parent / "refdata"


# What is refused

ESCAPED = f"/tmp/cts-escaped-{uuid.uuid4().hex}"
GOOD = pack.member("db/good", b"ACGT")
DEVICE = tarfile.TarInfo("db/null")
DEVICE.type, DEVICE.devmajor, DEVICE.devminor = tarfile.CHRTYPE, 1, 3
PIPE = tarfile.TarInfo("db/pipe")
PIPE.type = tarfile.FIFOTYPE
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "absolute": ("x.tar.gz", pack.tar_gz(GOOD, pack.member(ESCAPED, b"x")), ESCAPED),
    "upwards": ("x.tgz", pack.tar_gz(GOOD, pack.member("db/../../x", b"x")), "db/../../x"),
    "link out": ("x.tar.gz", pack.tar_gz(GOOD, pack.symlink("db/out", "../../x")), "db/out"),
    "through a link": (
        "x.tar.gz",
        pack.tar_gz(GOOD, pack.symlink("d", "db"), pack.member("d/x", b"x")),
        "d/x",
    ),
    "hard link out": ("x.tar.gz", pack.tar_gz(GOOD, pack.hard_link("h", "/etc/passwd")), "h"),
    "device": ("x.tar.gz", pack.tar_gz(GOOD, (DEVICE, b"")), "db/null"),
    "pipe": ("x.tar.gz", pack.tar_gz(GOOD, (PIPE, b"")), "db/pipe"),
    "bomb": ("x.gz", pack.zeros_gz(60), "bytes"),
    "zip bomb": ("x.zip", pack.zipped(("a", bytes(60_000_000))), "bytes"),
    "zstd bomb": ("x.tar.zst", pack.zstd(pack.tar(pack.member("a", bytes(60_000_000)))), "bytes"),
    "too many": ("x.tar.gz", pack.tar_gz(*(pack.member(f"f{n}", b"x") for n in range(60))), "50"),
    "cut off": ("x.tar.gz", pack.tar_gz(pack.member("a", os.urandom(100_000)))[:50_000], "not a whole"),
    "no archive": ("x.tar.gz", b"<html>sign in</html>", "not a whole"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_archives_are_refused_and_leave_nothing(limited: Refdata, kind: str):
    name, data, words = HOSTILE[kind]
    before = everything_below(store_of(limited).parent)
    refdata_id = await limited.register(await limited.put(data, name))
    status = await limited.over(refdata_id, state="error")
    assert words in status["error"], status
    assert name in status["error"]
    assert "progress" not in status
    await until(lambda: as_before(store_of(limited).parent, before), "nothing is left, wherever it was to be")
    assert not os.path.lexists(ESCAPED)
    # It is refused again, and not by what is remembered of it.
    assert await limited.call("PUT", f"{refdata_id}/local/recover") == (204, None)
    await until(lambda: tries(limited, refdata_id, 2), "it was tried again")
    again = await limited.over(refdata_id, state="error")
    assert again["error"] == status["error"]


def everything_below(root: Path) -> set[str]:
    """Everything but directories, and what services and the local site keep there."""
    kept = ("/service/", "/services/", "/work")
    return {str(f) for f in root.rglob("*") if not f.is_dir() and not any(part in str(f) for part in kept)}


async def as_before(root: Path, before: set[str]) -> bool:
    return everything_below(root) <= before


async def tries(refdata: Refdata, refdata_id: str, count: int) -> bool:
    status = await refdata.at(refdata_id)
    return [t["state"] for t in status["transition_times"]].count("error") == count


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"])
async def test_every_kind_of_archive(limited: Refdata, name: str):
    files = {"db/a": b"ACGT" * 1000, "db/empty": b"", "db/deep/er/ü": b"x"}
    members = [pack.member(path, data) for path, data in files.items()]
    data = {
        "a.tar.zst": lambda: pack.zstd(pack.tar(*members)),
        "a.zip": lambda: pack.zipped(*files.items()),
    }.get(name, lambda: pack.tar_gz(*members))()
    refdata_id = await limited.register(await limited.put(data, name))
    await limited.over(refdata_id)
    assert files_below(store_of(limited) / refdata_id) == files


async def test_a_file_that_is_not_unpacked(limited: Refdata):
    refdata_id = await limited.register(await limited.put(b"not packed", "any name.tar.gz"), unpack=False)
    await limited.over(refdata_id)
    assert files_below(store_of(limited) / refdata_id) == {"any name.tar.gz": b"not packed"}


async def test_what_cannot_be_registered(limited: Refdata):
    there = await limited.put(b"x", "a.fasta")
    bucket = there.partition("/")[0]
    assert await limited.call("POST", there, unpack=True) == (400, 30001)
    assert await limited.call("POST", there, crc64nvme="AAAAAAAAAAA=") == (400, 30030)
    assert await limited.call("POST", there, crc64nvme="short") == (400, 30010)
    assert await limited.call("POST", f"{bucket}/not/there") == (404, 40010)
    assert await limited.call("POST", "no-such-bucket/a") == (404, 40020)
    assert await limited.call("POST", "_/a") == (400, 30020)
    assert await limited.call("GET", "none") == (404, 40060)
    assert await limited.call("DELETE", "none") == (404, 40060)
    assert await limited.call("PUT", "none/local/recover") == (404, 40060)
    refdata_id = await limited.register(there, unpack=False)
    assert await limited.call("PUT", f"{refdata_id}/elsewhere/recover") == (400, 30001)
    await limited.over(refdata_id)
    assert await limited.call("PUT", f"{refdata_id}/local/recover") == (400, 30400)
    assert await limited.call("DELETE", f"{refdata_id}/local/clean") == (204, None)
    for user, status in (("ann", 403), (None, 401)):
        for method, path in (("POST", there), ("DELETE", refdata_id), ("GET", refdata_id)):
            reply = await limited.driver.client(user).request(method, f"/admin/refdata/{path}")
            assert reply.status_code == status


async def test_nobody_else_brings_data_to_where_the_service_does(limited: Refdata):
    body = {"claim": "somebody", "root": "/elsewhere", "room": 1}
    reply = await limited.driver.client("refserv").post("/external_exec/refdata/local/work", json=body)
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 100000)
    for user, status in (("admin", 403), ("executor", 403), (None, 401)):
        reply = await limited.driver.client(user).post("/external_exec/refdata/local/work", json=body)
        assert reply.status_code == status


# Faults on the way


async def test_a_file_that_has_changed_since_it_was_registered(stack, home: Path, s3, seqtool_image):
    by_another = {"KBCTS_LOCAL_REFDATA_BY": "refdata_service"}
    async with served(stack, home, s3, seqtool_image, **by_another) as refdata:
        file = await refdata.put(bytes(3_000_000))
        refdata_id = await refdata.register(file, unpack=False)
        # Nobody can have read it yet.
        status = await until(
            lambda: waits(refdata, refdata_id, "no reference data service"), "it says what it waits for"
        )
        assert status["state"] == "download_submitted"
        await s3.put(file, b"\1" + bytes(2_999_999))
        helper = EmbeddedRefdataService(refdata.driver.service, "local", home / "refdata")
        helper.start()
        try:
            status = await refdata.over(refdata_id, state="error")
            assert file in status["error"]
            assert "changed" in status["error"]
            assert left_by_staging(home / "refdata") == []
        finally:
            helper.stop()


async def waits(refdata: Refdata, refdata_id: str, words: str, site: str = "local") -> dict[str, Any] | None:
    status = await refdata.at(refdata_id, site)
    return status if words in str(status.get("waiting")) else None


@pytest.mark.parametrize("how", ["kill", "suspend"])
async def test_s3_away_for_a_while(stack, home: Path, s3, seqtool_image, how: str):
    files = random_files(40_000_000)
    async with (
        HeldWire(stack.s3_store.port, after=20_000_000) as wire,
        served(stack, home, s3, seqtool_image, KBCTS_S3_ENDPOINT=wire.url) as refdata,
    ):
        refdata_id = await refdata.register(await refdata.put(tar_gz(files)))
        await until(lambda: half_there(refdata, refdata_id), "half of it has come")
        getattr(stack.s3_store, how)()
        wire.release()
        try:
            # Not waiting for anything: this is how long it is away.
            await asyncio.sleep(AWAY)
            shown = await refdata.at(refdata_id)
        finally:
            stack.s3_store.resume()
            stack.s3_store.start()
        assert shown["state"] == "download_submitted"
        assert 10 < shown["progress"]["percent"] < 100
        assert shown["progress"]["bytes_total"] > 40_000_000
        await refdata.over(refdata_id)
        assert await asyncio.to_thread(files_below, home / "refdata" / refdata_id) == files


async def half_there(refdata: Refdata, refdata_id: str) -> bool:
    """Whether pieces of it have come, which are on the disk by now."""
    return (await refdata.at(refdata_id)).get("progress", {}).get("bytes_done", 0) > 10_000_000


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of 8 MB for the local site's reference data."""
    place = home / "refdata"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("compressed", [20_000_000, 20_000])
async def test_a_full_disk(stack, home: Path, s3, seqtool_image, small_disk: Path, compressed: int):
    """The archive does not fit, or what is in it."""
    files = random_files(compressed) if compressed > 8_000_000 else {"db/zeros": bytes(20_000_000)}
    async with served(stack, home, s3, seqtool_image) as refdata:
        refdata_id = await refdata.register(await refdata.put(tar_gz(files)))
        await until(lambda: waits(refdata, refdata_id, "no space left"), "it says what is wrong")
        assert left_by_staging(small_disk) == []
        subprocess.run(["mount", "-o", "remount,size=80m", small_disk], check=True)
        await refdata.over(refdata_id)
        assert files_below(small_disk / refdata_id) == files


async def test_two_services_stage_it_once(stack, home: Path, s3, seqtool_image):
    services = [EmbeddedService(stack, home, SETTINGS, name=name) for name in ("one", "two")]
    for service in services:
        service.start()
    try:
        async with Driver(services[1], s3, seqtool_image) as driver:
            refdata = Refdata(driver)
            registered = [await refdata.register(await refdata.put(tar_gz(random_files(20_000_000)))) for _ in range(4)]
            await asyncio.to_thread(services[0].kill)
            for refdata_id in registered:
                status = await refdata.over(refdata_id)
                assert [t["state"] for t in status["transition_times"]].count("complete") == 1
            assert len(left_by_staging(home / "refdata")) == 4 * len(registered)
    finally:
        for service in services:
            await asyncio.to_thread(service.stop)


# What administrators do


async def test_a_site_that_comes_later_is_staged_by_recover(stack, home: Path, s3, seqtool_image):
    image = push_reftool(stack)
    async with served(stack, home, s3, seqtool_image, KBCTS_LOCAL_REFDATA_DIR="") as refdata:
        refdata_id = await refdata.register(await refdata.put(tar_gz(random_files(1000))))
        assert (await refdata.driver.admin(f"/admin/refdata/{refdata_id}"))["statuses"] == []
        assert await refdata.call("PUT", f"{refdata_id}/local/recover") == (400, 100000)
        await refdata.approve(image, refdata_id)
        driver = refdata.driver
        refused = await driver.client().post("/jobs", json=driver.body(await driver.upload({"a": b"x"}), ["/ref"]))
        assert refused.status_code == 200  # another image
        body = driver.body(await driver.upload({"a": b"x"}), ["/ref"], image=image.by_tag)
        refused = await driver.client().post("/jobs", json=body)
        assert (refused.status_code, refused.json()["error"]["appcode"]) == (400, 30400)
        assert "local" in refused.json()["error"]["message"]
    async with served(stack, home, s3, seqtool_image) as refdata:
        assert await refdata.call("PUT", f"{refdata_id}/local/recover") == (204, None)
        await refdata.over(refdata_id)
        job_id = await refdata.driver.submit(body["input_files"], ["/ref"], image=image.by_tag)
        await refdata.driver.over(job_id)


async def test_cleaning_stops_what_goes_on_and_recovering_begins_anew(stack, home: Path, s3, seqtool_image):
    files = random_files(40_000_000)
    async with (
        HeldWire(stack.s3_store.port, after=20_000_000) as wire,
        served(stack, home, s3, seqtool_image, KBCTS_S3_ENDPOINT=wire.url) as refdata,
    ):
        refdata_id = await refdata.register(await refdata.put(tar_gz(files)))
        await until(lambda: half_there(refdata, refdata_id), "half of it has come")
        assert " MB/s" in await cts(refdata, "show", refdata_id)
        assert await refdata.call("DELETE", f"{refdata_id}/local/clean") == (400, 30400)
        assert await refdata.call("DELETE", f"{refdata_id}/local/clean", force=True) == (204, None)
        status = await refdata.over(refdata_id, state="error")
        assert "administrator" in status["error"]
        await until(lambda: cleaned(refdata, refdata_id), "it is cleaned")
        assert left_by_staging(home / "refdata") == []
        wire.release()
        assert await refdata.call("PUT", f"{refdata_id}/local/recover") == (204, None)
        await refdata.over(refdata_id)
        assert await asyncio.to_thread(files_below, home / "refdata" / refdata_id) == files


async def cleaned(refdata: Refdata, refdata_id: str) -> bool:
    return bool((await refdata.at(refdata_id))["cleaned"])


async def test_a_lost_disk_is_made_good(limited: Refdata):
    files = random_files(4000)
    refdata_id = await limited.register(await limited.put(tar_gz(files)))
    await limited.over(refdata_id)
    shutil.rmtree(store_of(limited) / refdata_id)
    assert await limited.call("PUT", f"{refdata_id}/local/recover") == (400, 30400)
    assert await limited.call("PUT", f"{refdata_id}/local/recover", force=True) == (204, None)
    await limited.over(refdata_id)
    assert files_below(store_of(limited) / refdata_id) == files


async def test_it_is_not_retired_while_a_job_may_use_it(limited: Refdata):
    driver = limited.driver
    image = push_reftool(driver.service.stack)
    refdata_id = await limited.register(await limited.put(tar_gz(random_files(1000))))
    await limited.over(refdata_id)
    await limited.approve(image, refdata_id, mount_point=None)
    files = await driver.upload({"a": b"x"})
    reply = await driver.client().post("/jobs", json=driver.body(files, ["/ref"], image=image.by_tag))
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 30000)
    # Waits for the CPUs, which another job has until it is canceled.
    slow = await driver.submit(files, ["sleep", "60"], cpus=os.cpu_count())
    job_id = await driver.submit(files, ["/db"], image=image.by_tag, params={"refdata_mount_point": "/db"})
    assert (await driver.client("admin").delete(f"/admin/images/{image.by_tag}")).status_code == 204
    reply = await driver.client("admin").delete(f"/admin/refdata/{refdata_id}")
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 30400)
    assert job_id in reply.json()["error"]["message"]
    assert (await driver.client().put(f"/jobs/{slow}/cancel")).status_code == 204
    await driver.over(job_id)
    assert await limited.call("DELETE", refdata_id) == (204, None)
    assert (await driver.client(None).get(f"/refdata/id/{refdata_id}")).json()["retired_by"] == "admin"


async def test_the_command_line(limited: Refdata):
    file = await limited.put(tar_gz(random_files(1000)))
    refdata_id = (await cts(limited, "register", file, "--unpack")).strip()
    await cts(limited, "watch", refdata_id, "--interval", "0.1")
    [row] = [line.split("\t") for line in (await cts(limited, "show", refdata_id)).splitlines()]
    assert row == [refdata_id, file, "local", "complete", "", "", "4", ""]
    assert refdata_id in await cts(limited, "list")
    shown = json.loads(await cts(limited, "show", refdata_id, "--json"))
    assert shown == await limited.driver.admin(f"/admin/refdata/{refdata_id}")
    await cts(limited, "clean", refdata_id, "local")
    assert "staged at local already" in await cts(limited, "recover", refdata_id, "local", code=1)
    await cts(limited, "retire", refdata_id)


async def cts(refdata: Refdata, *words: str, code: int = 0) -> str:
    """What `cts refdata` prints."""
    service = refdata.driver.service
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cdmtaskservice.cli", "refdata", *words),
        env={"CTS_URL": service.url, "CTS_TOKEN_FILE": str(service.token_file("admin")), "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == code, out.decode()
    return out.decode()


# JAWS


@contextlib.asynccontextmanager
async def at_nersc(stack, home: Path, s3, image, nersc: NerscSite) -> AsyncIterator[Refdata]:
    service = jaws_service(stack, home, nersc, SETTINGS | QUICK_JAWS | {"KBCTS_LOCAL_REFDATA_DIR": ""})
    service.start()
    try:
        async with Driver(service, s3, image) as driver:
            yield Refdata(driver)
    finally:
        await asyncio.to_thread(service.stop)


async def test_jaws_that_does_not_copy_at_first(stack, home: Path, s3, seqtool_image, nersc: NerscSite):
    files = random_files(4000)
    async with at_nersc(stack, home, s3, seqtool_image, nersc) as refdata:
        nersc.switch(hold_copies=True)
        refdata_id = await refdata.register(await refdata.put(tar_gz(files)))
        await refdata.over(refdata_id, PERLMUTTER)
        status = await until(lambda: waits(refdata, refdata_id, "JAWS has not copied", LAWRENCIUM), "it waits for JAWS")
        assert status["state"] == "download_submitted"
        nersc.switch(copy_fails=True, hold_copies=False)
        await refdata.over(refdata_id, LAWRENCIUM)
        assert files_below(nersc.layout.refdata_at("jgi") / "cts" / refdata_id) == files
        assert not list(nersc.refdata_dir.glob("*_changes.txt"))


async def test_nersc_away_while_it_is_staged(stack, home: Path, s3, seqtool_image, nersc: NerscSite):
    files = random_files(30_000_000)
    async with at_nersc(stack, home, s3, seqtool_image, nersc) as refdata:
        refdata_id = await refdata.register(await refdata.put(tar_gz(files)))
        await until(lambda: begun(refdata, refdata_id), "it is begun")
        nersc.kill()
        # Not waiting for anything: this is how long it is away.
        await asyncio.sleep(AWAY)
        nersc.start()
        await asyncio.gather(*(refdata.over(refdata_id, site) for site in (PERLMUTTER, LAWRENCIUM)))
        assert await asyncio.to_thread(files_below, nersc.refdata_dir / "cts" / refdata_id) == files


async def begun(refdata: Refdata, refdata_id: str) -> bool:
    return bool((await refdata.at(refdata_id, PERLMUTTER))["nersc_download_task_id"])
