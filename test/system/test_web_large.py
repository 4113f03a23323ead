"""A job of a thousand containers and ten thousand files on its pages: bounded, quick to use, and whole."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser

from test.system.big_job import CONTAINERS, FILES, insert_big_job
from test.system.driver import Driver
from test.system.web_room import PHONE, surfing

MOST = 300_000
"""Bytes of any of its pages."""


@pytest.fixture(scope="module")
async def big(shared: Driver) -> str:
    """Such a job, that has ended."""
    return await insert_big_job(shared.service, shared.image)


async def test_its_page(shared: Driver, chromium: Browser, big: str):
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await surfer.go(f"/ui/jobs/{big}")
        assert len(await page.content()) < MOST
        assert await page.locator(".grid .cell").count() == CONTAINERS
        assert await page.locator(".grid .cell.bad").count() == 12
        assert await page.locator("table.failed tbody tr").count() == 10
        assert "the first 10 of 12" in await surfer.text("table.failed caption")
        assert await page.locator("#outputs li").count() == 10
        await surfer.turn("text=✕ error 12")
        assert await page.locator(".grid .cell").count() == 12
        await page.click("text=all 1")
        await page.wait_for_url(f"**/{big}#containers")
        # One stop for Tab; arrows move by cells and rows, and what it is about is said.
        assert await page.locator(".grid .cell[tabindex='0']").count() == 1
        await page.focus(".grid .cell[tabindex='0']")
        below = """() => { const cells = [...document.querySelectorAll(".grid .cell")];
            return cells.findIndex((c) => c.offsetTop > cells[0].offsetTop); }"""
        row = await page.evaluate(below)
        for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowUp"):
            await page.keyboard.press(key)
        assert await page.evaluate("document.activeElement.ariaLabel") == f"{row + 1} complete"
        assert await surfer.text("#grid-tip") == f"Container {row + 1} complete"
        await page.keyboard.press("End")
        assert await page.evaluate("document.activeElement.ariaLabel") == "999 complete"
        await page.keyboard.press("Enter")
        await surfer.says("h1", "Container 999")
        await surfer.says("#log-state", "There is no stdout log")


async def test_its_files_are_on_pages(shared: Driver, chromium: Browser, big: str):
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await surfer.go(f"/ui/jobs/{big}")
        await page.click("section:has(#inputs) >> text=all 10")
        await surfer.says("main", "1 to 200 of 10,000 files")
        assert len(await page.content()) < MOST
        await page.locator("text=Next").first.click()
        await surfer.says("main", "sample-00200.fasta")
        await surfer.go(f"/ui/jobs/{big}/files/outputs?page=50")
        await surfer.says("main", "9,801 to 10,000 of 10,000 files")
        assert await page.locator("text=Next").count() == 0
        last = await page.locator("tbody a").last.get_attribute("href")
        assert last is not None
        assert last.endswith(f"kind=outputs&n={FILES - 1}")
        await surfer.go(f"/ui/jobs/{big}/containers?state=error")
        assert await page.locator("tbody tr").count() == 12


async def test_it_fits_on_a_phone(shared: Driver, chromium: Browser, big: str):
    async with surfing(shared, chromium, "ann", viewport=PHONE) as surfer:
        for path in ("", "/containers", "/files/outputs", "/containers/83"):
            await surfer.go(f"/ui/jobs/{big}{path}")
            await surfer.fits()


async def test_ten_thousand_files_go_through_the_form(shared: Driver, chromium: Browser, big: str):
    async with surfing(shared, chromium, "ann") as surfer:
        surfer.expected = {400}
        page = surfer.page
        await surfer.go(f"/ui/submit?from={big}")
        await surfer.says("#file-count", "10,000 files")
        await page.fill("#runtime", "PT1H")
        await page.fill("#cpus", "1")
        await page.fill("#memory", "50MB")
        await page.click(".bar button[value=check]")
        await surfer.says("#fault-input_files", "sample-00000.fasta")  # they are not in S3
        await surfer.says("#file-count", "10,000 files")
        value = await page.input_value("#input_files")
        assert len(value.split("\n")) == FILES


async def test_its_live_page_moves_without_losing_the_place(shared: Driver, chromium: Browser):
    from cdmtaskservice.store.database import Database

    going = await insert_big_job(shared.service, shared.image, over=False, name="Going on")
    service = shared.service
    database = Database.connect(service.stack.mongo_uri, f"cts-{service.home.parent.name}", 10)
    try:
        async with surfing(shared, chromium, "ann") as surfer:
            page = surfer.page
            await surfer.go(f"/ui/jobs/{going}")
            await surfer.says("#live-state", "live")
            await page.focus(".grid .cell >> nth=500")
            scrolled = await page.evaluate("scrollY")
            for number in range(420, 520):
                await database.db.containers.update_one(
                    {"_id": f"{going}:{number}"}, {"$set": {"state": "upload_submitting"}}
                )
            await surfer.says("#grid", "uploading 130")
            assert await page.evaluate("document.activeElement.ariaLabel") == "500 uploading"
            assert await page.evaluate("scrollY") == scrolled
    finally:
        await database.db.jobs.update_one({"_id": going}, {"$set": {"state": "canceled"}})
        database.close()
