"""Every page, made of fakes: what all have in common, and that nothing of a user's gets out of its place."""

from __future__ import annotations

import dataclasses
import html

import pytest

from cdmtaskservice.domain.errors import (
    DependencyUnavailableError,
    InvalidJobStateError,
    NoLogsError,
    NoSuchJobError,
    NoSuchRefdataError,
)
from cdmtaskservice.domain.records import OutputFiles
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.services.jobs import FilesPage
from cdmtaskservice.web import words
from cdmtaskservice.web.visit import HEADERS
from test.unit.api_fakes import FakeServices
from test.unit.api_records import CRC, IMAGE, container_record, finished_job, job_record
from test.unit.web_client import Browser, mark_of, signed_in, tags_of, text_of

USER_PAGES = (
    "/ui/jobs",
    "/ui/jobs?q=a&state=complete&cluster=kbase&tag=x&after=2030-01-01T00:00&before=2031-01-01T00:00",
    "/ui/jobs/job1",
    "/ui/jobs/job1?state=error",
    "/ui/jobs/job1/cancel",
    "/ui/jobs/job1/containers",
    "/ui/jobs/job1/containers/0?stream=stderr",
    "/ui/jobs/job1/files/inputs",
    "/ui/jobs/job1/files/outputs?page=7",
    "/ui/submit",
    "/ui/submit?image=ghcr.io/kbase/tool:1",
    "/ui/submit?from=job1",
    "/ui/images",
    "/ui/sites",
    "/ui/refdata",
    "/ui/refdata/ref1",
)
ADMIN_PAGES = (
    "/ui/admin/jobs",
    "/ui/admin/jobs?user=ann",
    "/ui/admin/jobs/job1",
    "/ui/admin/jobs/job1?runner=1",
    "/ui/admin/jobs/job1/cancel",
    "/ui/admin/jobs/job1/clean",
    "/ui/admin/jobs/job1/containers/0",
    "/ui/admin/images",
    "/ui/admin/images?image=ghcr.io/kbase/tool:1&like=ghcr.io/kbase/tool:1",
    "/ui/admin/images/withdraw?image=ghcr.io/kbase/tool:1",
    "/ui/admin/refdata",
    "/ui/admin/refdata/ref1",
    "/ui/admin/refdata/ref1/retire",
    "/ui/admin/refdata/ref1/kbase/recover",
    "/ui/admin/refdata/ref1/kbase/clean",
    "/ui/admin/sites/kbase/close",
    "/ui/admin/service",
)


@pytest.mark.parametrize("path", USER_PAGES + ADMIN_PAGES)
async def test_pages_and_what_they_have_in_common(path: str) -> None:
    browser = await signed_in(FakeServices(), "admin")
    answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    tags = tags_of(answer.text)
    # The policy takes neither scripts nor styles that stand in the page, nor what comes from elsewhere.
    for tag, attributes in tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        if tag in {"script", "img", "link"}:
            assert str(attributes.get("src") or attributes.get("href")).startswith("/ui/static/")
    # One heading, landmarks, and a label for all that can be filled in.
    assert [tag for tag, _ in tags].count("h1") == 1
    assert {"main", "nav", "header", "footer"} <= {tag for tag, _ in tags}
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    for tag, attributes in tags:
        if tag in {"input", "select", "textarea"} and attributes.get("type") != "hidden":
            assert attributes.get("id") in labelled, (tag, attributes)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        if tag == "form" and attributes.get("method") == "post":
            assert str(attributes["action"]).startswith("/ui/")
    assert "admin" not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("path", ADMIN_PAGES)
async def test_pages_of_administrators_are_theirs(path: str) -> None:
    browser = await signed_in(FakeServices(), "ann")
    answer = await browser.get(path)
    assert answer.status_code == 403
    assert "administrators of this service only" in answer.text


@pytest.mark.parametrize("path", USER_PAGES + ADMIN_PAGES)
async def test_whoever_is_not_signed_in_is_asked_to(path: str) -> None:
    services = FakeServices()
    answer = await Browser(services).get(path)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/ui/sign-in?next=%2F")
    assert [c for c in services.jobs.calls + services.admin_jobs.calls if c] == []


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202e${x}"


async def test_hostile_names_stay_text() -> None:
    services = FakeServices()
    job_input = {**finished_job().input, "name": HOSTILE, "tags": [HOSTILE, "javascript:alert(1)"]}
    job_input["params"] = {**job_input["params"], "args": [HOSTILE], "environment": {"A": HOSTILE}}
    job_input["output_dir"] = f"cts-data/{HOSTILE}/"
    image = dataclasses.replace(IMAGE, usage_notes=HOSTILE, urls=(f"https://example.org/{HOSTILE}",))
    job = job_record(
        states=(JobState.CREATED, JobState.ERROR),
        input=job_input,
        image=image,
        error=HOSTILE,
        admin_error=HOSTILE,
        traceback=HOSTILE,
        admin_meta={HOSTILE: HOSTILE},
        waiting=HOSTILE,
        output_file_count=1,
    )
    for jobs in (services.jobs, services.admin_jobs):
        jobs.job, jobs.listed = job, [job]
        jobs.page = FilesPage([f"cts-data/{HOSTILE}/{HOSTILE}"], [CRC], ["http://s3/x"], [1], 1)
        jobs.found = [container_record(0, state=JobState.ERROR, error=HOSTILE, exit_code=1)]
        jobs.outputs = OutputFiles([HOSTILE], [CRC])
    services.images.image = image
    browser = await signed_in(services, "admin")
    for path in (*USER_PAGES, *ADMIN_PAGES):
        answer = await browser.get(path)
        assert answer.status_code == 200, (path, text_of(answer.text))
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        for _, attributes in tags_of(answer.text):
            assert not [name for name in attributes if name.startswith("on")]
            assert not str(attributes.get("href", "")).startswith("javascript:")
    shown = await browser.get("/ui/jobs/job1")
    assert html.escape("<script>alert(1)</script>") in shown.text
    assert "{{7*7}}" in shown.text


async def test_search_and_filters_are_asked_for() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    await browser.get("/ui/jobs?q=gen&state=error&cluster=kbase&tag=t&after=2030-01-01T10:00")
    wanted = services.jobs.calls[-1][1][1]
    assert (wanted.text, wanted.state, wanted.site, wanted.tag, wanted.limit) == (
        "gen",
        JobState.ERROR,
        "kbase",
        "t",
        50,
    )
    assert wanted.after.isoformat() == "2030-01-01T10:00:00+00:00"
    answer = await browser.get("/ui/jobs?q=a%00b&state=nonsense&after=yesterday")
    assert answer.status_code == 400
    for fault in ("Q: ", "State: there is no such state", "After: give a date"):
        assert fault in answer.text
    assert (await browser.get("/ui/jobs?cursor=nonsense")).status_code == 400
    for time in ("after=0001-01-01T00:00:00%2B14:00", "before=9999-12-31T23:59:59-14:00"):
        answer = await browser.get(f"/ui/jobs?{time}")
        assert answer.status_code == 400
        assert ": give a date" in answer.text


async def test_a_search_among_everybodys_jobs_is_made_once() -> None:
    browser = await signed_in(FakeServices(), "admin")
    for path, polls in (("/jobs?q=a", True), ("/admin/jobs?tag=a", True), ("/admin/jobs?q=a", False)):
        assert ("data-poll" in (await browser.get(f"/ui{path}")).text) is polls
    assert "data-poll" not in (await browser.get("/ui/jobs?state=nonsense")).text


async def test_a_user_is_no_filter_of_ones_own_jobs() -> None:
    services = FakeServices()
    services.jobs.listed = []
    browser = await signed_in(services, "ann")
    assert "You have no jobs yet" in (await browser.get("/ui/jobs?user=ben")).text
    assert "No job fits" in (await browser.get("/ui/jobs?q=ben")).text


@pytest.mark.parametrize("what", ["recover", "clean"])
async def test_what_is_asked_about_is_there(what: str) -> None:
    services = FakeServices()
    browser = await signed_in(services, "admin")
    answer = await browser.get(f"/ui/admin/refdata/ref1/the-moon/{what}")
    assert answer.status_code == 404
    assert (await browser.get(f"/ui/admin/refdata/ref1/perlmutter-jaws/{what}")).status_code == 200
    services.refdata.raises["get"] = NoSuchRefdataError("There is no reference data 'x'")
    answer = await browser.get(f"/ui/admin/refdata/x/kbase/{what}")
    assert answer.status_code == 404


def test_rounded_numbers_have_the_unit_of_what_they_are_rounded_to() -> None:
    assert [words.size(count) for count in (999, 999.6, 999_499, 999_600, 99_960, 5e15)] == [
        "999 B",
        "1 kB",
        "999 kB",
        "1 MB",
        "100 kB",
        "5000 TB",
    ]
    shown = [words.duration(seconds) for seconds in (0.0001, 0.9994, 0.9996, 9.96, 59.4, 59.99, 3599.6)]
    assert shown == ["1 ms", "999 ms", "1 s", "10 s", "59 s", "1 min", "1 h"]


async def test_a_full_page_links_to_the_next() -> None:
    services = FakeServices()
    services.jobs.listed = [job_record(f"job{n}") for n in range(50)]
    browser = await signed_in(services, "ann")
    answer = await browser.get("/ui/jobs?q=x%26y")
    link = next(a["href"] for t, a in tags_of(answer.text) if t == "a" and "cursor=" in str(a.get("href")))
    assert "q=x%26y" in str(link)
    await browser.get(str(link))
    assert services.jobs.calls[-1][1][1].cursor[1] == "job49"


async def test_what_is_held_up_comes_first_for_administrators() -> None:
    services = FakeServices()
    held = job_record("held", waiting="no machine of the pool matches")
    services.admin_jobs.listed = [held]
    browser = await signed_in(services, "admin")
    answer = await browser.get("/ui/admin/jobs")
    assert "Held up" in answer.text
    assert "no machine of the pool matches" in answer.text
    assert [c[1][0].waiting for c in services.admin_jobs.calls if c[0] == "list"] == [False, True]


async def test_owners_are_told_why_a_job_waits_in_their_own_words() -> None:
    services = FakeServices()
    services.jobs.job = job_record(waiting="db-7.internal is away", told=None)
    browser = await signed_in(services, "ann")
    answer = await browser.get("/ui/jobs/job1")
    assert "db-7.internal" not in answer.text
    assert "goes on by itself" in answer.text


async def test_a_download_goes_to_a_link_that_is_on_no_page() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    assert "http://s3" not in (await browser.get("/ui/jobs/job1")).text
    answer = await browser.get("/ui/jobs/job1/download?kind=outputs&n=3")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "http://s3/cts-data/out/o.txt?signed"
    assert answer.headers["Cache-Control"] == "no-store"
    assert services.jobs.calls[-1][1][1:] == ("job1", "outputs", 3)
    for wrong in ("kind=outputs&n=-1", "kind=logs&n=0", "kind=inputs", "kind=inputs&n=\u0663"):
        assert (await browser.get(f"/ui/jobs/job1/download?{wrong}")).status_code == 404


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NoSuchJobError("There is no job with the ID 'job1'"), 404, "There is no job with the ID"),
        (InvalidJobStateError("Job job1 cannot be canceled: it is over"), 400, "cannot be canceled"),
        (DependencyUnavailableError("mongo on db-7 is away"), 503, "does not answer now"),
        (RuntimeError("secret internals"), 500, "Something went wrong"),
    ],
)
async def test_faults_are_pages_too(error: Exception, status: int, words: str) -> None:
    services = FakeServices()
    services.jobs.raises["status"] = error
    browser = await signed_in(services, "ann")
    answer = await browser.get("/ui/jobs/job1")
    assert answer.status_code == status
    assert words in html.unescape(answer.text)
    assert "db-7" not in answer.text
    assert "secret" not in answer.text
    assert answer.headers["X-Request-ID"] in answer.text
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    script = await browser.get("/ui/jobs/job1", Accept="text/plain", **{"Sec-Fetch-Mode": "cors"})
    assert script.headers["Content-Type"].startswith("text/plain")


async def test_containers_of_a_canceled_job_are_counted_and_chosen() -> None:
    services = FakeServices()
    services.jobs.job = job_record(states=[JobState.CREATED, JobState.CANCELING, JobState.CANCELED])
    services.jobs.found = [container_record(0, state=JobState.COMPLETE), container_record(1, state=JobState.CANCELED)]
    browser = await signed_in(services, "ann")
    page = await browser.get("/ui/jobs/job1/containers?state=canceled")
    assert 'href="/ui/jobs/job1/containers/1"' in page.text
    assert 'href="/ui/jobs/job1/containers/0"' not in page.text
    assert 'href="/ui/jobs/job1/containers?state=canceled" aria-current="true"' in page.text


async def test_what_there_is_not_is_a_page() -> None:
    browser = await signed_in(FakeServices(), "ann")
    for path in ("/ui/nothing", "/ui/jobs/a/b/c/d", "/ui/static/x/nothing.js"):
        answer = await browser.get(path)
        assert answer.status_code == 404
        assert answer.headers["Content-Security-Policy"]
    answer = await browser.http.request("DELETE", "/ui/jobs", headers={"Accept": "text/html"})
    assert answer.status_code == 405


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/ui/jobs/job1?done=submitted", True),
        ("/ui/admin/jobs/job1?done=noted", True),
        ("/ui/sites?done=closed", True),
        ("/ui/jobs?done=submitted", False),
        ("/ui/jobs/job1?done=noted", False),
        ("/ui/sites?done=nonsense", False),
        ("/ui/jobs/job1/containers/x?done=submitted", False),
    ],
)
async def test_what_was_done_is_told_on_the_page_that_it_is_about(path: str, told: bool) -> None:
    answer = await (await signed_in(FakeServices(), "admin")).get(path)
    assert ('class="notice good" role="status"' in answer.text) is told


async def test_what_was_done_is_not_told_of_what_there_is_not() -> None:
    services = FakeServices()
    services.jobs.raises["status"] = NoSuchJobError("There is no job with the ID 'job1'")
    answer = await (await signed_in(services, "ann")).get("/ui/jobs/job1?done=submitted")
    assert answer.status_code == 404
    assert "is submitted" not in answer.text


async def test_files_are_kept_for_ever_under_their_name() -> None:
    browser = Browser(FakeServices())
    page = await browser.get("/ui/sign-in")
    for tag, attributes in tags_of(page.text):
        if tag not in {"script", "link"}:
            continue
        path = str(attributes.get("src") or attributes.get("href"))
        answer = await browser.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        again = await browser.get(path, **{"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        old = await browser.get(path.replace("/static/", "/static/0"))
        assert "immutable" not in old.headers["Cache-Control"]


async def test_pages_behind_a_proxy() -> None:
    for left_on in ("/services/cts", ""):
        browser = Browser(FakeServices(), root_path="/services/cts")
        browser.root = left_on
        page = await browser.get("/ui/sign-in")
        assert 'action="/services/cts/ui/sign-in"' in page.text
        answer = await browser.http.post(
            f"{left_on}/ui/sign-in",
            data={"mark": mark_of(page.text), "token": "ann"},
            headers={"Cookie": f"cts_visitor={page.cookies['cts_visitor']}"},
        )
        assert answer.headers["Location"] == "/services/cts/ui/jobs"
        assert "Path=/services/cts/ui;" in answer.headers["Set-Cookie"]


async def test_events_and_logs_as_the_api_gives_them() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    events = await browser.get("/ui/jobs/job1/events", Accept="text/event-stream", **{"Last-Event-ID": "0"})
    assert events.headers["Content-Type"].startswith("text/event-stream")
    assert "event: end" in events.text
    log = await browser.get("/ui/jobs/job1/log/0/stdout", Accept="text/plain")
    assert log.text == "live\nlog\n"
    assert (log.headers["CTS-Log-Attempt"], log.headers["CTS-Container-Over"]) == ("2", "no")
    assert log.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    services.jobs.found = [container_record(0, state=JobState.COMPLETE)]
    await browser.get("/ui/jobs/job1/log/0/stderr", Accept="text/plain")
    assert services.live_logs.calls[-1][1][1:] == ("job1", 0, "stderr", 2_000_000)
    await browser.get("/ui/jobs/job1/log/0/stderr?seek=5", Accept="text/plain")
    assert services.live_logs.calls[-1][1][-1] == 2_000_000  # where it was when it was hidden, long ago
    await browser.get("/ui/jobs/job1/log/0/stderr?seek=2999999", Accept="text/plain")
    assert services.live_logs.calls[-1][1][-1] == 2_999_999
    services.jobs.found = [container_record(0)]
    await browser.get("/ui/jobs/job1/log/0/stderr?seek=5", Accept="text/plain")
    assert services.live_logs.calls[-1][1][-1] == 5
    services.live_logs.raises["follow"] = NoLogsError("There is no stderr log of container 0")
    missing = await browser.get("/ui/jobs/job1/log/0/stderr", Accept="text/plain")
    assert (missing.status_code, missing.text) == (200, "There is no stderr log of container 0.\n")
    assert missing.headers["CTS-Log-Missing"] == "yes"
    whole = await browser.get("/ui/jobs/job1/log/0/stdout?whole=yes")
    assert whole.headers["Content-Disposition"].startswith("attachment")
    assert (await browser.get("/ui/jobs/job1/log/x/stdout")).status_code == 404
    assert (await browser.get("/ui/jobs/job1/log/0/stdin")).status_code == 404
    admin = await signed_in(services, "admin")
    await admin.get("/ui/admin/jobs/job1/events", Accept="text/event-stream")
    assert services.events.calls[-1][1][-1] is True
