"""The pages by keyboard, on a phone, in the dark; and against pages of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from test.system.driver import Driver
from test.system.web_room import PHONE, Surfer, surfing

LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}

CONTRAST = """() => {
    // Every text that is seen, against the first background behind it: WCAG 2.2, 1.4.3.
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parse = (text) => (text.match(/[0-9.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const place = walker.currentNode.parentElement;
        const unseen = !place.checkVisibility() || place.closest(".hidden, .skip, datalist, option");
        if (!walker.currentNode.data.trim() || unseen) continue;
        let back = place;
        let colour = [0, 0, 0, 0];
        while (back && (colour = parse(getComputedStyle(back).backgroundColor))[3] === 0) back = back.parentElement;
        if (!back) continue;
        const style = getComputedStyle(place);
        const [a, b] = [light(parse(style.color)), light(colour)].sort((x, y) => y - x);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < (large ? 3 : 4.5)) faint.push(`${walker.currentNode.data.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
    }
    return faint;
}"""


@pytest.fixture(scope="module")
async def job_id(shared: Driver) -> str:
    """A job with a failed container."""
    files = await shared.upload({f"s{n}.fa": b">a\nACGT\n" for n in range(2)})
    long_name = "A name without any blank_" + "x" * 70
    job = await shared.submit(files, ["fail", "3"], name=long_name, tags=["t" * 50, "u" * 50])
    await shared.over(job, "error")
    return job


def paths(job_id: str, image: str) -> list[str]:
    """Every page, as an administrator sees it."""
    return [
        "/ui/sign-in",
        "/ui/jobs",
        "/ui/submit",
        f"/ui/submit?image={image}",
        "/ui/images",
        "/ui/sites",
        "/ui/refdata",
        "/ui/admin/jobs",
        f"/ui/admin/jobs/{job_id}?runner=0",
        f"/ui/admin/jobs/{job_id}/containers",
        f"/ui/admin/jobs/{job_id}/containers/0?stream=stderr",
        f"/ui/admin/jobs/{job_id}/files/inputs",
        f"/ui/admin/jobs/{job_id}/clean",
        "/ui/admin/images",
        f"/ui/admin/images?image={image}",
        "/ui/admin/refdata",
        "/ui/admin/sites/local/close",
        "/ui/admin/service",
        "/ui/nothing",
    ]


@pytest.mark.parametrize(
    ("options"),
    [
        {"viewport": PHONE, "color_scheme": "dark", "has_touch": True},
        {"viewport": {"width": 320, "height": 640}, "color_scheme": "light"},
        {"color_scheme": "dark", "reduced_motion": "reduce"},
        {"color_scheme": "light"},
    ],
    ids=["phone", "small phone", "dark", "light"],
)
async def test_every_page_fits_and_can_be_read(shared: Driver, chromium: Browser, job_id: str, options: dict):
    async with surfing(shared, chromium, "admin", **options) as surfer:
        surfer.expected = {404}
        for path in paths(job_id, shared.image.by_tag):
            await surfer.go(path)
            await surfer.fits()
            assert await surfer.page.evaluate(CONTRAST) == [], path
    async with surfing(shared, chromium, "ann", **options) as surfer:
        surfer.expected = {404}
        for path in ("/ui/jobs", f"/ui/jobs/{job_id}", f"/ui/submit?from={job_id}", f"/ui/jobs/{job_id}/files/inputs"):
            await surfer.go(path)
            await surfer.fits()
            assert await surfer.page.evaluate(CONTRAST) == [], path


async def press_until(surfer: Surfer, wanted: str, key: str = "Tab", most: int = 60) -> None:
    """Press a key until the element that has the focus says `wanted`, or is called so."""
    for _ in range(most):
        await surfer.page.keyboard.press(key)
        told = await surfer.page.evaluate(
            "((e) => [e.innerText, e.id, e.value, e.ariaLabel].join(' '))(document.activeElement)"
        )
        if wanted in told:
            return
    raise AssertionError(f"{wanted} is not reached by {key} on {surfer.page.url}")


async def test_a_job_by_the_keyboard_alone(shared: Driver, chromium: Browser):
    [file] = await shared.upload({"a.fa": b">a\nACGT\n"})
    async with surfing(shared, chromium) as surfer:
        page = surfer.page
        await surfer.go("/ui/jobs")
        await page.keyboard.type(shared.service.tokens["ann"])  # the field has the focus
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/jobs")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.innerText") == "Skip to the content"
        await page.keyboard.press("Enter")
        await press_until(surfer, "Submit a job")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/submit")
        await press_until(surfer, "Use this image")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/submit?image=*")
        for field, text in (
            ("args", "write\no.txt\n9"),
            ("input_files", file),
            ("output_dir", "cts-data/ann/out/keyboard"),
            ("name", "By the keyboard"),
        ):
            await press_until(surfer, field)
            await page.keyboard.press("Control+A")
            await page.keyboard.type(text)
        await press_until(surfer, "submit")
        await page.keyboard.press("Enter")
        await surfer.says("h1", "By the keyboard")
        await surfer.says("#state", "complete")
        await press_until(surfer, "0 complete")
        await page.keyboard.press("Enter")
        await surfer.says("h1", "Container 0")


async def test_enter_in_a_field_checks_and_does_not_submit(shared: Driver, chromium: Browser):
    [file] = await shared.upload({"a.fa": b">a\nACGT\n"})
    async with surfing(shared, chromium, "ann") as surfer:
        await surfer.go(f"/ui/submit?image={shared.image.by_tag}")
        await surfer.page.fill("#args", "stats")
        await surfer.page.fill("#input_files", file)
        await surfer.page.fill("#output_dir", "cts-data/ann/out/enter")
        await surfer.page.fill("#name", "Enter is not enough")
        await surfer.page.keyboard.press("Enter")
        await surfer.says("#checked", "It can be submitted")
    assert (await shared.client().get("/jobs", params={"q": "Enter is not"})).json()["jobs"] == []


@contextlib.asynccontextmanager
async def another_site(html: str) -> AsyncIterator[str]:
    """A site of somebody else's: another port is another origin, though cookies are sent there just the same."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = html.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_other_sites_can_neither_send_forms_nor_show_or_read_pages(
    shared: Driver, chromium: Browser, job_id: str
):
    service = shared.service.url
    page_of_another = f"""<!doctype html><title>Another</title><link rel="icon" href="data:,">
        <form method="post" action="{service}/ui/admin/sites/local/close">
        <input name="mark" value="x"><button>Go</button></form>
        <a href="{service}/ui/jobs/{job_id}">A job</a><iframe src="{service}/ui/jobs"></iframe>"""
    async with surfing(shared, chromium, "admin") as surfer, another_site(page_of_another) as other:
        surfer.expected = {403}
        await surfer.page.goto(other)
        [frame] = [f for f in surfer.page.frames if f.parent_frame]
        assert "My jobs" not in await frame.content()
        read = "(url) => fetch(url, {credentials: 'include'}).then((a) => a.text()).catch((e) => 'kept away')"
        assert await surfer.page.evaluate(read, f"{service}/ui/jobs") == "kept away"
        surfer.faults.clear()  # the browser says so on the other's page
        await surfer.page.click("button")
        await surfer.says("[role=alert]", "sent by another site")
        assert (await shared.site_shown())["active"] is True
        await surfer.page.goto(other)
        surfer.faults.clear()
        await surfer.page.click("text=A job")  # a link is welcome
        await surfer.page.wait_for_url(f"{service}/ui/jobs/{job_id}")
    assert (await shared.site_shown())["active"] is True
