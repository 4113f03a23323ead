"""The pages in a real browser, on the real service: what administrators do with them."""

from __future__ import annotations

import io
import tarfile
import uuid

from playwright.async_api import Browser

from cdmtaskservice.embedded.image import build_image, push, shell_image
from cdmtaskservice.embedded.service import BUCKET, EmbeddedService
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.jobs import JobStore
from test.system.big_job import insert_big_job
from test.system.driver import Driver
from test.system.web_room import surfing


def database_of(service: EmbeddedService) -> Database:
    """The service's own database."""
    return Database.connect(service.stack.mongo_uri, f"cts-{service.home.parent.name}", 10)


async def test_approving_an_image_by_its_digest(shared: Driver, chromium: Browser):
    stack = shared.service.stack
    tool = push(stack.registry, "tools/web", "1.0", build_image(shell_image(stack.parts, b"#!/bin/sh\nexit 0\n")))
    bare = push(stack.registry, "tools/bare", "1.0", build_image(shell_image(stack.parts)))
    async with surfing(shared, chromium, "admin") as surfer:
        surfer.expected = {400}
        page = surfer.page
        await surfer.go("/ui/admin/images")
        for name, words in (
            (bare.by_tag, "has no entrypoint"),
            (f"{tool.name}:none", "knows no such repository, tag or digest"),
            ("not a name", "is not"),
        ):
            await page.fill("#image", name)
            await page.click("text=Ask the registry")
            await surfer.says("#fault-image", words)
        await page.fill("#image", tool.by_tag)
        await page.click("text=Ask the registry")
        assert await surfer.text("#digest") == tool.digest
        assert "/usr/local/bin/tool" in await surfer.text("#found")
        assert tool.name not in (await shared.client().get("/images")).text
        await page.fill("#urls", "ftp://example.org")
        await page.fill("#usage_notes", "Needs 2 GB.\nAsk <ann> & ben.")
        await page.click("text=Approve this digest")
        await surfer.says("#fault-urls", "URL scheme should be")
        await page.fill("#urls", "https://example.org/web")
        # The tag may move meanwhile: then what was shown is not what would be approved.
        moved = push(stack.registry, "tools/web", "1.0", build_image(shell_image(stack.parts, b"#!/bin/sh\nexit 1\n")))
        await page.click("text=Approve this digest")
        await surfer.says("[role=alert]", "points to")
        assert moved.digest in await surfer.text("[role=alert]")
        assert await surfer.text("#digest") == moved.digest
        await page.click("text=Approve this digest")
        await surfer.says("[role=status]", "The image is approved")
        shown = (await shared.client().get(f"/images/{moved.by_tag}")).json()
        assert (shown["digest"], shown["usage_notes"]) == (moved.digest, "Needs 2 GB.\nAsk <ann> & ben.")
        await surfer.go(f"/ui/submit?image={moved.by_tag}")
        assert await surfer.text("#image-facts .notes") == "Needs 2 GB.\nAsk <ann> & ben."
        await surfer.go("/ui/admin/images")
        await page.click(f"[aria-label='Withdraw {moved.by_tag}']")
        await surfer.says("main", moved.digest)
        await page.click("button.danger")
        await surfer.says("[role=status]", "withdrawn")
    assert moved.name not in (await shared.client().get("/images")).text


async def test_closing_and_opening_a_site(shared: Driver, chromium: Browser):
    async with surfing(shared, chromium, "admin") as surfer, surfing(shared, chromium, "ann") as user:
        await surfer.go("/ui/sites")
        await user.go("/ui/sites")
        await user.says("#list", "available")
        await surfer.page.click("[aria-label='Close local']")
        await surfer.page.click("button.danger")
        await surfer.says("[role=status]", "closed for new jobs")
        try:
            assert (await shared.site_shown())["active"] is False
            await user.says("#list", "closed")  # by itself
            assert await user.page.locator("[aria-label='Close local']").count() == 0
        finally:
            await surfer.page.click("[aria-label='Open local']")
        await surfer.says("[role=status]", "open for new jobs")
    assert (await shared.site_shown())["active"] is True


async def test_reference_data_from_registering_to_retiring(shared: Driver, chromium: Browser):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        entry = tarfile.TarInfo("db/index.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"index"))
    path = f"{BUCKET}/refdata/{uuid.uuid4().hex[:8]}.tar.gz"
    await shared.s3.put(path, data.getvalue())
    async with surfing(shared, chromium, "admin") as surfer, surfing(shared, chromium, "ann") as user:
        surfer.expected = {400}
        page = surfer.page
        await surfer.go("/ui/admin/refdata")
        if not await page.is_visible("#file"):
            await page.click("text=Register a file")
        await page.fill("#file", f"{BUCKET}/refdata/nothing.tar.gz")
        await page.click("button.primary")
        await surfer.says("#fault-file", "nothing.tar.gz")
        await page.fill("#file", path)
        await page.check("#unpack")
        await page.click("button.primary")
        await surfer.says("[role=status]", "is registered")
        refdata_id = page.url.partition("?")[0].rpartition("/")[2]
        await surfer.says("#list", "complete")  # by itself
        assert "1, 5 B" in await surfer.text("#list")
        await user.go(f"/ui/refdata/{refdata_id}")
        await user.says("#list", "complete")
        assert await user.page.locator("text=Recover").count() == 0
        await page.click("[aria-label='Recover at local']")
        await page.check("#force")
        await page.click("button.danger")
        await surfer.says("[role=status]", "staged anew")
        await surfer.says("#list .heading", "complete")
        await page.click("[aria-label='Clean at local']")
        await page.click("button.danger")
        await surfer.says("[role=status]", "being removed")
        await page.click("text=Retire …")
        await page.click("button.danger")
        await surfer.says("main", "can be used no more")
        await surfer.says("#list", "Removed")


async def test_somebodys_job(shared: Driver, chromium: Browser):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    job_id = await shared.submit(files, ["fail", "7"], name="Looked at by an administrator")
    await shared.over(job_id, "error")
    async with surfing(shared, chromium, "admin") as surfer:
        page = surfer.page
        await surfer.go("/ui/admin/jobs?user=ann&q=Looked+at")
        await page.click("text=Looked at by an administrator")
        await surfer.says("#admin-alerts", "exit code 7")
        await page.fill("#key", "ticket")
        await page.fill("#value", "7")
        await page.click("button[value=set]")
        await surfer.says("[role=status]", "notes are changed")
        assert (await shared.status(job_id))["admin_meta"] == {"ticket": 7}
        await page.fill("#key", "ticket")
        await page.click("button[value=unset]")
        await surfer.says("[role=status]", "notes are changed")
        assert (await shared.status(job_id))["admin_meta"] == {}
        await page.select_option("#state-again", "job_submitted")
        await page.click("text=Publish again")
        await surfer.says("[role=status]", "published once more")
        await page.click("text=Ask the engine")
        await page.locator("#runner-status").wait_for()
        await page.click("text=Remove its files …")
        await page.click("button.danger")
        await surfer.says("#engine", "yes")
        assert (await shared.admin(f"/admin/jobs/{job_id}"))["cleaned"] is True
        await page.click("#containers .cell")
        await surfer.says("main", "the end of stderr")
        surfer.expected = {400}
        await surfer.go("/ui/admin/jobs?user=nobody")
        await surfer.says("[role=alert]", "There is no user")


async def test_what_is_held_up_comes_first(shared: Driver, chromium: Browser):
    name = f"Held {uuid.uuid4().hex[:6]}"
    held = await insert_big_job(shared.service, shared.image, over=False, name=name)
    database = database_of(shared.service)
    jobs = JobStore(database)
    try:
        await jobs.set_fields(held, {"waiting": "no machine of the pool on host7 matches", "told": None})
        async with surfing(shared, chromium, "admin") as surfer:
            await surfer.go("/ui/admin/jobs")
            await surfer.says(".held", name)
            assert "host7 matches" in await surfer.text(".held")
            await surfer.page.click(f".held >> text={name}")
            await surfer.says("#admin-alerts", "host7 matches")
        async with surfing(shared, chromium, "ann") as user:
            await user.go(f"/ui/jobs/{held}")
            await user.says("#waiting", "It waits")
            assert "host7" not in await user.page.content()
            await jobs.set_fields(held, {"waiting": None})
            await user.page.locator("#waiting").wait_for(state="detached")  # by itself
    finally:
        await jobs.set_fields(held, {"waiting": None, "state": "canceled"})
        database.close()


async def test_the_service(shared: Driver, chromium: Browser):
    async with surfing(shared, chromium, "admin") as surfer:
        await surfer.go("/ui/admin/service")
        for name in ("database", "s3", "auth", "kafka", "crane"):
            await surfer.says("#dependencies", name)
        surfer.expected = {400}
        await surfer.page.fill("#age", "PT1S")
        await surfer.page.click("text=Publish what is overdue")
        await surfer.says("#fault-age", "at least 60")
        await surfer.page.fill("#age", "PT10M")
        await surfer.page.click("text=Publish what is overdue")
        await surfer.says("[role=status]", "0 messages of 0 jobs")
        await surfer.go("/ui/admin/service")
        await surfer.says("#live-state", "live")
        shared.service.stack.broker.kill()
        try:
            await surfer.says("#dependencies", "does not answer")  # by itself
        finally:
            shared.service.stack.broker.start()
        await surfer.page.locator("#dependencies .badge.bad").wait_for(state="detached", timeout=60_000)
