"""Makes the pictures of the user guide, of the real pages of a real service:

    python -m test.system.screenshots docs/images

A minute on a machine that has the parts (`make test` fetches them).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.async_api import Browser

from cdmtaskservice.cli.demo_story import s3_client
from cdmtaskservice.embedded.image import Pushed, push_seqtool
from cdmtaskservice.embedded.service import BUCKET, LOG_BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack, default_parts
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.jobs import JobStore
from test.system.big_job import insert_big_job
from test.system.conftest import QUICK
from test.system.driver import Driver
from test.system.web_room import PHONE, chromium, surfing

WINDOW = {"width": 1120, "height": 760}
LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}


async def main(directory: Path) -> None:
    """Make all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="cts-shots-"))
    try:
        with EmbeddedStack(root, default_parts()) as stack:
            image = push_seqtool(stack.registry, stack.parts)
            async with s3_client(stack) as s3:
                for bucket in (BUCKET, LOG_BUCKET):
                    await s3.create_bucket(bucket)
                service = EmbeddedService(stack, root / "h0", QUICK)
                service.start()
                try:
                    await _all(service, s3, image, stack.parts, directory)
                finally:
                    service.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def _all(service: EmbeddedService, s3: S3Client, image: Pushed, parts: Path, directory: Path) -> None:
    async with Driver(service, s3, image) as driver, chromium(parts) as browser:
        await driver.ready()
        jobs = await _jobs(driver)
        form = f"/ui/submit?from={jobs['stats']}"
        shots: list[tuple[str, str, str, Mapping[str, Any]]] = [
            ("jobs", "ann", "/ui/jobs", {}),
            ("job-running", "ann", f"/ui/jobs/{jobs['going']}", {}),
            ("job-grid", "ann", f"/ui/jobs/{jobs['big']}", {}),
            ("log", "ann", f"/ui/jobs/{jobs['tick']}/containers/0", {}),
            ("submit", "ann", form, {"viewport": {"width": 1120, "height": 1000}}),
            ("admin-jobs", "admin", "/ui/admin/jobs", {}),
            ("phone-dark", "ann", f"/ui/jobs/{jobs['stats']}", {"viewport": PHONE, "color_scheme": "dark"}),
        ]
        for name, user, path, options in shots:
            await _shot(driver, browser, name, user, path, options, directory)
        await driver.client().put(f"/jobs/{jobs['tick']}/cancel")


async def _jobs(driver: Driver) -> dict[str, str]:
    reads = {f"reads/sample{n}.fasta": f">seq{n}\n{'ACGT' * 200}\n".encode() for n in range(6)}
    files = await driver.upload(reads)
    listed = {"params": {"declobber": True}, "tags": ["genomes", "paper-2"]}
    stats = await driver.submit(files, ["stats", LISTED], name="Genome statistics", num_containers=3, **listed)
    await driver.over(stats)
    failing = await driver.submit(files[:2], ["fail", "3"], name="Annotation of two genomes", tags=["genomes"])
    await driver.over(failing, "error")
    big = await insert_big_job(driver.service, driver.image)
    going = await insert_big_job(driver.service, driver.image, over=False, name="Assembly of a thousand reads")
    tick = await driver.submit(files[:1], ["tick", "600", "0.2"], name="Counting", runtime=900)
    await driver.reached(tick, "job_submitted")
    database = Database.connect(driver.service.stack.mongo_uri, f"cts-{driver.service.home.parent.name}", 10)
    await JobStore(database).set_fields(going, {"waiting": "The S3 store does not answer: connection refused"})
    database.close()
    return {"stats": stats, "failing": failing, "big": big, "going": going, "tick": tick}


async def _shot(
    driver: Driver,
    browser: Browser,
    name: str,
    user: str,
    path: str,
    options: Mapping[str, Any],
    directory: Path,
) -> None:
    async with surfing(driver, browser, user, **{"viewport": WINDOW, "reduced_motion": "reduce", **options}) as surfer:
        await surfer.go(path)
        if name == "log":
            await surfer.says("#log", "tick 20 of")
        shown = surfer.page.locator("#containers") if name == "job-grid" else surfer.page
        await shown.screenshot(path=directory / f"{name}.png")
    print(f"{name}: {(directory / f'{name}.png').stat().st_size // 1000} kB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
