"""Reference data of a few hundred MB at every kind of site, and jobs there that read it in their containers."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdmtaskservice.embedded.refdata_service import EmbeddedRefdataService
from cdmtaskservice.embedded.service import BUCKET, EmbeddedService
from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import new_home
from test.system.driver import Driver, until
from test.system.pooled import QUICK_POOL, Room
from test.system.refdata_room import QUICK_REFDATA, LargeArchive, Refdata, files_below, left_by_staging, push_reftool
from test.system.through_jaws import LAWRENCIUM, PERLMUTTER, QUICK_JAWS

SITES = ["local", "kbase", PERLMUTTER, LAWRENCIUM]


@dataclass
class Everywhere:
    """A service with every kind of site, and the archive that is staged at each."""

    driver: Driver
    refdata: Refdata
    archive: LargeArchive
    file: str
    id: str
    nersc: NerscSite
    roots: dict[str, Path]


@pytest.fixture(scope="module")
async def everywhere(room: Room, nersc_site: NerscSite, tmp_path_factory) -> AsyncIterator[Everywhere]:
    archive = await asyncio.to_thread(LargeArchive, tmp_path_factory.mktemp("refdata") / "db.tar.gz")
    file = f"{BUCKET}/ref/db.tar.gz"
    await room.s3.upload_file(file, archive.file)
    settings = {
        **QUICK_POOL,
        **QUICK_JAWS,
        **QUICK_REFDATA,
        "KBCTS_REFDATA__PIECE_SIZE": "16MiB",
        "KBCTS_HTCONDOR_REFDATA_BY": "refdata_service",
        **nersc_site.settings(),
    }
    service = EmbeddedService(room.stack, new_home(room.stack), settings, pool=room.pool)
    service.start()
    helper = EmbeddedRefdataService(service, "kbase", service.refdata_dir)
    helper.start()
    try:
        async with Driver(service, room.s3, push_reftool(room.stack), "kbase") as driver:
            refdata = Refdata(driver)
            refdata_id = await refdata.register(file)
            await asyncio.gather(*(refdata.over(refdata_id, site, within=240) for site in SITES))
            roots = {
                "local": service.home.parent / "refdata",
                "kbase": service.refdata_dir,
                PERLMUTTER: nersc_site.refdata_dir / "cts",
                LAWRENCIUM: nersc_site.layout.refdata_at("jgi") / "cts",
            }
            await refdata.approve(driver.image, refdata_id)
            yield Everywhere(driver, refdata, archive, file, refdata_id, nersc_site, roots)
    finally:
        helper.stop()
        service.stop()


@pytest.mark.parametrize("site", SITES)
async def test_it_is_staged_whole(everywhere: Everywhere, site: str):
    root = everywhere.roots[site]
    sums = await asyncio.to_thread(sums_below, root / everywhere.id)
    assert sums == everywhere.archive.sums
    own = [name for name in left_by_staging(root) if everywhere.id in name]
    assert own == sorted(f"{everywhere.id}/{name.removeprefix('./')}" for name in sums)
    status = await everywhere.refdata.at(everywhere.id, site)
    assert [t["state"] for t in status["transition_times"]] == ["created", "download_submitted", "complete"]
    assert status["files"] == len(sums)
    assert status["bytes"] == 220_000_000 + 1000 * 40_000
    assert status["cleaned"]
    assert bool(status["nersc_download_task_id"]) == (site in {PERLMUTTER, LAWRENCIUM})


@pytest.mark.parametrize("site", ["local", "kbase", PERLMUTTER])
async def test_a_manifest_tells_what_there_is(everywhere: Everywhere, site: str):
    root = everywhere.roots[site]
    header, *entries = map(json.loads, (root / f".cts/manifests/{everywhere.id}.jsonl").read_text().splitlines())
    assert (header["file"], header["files"]) == (everywhere.file, 1001)
    assert {f"./{e['path']}" for e in entries} == set(everywhere.archive.sums)
    assert {e["size"] for e in entries} == {40_000, 220_000_000}


@pytest.mark.parametrize("site", SITES)
async def test_a_job_reads_it_and_cannot_write_it(everywhere: Everywhere, site: str):
    driver = everywhere.driver
    await until_available(driver, site)
    files = await driver.upload({"a": b"x"})
    # Where the job says otherwise, it is there and not where the image says.
    params = {"refdata_mount_point": "/somewhere/else"} if site == "local" else {}
    place = params.get("refdata_mount_point", "/ref")
    job_id = await driver.submit(files, [place], cluster=site, params=params)
    job = await driver.over(job_id, within=180)
    [(name, sums)] = (await driver.outputs(job)).items()
    assert name == "sums"
    assert dict(reversed(line.split("  ")) for line in sums.decode().splitlines()) == everywhere.archive.sums
    assert await driver.log(job_id) == "read-only\n"
    assert job["image"]["refdata_id"] == everywhere.id
    assert await asyncio.to_thread(sums_below, everywhere.roots[site] / everywhere.id) == everywhere.archive.sums


async def test_everybody_sees_what_there_is(everywhere: Everywhere):
    nobody = everywhere.driver.client(None)
    one = (await nobody.get(f"/refdata/id/{everywhere.id}")).json()
    assert one["file"] == everywhere.file
    assert {(s["cluster"], s["state"]) for s in one["statuses"]} == {(site, "complete") for site in SITES}
    assert "size" not in one
    assert one in (await nobody.get("/refdata")).json()["data"]
    assert (await nobody.get(f"/refdata/path/{everywhere.file}")).json() == {"data": [one]}
    assert (await nobody.get("/refdata/path/other/file")).json() == {"data": []}
    missing = await nobody.get("/refdata/id/none")
    assert (missing.status_code, missing.json()["error"]["appcode"]) == (404, 40060)


async def test_it_can_be_registered_once(everywhere: Everywhere):
    assert await everywhere.refdata.call("POST", everywhere.file, unpack=True) == (400, 50100)


async def test_it_stays_while_an_image_names_it(everywhere: Everywhere):
    assert await everywhere.refdata.call("DELETE", everywhere.id) == (400, 30400)
    assert (await everywhere.refdata.at(everywhere.id))["state"] == "complete"


async def test_retired_it_is_removed_everywhere_and_its_record_stays(everywhere: Everywhere):
    driver, refdata = everywhere.driver, everywhere.refdata
    file = await refdata.put(gzip.compress(b">a\nACGT\n" * 10_000), "genome.fa.gz")
    refdata_id = await refdata.register(file)
    for site in SITES:
        await refdata.over(refdata_id, site)
        [genome] = files_below(everywhere.roots[site] / refdata_id).items()
        assert genome == ("genome.fa", b">a\nACGT\n" * 10_000)
    assert await refdata.call("DELETE", refdata_id) == (204, None)
    assert await refdata.call("DELETE", refdata_id) == (204, None)

    async def removed() -> bool:
        told = await driver.admin(f"/admin/refdata/{refdata_id}")
        return all("removed_on" in status for status in told["statuses"])

    await until(removed, "it is removed everywhere", 90)
    for site in SITES:
        left = [f.name for f in everywhere.roots[site].rglob("*") if refdata_id in str(f)]
        assert left == ([] if site == LAWRENCIUM else [f"{refdata_id}.removed"])
    record = (await driver.client(None).get(f"/refdata/id/{refdata_id}")).json()
    assert record["retired_by"] == "admin"
    assert await refdata.call("PUT", f"{refdata_id}/local/recover") == (400, 30400)
    reply = await driver.client("admin").post(f"/admin/images/{driver.image.by_tag}", params={"refdata_id": refdata_id})
    assert reply.json()["error"]["appcode"] == 30400
    assert await refdata.register(file) != refdata_id  # what is retired does not stand in the way


def sums_below(directory: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path."""
    return {f"./{name}": hashlib.sha256(data).hexdigest() for name, data in files_below(directory).items()}


async def until_available(driver: Driver, site: str) -> None:
    async def available() -> bool:
        sites = (await driver.client().get("/sites")).json()["sites"]
        return any(s["cluster"] == site and s["available"] for s in sites)

    await until(available, f"{site} is available")
