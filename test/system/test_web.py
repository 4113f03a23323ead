"""The pages in a real browser, on the real service: what users do with them."""

from __future__ import annotations

import asyncio
import re
import uuid

import httpx
from playwright.async_api import Browser, Route

from test.system.driver import Driver
from test.system.web_room import Surfer, surfing

FASTA = {f"sample{n}.fa": f">a\nACGT{'A' * n}\n".encode() for n in range(3)}
WRITE = ["write", "o.txt", "9"]
LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}


async def fill_in(surfer: Surfer, files: list[str], args: str, name: str, **fields: str) -> None:
    """The form of a job at the shared service's image."""
    await surfer.go("/ui/submit")
    await surfer.turn("text=Use this image >> nth=0")
    values = {
        "args": args,
        "input_files": "\n".join(files),
        "output_dir": f"cts-data/ann/out/{uuid.uuid4().hex[:8]}",
        "memory": "50MB",
        "runtime": "PT2M",
        "name": name,
        **fields,
    }
    for field, value in values.items():
        await surfer.page.fill(f"#{field}", value)


async def test_signing_in_and_out(shared: Driver, chromium: Browser):
    async with surfing(shared, chromium) as surfer:
        surfer.expected = {401}
        await surfer.go("/ui/jobs?state=error")
        assert "/ui/sign-in" in surfer.page.url
        await surfer.page.fill("#token", "nobody-has-this-token")
        await surfer.page.keyboard.press("Enter")
        await surfer.says("[role=alert]", "not valid")
        assert await surfer.page.input_value("#token") == ""
        await surfer.page.fill("#token", shared.service.tokens["ann"])
        await surfer.page.keyboard.press("Enter")
        await surfer.page.wait_for_url("**/ui/jobs?state=error")  # where it was wanted to be
        [cookie] = [c for c in await surfer.context.cookies() if c["name"] == "cts_session"]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
        assert shared.service.tokens["ann"] not in cookie["value"]
        assert "cts_session" not in await surfer.page.evaluate("document.cookie")
        async with httpx.AsyncClient(base_url=shared.service.url) as client:
            headers = {"Cookie": f"cts_session={cookie['value']}"}
            assert (await client.get("/jobs", headers=headers)).status_code == 401
            assert (await client.get("/ui/jobs", headers=headers)).status_code == 200
        await surfer.page.click("text=Sign out")
        await surfer.says("[role=status]", "You are signed out")
        await surfer.go("/ui/jobs")
        assert "/ui/sign-in" in surfer.page.url


async def test_a_job_from_the_form_to_its_outputs(shared: Driver, chromium: Browser):
    files = await shared.upload(FASTA)
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await fill_in(surfer, files, "later\n2\nstats", "From the form", num_containers="2")
        assert "/usr/local/bin/tool" in await surfer.text("#image-facts")
        assert "per container at most" in await surfer.text("#hint-cluster")
        await surfer.says("#file-count", "3 files")
        await page.select_option("#add_what", "files-space")
        await surfer.turn("button[value=add]")
        assert '"space_separated_list"' in await page.input_value("#args")
        await page.click(".bar button[value=check]")
        await surfer.says("#checked", "It can be submitted")
        checked = await surfer.text("#checked")
        assert shared.image.digest in checked
        assert "/input_files/sample0.fa" in checked
        assert (await shared.client().get("/jobs", params={"q": "From the form"})).json()["jobs"] == []
        await page.click("button.primary[value=submit]")
        await surfer.says("[role=status]", "The job is submitted")
        job_id = page.url.partition("?")[0].rpartition("/")[2]
        await page.evaluate("window.stayed = true")
        await page.focus("text=As JSON, without the input files")
        await surfer.says("#state", "complete")
        await page.locator("#outputs a").nth(1).wait_for()
        assert await page.evaluate("window.stayed") is True  # it was not loaded again
        assert "As JSON" in await page.evaluate("document.activeElement.innerText")
        await surfer.says("#announce", "complete")
        await surfer.says("#live-state", "over")
        job = await shared.over(job_id)
        assert job["job_input"]["name"] == "From the form"
        assert job["job_input"]["num_containers"] == 2
        outputs = await shared.outputs(job)
        shown = await page.locator("#outputs a").all_inner_texts()
        assert shown == sorted(outputs)
        async with page.expect_download() as started:
            await page.click(f"#outputs a:has-text('{shown[0]}')")
        path = await (await started.value).path()
        assert path.read_bytes() == outputs[shown[0]]
        assert "X-Amz-Signature" not in await page.content()


async def test_what_is_refused_is_shown_at_its_field(shared: Driver, chromium: Browser):
    files = await shared.upload(FASTA)
    async with surfing(shared, chromium, "ann") as surfer:
        surfer.expected = {400}
        page = surfer.page
        await fill_in(surfer, files, "stats\n$(rm -rf /)", "Refused", num_containers="1")
        await page.click("button.primary[value=submit]")
        await surfer.says("#fault-args", "line 2: the argument '$(rm -rf /)' is neither")
        assert await page.get_attribute("#args", "aria-invalid") == "true"
        assert "summary" in await page.evaluate("document.activeElement.id")
        assert await page.input_value("#name") == "Refused"
        for field, wrong, words in (
            ("args", "stats", None),
            ("output_dir", "cts-data/ben/out", "is not under a path that you may use"),
            ("output_dir", "cts-data/ann/out/refused", None),
            ("input_files", f"{files[0]}\ncts-data/ann/in/nothing.fa", "nothing.fa"),
            ("input_files", "\n".join(files), None),
            ("memory", "900TB", "more than the"),
            ("memory", "50MB", None),
            ("image", "docker.io/nobody/nothing:1", "is not approved"),
        ):
            await page.fill(f"#{field}", wrong)
            if words is not None:
                await page.click("button.primary[value=submit]")
                await surfer.says(f"#fault-{field}", words)
        assert (await shared.client().get("/jobs", params={"q": "Refused"})).json()["jobs"] == []


async def test_a_log_as_it_is_written_and_a_job_that_is_cancelled(shared: Driver, chromium: Browser):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    job_id = await shared.submit(files, ["tick", "600", "1"], runtime=900, name="Ticking")
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await surfer.go(f"/ui/jobs/{job_id}/containers/0")
        await surfer.says("#state", "running")
        await surfer.says("#log", "tick 3 of 600")
        await surfer.says("#log-state", "live")
        # A page that is hidden holds no connection, and goes on where it was.
        hide = """(hidden) => { Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange")); }"""
        async with page.expect_event("requestfailed", lambda r: "/log/0/stdout" in r.url):
            await page.evaluate(hide, True)
        said = len((await surfer.text("#log")).splitlines())
        await shared.reached(job_id, "job_submitted")
        await page.evaluate(hide, False)
        await surfer.says("#log", f"tick {said + 3} of 600")
        lines = (await surfer.text("#log")).split("\n")
        assert lines[: said + 3] == [f"tick {n} of 600" for n in range(1, said + 4)]
        await page.click("#follow")
        assert await page.get_attribute("#follow", "aria-pressed") == "false"
        await page.click("text=Ticking")
        await page.click("text=Cancel …")
        await page.click("text=Back")
        assert (await shared.status(job_id))["state"] != "canceling"
        await page.click("text=Cancel …")
        await page.click("button.danger")
        await surfer.says("#state", "canceled")
        assert await page.locator("text=Cancel …").count() == 0
    await shared.over(job_id, "canceled")


async def test_resubmitting_with_changes(shared: Driver, chromium: Browser):
    files = await shared.upload(FASTA)
    first = await shared.submit(files, ["stats", LISTED], name="The first", tags=["again"], params={"declobber": True})
    await shared.over(first)
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await surfer.go(f"/ui/jobs/{first}")
        await surfer.turn("text=Resubmit with changes")
        assert await page.input_value("#input_files") == "\n".join(files)
        assert await page.input_value("#tags") == "again"
        assert await page.input_value("#memory") == "50MB"
        await page.fill("#name", "The second")
        await page.fill("#num_containers", "1")
        await page.fill("#output_dir", f"cts-data/ann/out/{uuid.uuid4().hex[:8]}")
        await page.dblclick("button.primary[value=submit]")
        await surfer.says("h1", "The second")
        await surfer.says("#state", "complete")
        second = page.url.partition("?")[0].rpartition("/")[2]
    before, after = await shared.job(first), await shared.job(second)
    assert after["job_input"]["params"] == before["job_input"]["params"]
    assert after["job_input"]["input_files"] == before["job_input"]["input_files"]
    assert after["job_input"]["num_containers"] == 1
    # It was clicked twice, and is there once.
    assert len((await shared.client().get("/jobs", params={"q": "The second"})).json()["jobs"]) == 1


async def test_a_form_that_is_sent_twice_makes_one_job(shared: Driver, chromium: Browser):
    files = await shared.upload(FASTA)
    async with surfing(shared, chromium, "ann") as surfer:
        await fill_in(surfer, files, "write\no.txt\n9", "Sent twice", num_containers="1")
        twice = """async () => {
            const body = new URLSearchParams(new FormData(document.getElementById("job-form")));
            body.set("do", "submit");
            const send = () => fetch(location.pathname, { method: "POST", body }).then((a) => a.url);
            return Promise.all([send(), send(), send()]);
        }"""
        urls = await surfer.page.evaluate(twice)
        assert len(set(urls)) == 1
        assert re.search(r"/ui/jobs/[0-9a-f-]{36}\?done=submitted$", urls[0])
    assert len((await shared.client().get("/jobs", params={"q": "Sent twice"})).json()["jobs"]) == 1


async def test_finding_jobs(shared: Driver, chromium: Browser):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    word = uuid.uuid4().hex[:8]
    good = await shared.submit(files, WRITE, name=f"Good {word}", tags=[f"t-{word}"])
    bad = await shared.submit(files, ["fail", "3"], name=f"Bad {word}")
    await shared.over(good)
    await shared.over(bad, "error")
    async with surfing(shared, chromium, "ann") as surfer:
        page = surfer.page
        await surfer.go("/ui/jobs")
        await page.fill("#q", word.upper())
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**q={word.upper()}*")
        assert await page.locator("tbody tr").count() == 2
        await page.select_option("#state", "error")
        await page.click("text=Filter")
        await page.wait_for_url("**state=error*")
        assert await page.locator("tbody tr th a").first.inner_text() == f"Bad {word}"
        assert await page.locator("tbody tr").count() == 1
        await page.click(f"text=Bad {word}")
        await surfer.says(".failed", "exit code 3")
        await page.click(".failed a:text-is('stderr')")
        await surfer.says("#log", "as asked")
        await surfer.says("#log-state", "the end of it")
        async with page.expect_download() as started:
            await page.click("text=Whole log")
        assert b"as asked" in (await (await started.value).path()).read_bytes()
        await surfer.go(f"/ui/jobs?q={word}")
        await page.click(f"text=t-{word}")
        await page.wait_for_url("**tag=*")
        assert await page.locator("tbody tr").count() == 1
        await surfer.go(f"/ui/jobs?q={word}&after=2100-01-01T00:00")
        await surfer.says("main", "No job fits")


async def test_somebody_elses_job_is_not_shown(shared: Driver, chromium: Browser):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    job_id = await shared.submit(files, WRITE, name="Of ann's")
    async with surfing(shared, chromium, "ben") as surfer:
        surfer.expected = {403}
        for page in ("", "/containers/0", "/files/inputs", "/download?kind=inputs&n=0", "/log/0/stdout?whole=yes"):
            await surfer.go(f"/ui/jobs/{job_id}{page}")
            await surfer.says("[role=alert]", "belongs to somebody else")
        await surfer.go(f"/ui/admin/jobs/{job_id}")
        await surfer.says("[role=alert]", "administrators of this service only")
    await shared.over(job_id)


async def test_everything_but_what_is_live_works_without_scripts(shared: Driver, chromium: Browser):
    files = await shared.upload(FASTA)
    async with surfing(shared, chromium, "ann", java_script_enabled=False) as surfer:
        page = surfer.page
        await fill_in(surfer, files, "stats", "Without scripts", num_containers="1")
        await page.select_option("#add_what", "files-space")
        await surfer.turn("button[value=add]")
        await surfer.turn("button[value=as-json]")
        assert '"space_separated_list"' in await page.input_value("#json")
        await surfer.turn("button[value=as-form]")
        await page.click("button.primary[value=submit]")
        await surfer.says("h1", "Without scripts")
        job_id = page.url.partition("?")[0].rpartition("/")[2]
        await shared.over(job_id)
        await page.reload()
        await surfer.says("#state", "complete")
        async with page.expect_download() as started:
            await page.click("#outputs a")
        assert (await (await started.value).path()).read_bytes()


async def test_a_session_that_has_ended_is_told_on_a_page_that_is_open(shared: Driver, chromium: Browser):
    async with surfing(shared, chromium, "ann") as surfer:
        surfer.expected = {401}
        await surfer.says("#live-state", "live")
        await surfer.context.clear_cookies()
        await surfer.says("#live-state", "sign in again")
        await surfer.says("#announce", "signed out")


async def test_a_page_that_may_not_follow_its_job_looks_slowly_and_stops_when_signed_out(
    shared: Driver, chromium: Browser
):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    job_id = await shared.submit(files, ["tick", "600", "1"], runtime=900, name="Followed by too many")
    async with surfing(shared, chromium, "admin") as surfer:
        surfer.expected = {400, 401}
        page = surfer.page
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url) if r.resource_type == "fetch" else None)

        async def refuse(route: Route) -> None:
            await route.fulfill(status=400, body="too many")

        async def later(seconds: int) -> None:
            for _ in range(seconds):
                await page.clock.run_for(1000)
                await asyncio.sleep(0.05)  # answers come in real time

        await page.route("**/events", refuse)
        await page.clock.install()
        await surfer.go(f"/ui/admin/jobs/{job_id}?runner=0")
        await later(2)
        await surfer.says("#live-state", "every 30 s, as too many pages follow jobs")
        seen = len(asked)
        await later(35)
        await surfer.says("#live-state", "every 30 s")
        assert seen < len(asked) <= seen + 3
        assert not [url for url in asked if "runner" in url]  # the engine is asked once
        await surfer.context.clear_cookies()
        await later(35)
        await surfer.says("#live-state", "sign in again")
        seen = len(asked)
        await later(90)
        assert len(asked) == seen
    await shared.client().put(f"/jobs/{job_id}/cancel")
    await shared.over(job_id, "canceled")


async def test_a_form_that_is_sent_after_the_session_comes_back(shared: Driver, chromium: Browser):
    async with surfing(shared, chromium, "ann") as surfer:
        surfer.expected = {401, 403}
        page = surfer.page
        await fill_in(surfer, ["cts-data/ann/in/a.fa"], "stats\n\n-v", "Typed for long", num_containers="1")
        await surfer.context.clear_cookies()
        await page.click("button.primary[value=submit]")
        await surfer.says("[role=alert]", "Nothing was done")
        async with surfer.context.expect_page() as opened:
            await page.click("text=in another tab")
        other = await opened.value
        await other.fill("#token", shared.service.tokens["ann"])
        await other.keyboard.press("Enter")
        await other.wait_for_url("**/ui/jobs")
        await page.click("text=Show my form again")
        await surfer.says("[role=alert]", "signed in anew")
        assert await page.input_value("#name") == "Typed for long"
        assert await page.input_value("#args") == "stats\n\n-v"
    assert (await shared.client().get("/jobs", params={"q": "Typed for long"})).json()["jobs"] == []


async def test_signing_in_for_a_download_goes_to_its_job(shared: Driver, chromium: Browser):
    files = await shared.upload({"a.fa": b">a\nACGT\n"})
    job_id = await shared.submit(files, WRITE, name="To be downloaded")
    await shared.over(job_id)
    async with surfing(shared, chromium) as surfer:
        await surfer.go(f"/ui/jobs/{job_id}/download?kind=outputs&n=0")
        await surfer.page.fill("#token", shared.service.tokens["ann"])
        await surfer.page.keyboard.press("Enter")
        await surfer.page.wait_for_url(f"**/ui/jobs/{job_id}")
        await surfer.says("h1", "To be downloaded")
