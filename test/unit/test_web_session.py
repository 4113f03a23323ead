"""Signing in and out, what browsers keep of it, and who may use it."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import urllib.parse
from collections.abc import AsyncIterator
from typing import cast

import pytest
from starlette.requests import Request

from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidTokenError
from cdmtaskservice.services.sessions import Session
from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.web.form_data import Sent
from cdmtaskservice.web.rendering import Templates
from cdmtaskservice.web.visit import Pages, Visit
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import NOW
from test.unit.web_client import Browser, mark_of, signed_in, tags_of


async def test_the_cookie_is_sealed_and_for_pages_only() -> None:
    services = FakeServices()
    browser = Browser(services)
    answer = await browser.sign_in("ann")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/ui/jobs"
    cookie = answer.headers["Set-Cookie"]
    name, _, rest = cookie.partition("=")
    value, *flags = rest.split("; ")
    assert name == "cts_session"
    assert {f.lower() for f in flags} == {"httponly", "max-age=43200", "path=/ui", "samesite=strict"}
    unwrapped = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    assert b"ann" not in unwrapped
    assert len(unwrapped) > len(b"ann") + 8 + 12  # with its end, and what makes it another each time
    assert value != (await browser.sign_in("ann")).cookies["cts_session"]
    assert (await services.sessions.resume(value)).user.user == "ann"
    assert (await browser.get("/ui/jobs")).status_code == 200


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"secure": True}, {}),
        ({}, {"X-Forwarded-Proto": "https"}),
        ({}, {"X-Forwarded-Proto": " HTTPS , http"}),
    ],
    ids=["set", "proxy", "two proxies"],
)
async def test_cookies_are_for_https_where_that_is_used(options: dict[str, bool], headers: dict[str, str]) -> None:
    browser = Browser(FakeServices(), **options)
    page = await browser.get("/ui/sign-in", **headers)
    assert "; Secure" in page.headers["Set-Cookie"]
    browser.http.cookies.clear()
    cookie = f"cts_visitor={page.headers['Set-Cookie'].partition(';')[0].partition('=')[2]}"
    answer = await browser.post("/ui/sign-in", {"token": "ann"}, mark_of(page.text), **headers, Cookie=cookie)
    assert answer.status_code == 303
    assert "; Secure" in answer.headers["Set-Cookie"]


async def test_wrong_tokens() -> None:
    for token, words in (
        ("nobody", "Nobody has this token"),
        ("container", "container&#39;s token"),
        ("", "Give your token"),
        ("  ", "Give your token"),
    ):
        browser = Browser(FakeServices())
        answer = await browser.sign_in(token)
        assert answer.status_code == 401
        assert words in answer.text
        assert 'role="alert"' in answer.text
        assert "cts_session" not in browser.http.cookies
        assert token not in answer.text or len(token.strip()) == 0 or token == "container"


async def test_an_auth_service_that_is_away_is_no_wrong_token() -> None:
    services = FakeServices()
    services.authentication.raises["principal"] = DependencyUnavailableError("auth is away")
    answer = await Browser(services).sign_in("ann")
    assert answer.status_code == 503
    assert "auth is away" not in answer.text


async def test_the_api_does_not_take_the_cookie() -> None:
    services = FakeServices()
    browser = await signed_in(services, "admin")
    cookie = {"Cookie": f"cts_session={browser.http.cookies['cts_session']}"}
    for path in ("/whoami", "/jobs", "/jobs/job1", "/admin/jobs", "/jobs/job1/events"):
        answer = await Client(services).get(path, headers=cookie)
        assert answer.status_code == 401
        assert answer.json()["error"]["appcode"] == 10010


async def test_the_pages_do_not_take_a_token() -> None:
    answer = await Client(FakeServices()).get("/ui/jobs", "ann", headers={"Accept": "text/html"})
    assert answer.status_code == 303


async def test_signing_out() -> None:
    browser = await signed_in(FakeServices(), "ann")
    answer = await browser.post("/ui/sign-out", {})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/ui/sign-in?done=signed-out"
    assert 'cts_session=""' in answer.headers["Set-Cookie"]
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await browser.get("/ui/jobs")).status_code == 303


async def test_a_session_ends_with_its_time_and_with_its_token() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    kept = browser.http.cookies["cts_session"]
    services.authentication.raises["principal"] = InvalidTokenError("revoked")
    answer = await browser.get("/ui/jobs?q=x")
    assert answer.headers["Location"] == "/ui/sign-in?next=%2Fjobs%3Fq%3Dx&why=lost"
    assert 'cts_session=""' in answer.headers["Set-Cookie"]
    later = dataclasses.replace(services.info, now=lambda: NOW + datetime.timedelta(hours=12))
    other = Browser(FakeServices(info=later))
    answer = await other.get("/ui/jobs", Cookie=f"cts_session={kept}")
    assert answer.status_code == 303
    script = await other.get("/ui/jobs", Accept="text/plain", Cookie=f"cts_session={kept}")
    assert script.status_code == 401


async def test_an_auth_service_that_is_away_ends_no_session() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    services.authentication.raises["principal"] = DependencyUnavailableError("away")
    answer = await browser.get("/ui/jobs")
    assert answer.status_code == 503
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("after", "goes_to"),
    [
        ("/jobs/job1?state=error", "/ui/jobs/job1?state=error"),
        ("", "/ui/jobs"),
        ("//evil.example/x", "/ui/jobs"),
        ("https://evil.example/", "/ui/jobs"),
        ("/\\evil.example", "/ui/jobs"),
        ("jobs", "/ui/jobs"),
        ("/jobs\r\nX: y", "/ui/jobs"),
        ("//[", "/ui/jobs"),
        ("/x//[?a=//[", "/ui/x//[?a=//["),
        ("/../jobs", "/ui/jobs"),
        ("/sites/./", "/ui/jobs"),
        ("/sites/%2e%2E/%2e%2e/docs", "/ui/jobs"),
        ("/sites%2f..%2f..", "/ui/jobs"),
        ("/%5cevil.example", "/ui/jobs"),
        # No browser goes on from a form to another host.
        ("/jobs/job1/download?kind=outputs&n=3", "/ui/jobs/job1"),
        ("/admin/jobs/a%20b//%64ownload/?kind=inputs&n=0", "/ui/admin/jobs/a%20b"),
        ("/jobs/job1/log/3/stderr?whole=yes", "/ui/jobs/job1/containers/3?stream=stderr"),
        ("/jobs/job1/events", "/ui/jobs/job1"),
    ],
)
async def test_signing_in_goes_on_to_a_page_of_ours(after: str, goes_to: str) -> None:
    browser = Browser(FakeServices())
    assert (await browser.get(f"/ui/sign-in?next={urllib.parse.quote(after)}")).status_code == 200
    answer = await browser.post("/ui/sign-in", {"token": "ann", "next": after})
    assert answer.headers["Location"] == goes_to
    answer = await browser.get(f"/ui/sign-in?next={urllib.parse.quote(after)}")
    assert answer.headers["Location"] == goes_to


async def test_nobody_is_signed_in_by_a_form_of_another_site() -> None:
    browser = Browser(FakeServices())
    page = await browser.get("/ui/sign-in")
    mark = mark_of(page.text)
    for change in ({"Sec-Fetch-Site": "cross-site"}, {"Cookie": "cts_visitor=another-browser-altogether"}):
        answer = await browser.post("/ui/sign-in", {"token": "ann"}, mark, **change)
        assert answer.status_code == 403
    for origin, status in (
        ("https://evil.example", 403),
        ("http://[", 403),
        ("", 403),
        ("http://cts", 303),
        ("http://out.example", 303),
        ("null", 303),
    ):
        # Browsers that do not say from where a form comes, other than by its origin.
        sent = {
            "Origin": origin,
            "X-Forwarded-Host": "out.example, in.example",
            "Accept": "text/html",
            "Cookie": f"cts_visitor={page.cookies['cts_visitor']}",
        }
        answer = await browser.http.post("/ui/sign-in", data={"token": "ann", "mark": mark}, headers=sent)
        assert answer.status_code == status, origin


async def test_a_link_of_another_site_asks_once_more_before_it_asks_for_the_token() -> None:
    browser = Browser(FakeServices())
    answer = await browser.get("/ui/jobs/job1", **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text
    assert (await browser.get("/ui/jobs/job1")).status_code == 303


async def test_a_form_that_is_too_large_or_none_is_refused() -> None:
    browser = await signed_in(FakeServices(), "ann", max_body=2000)
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    for body in (b"args=" + b"x" * 3000, in_parts(b"args=", b"x" * 3000)):
        answer = await browser.http.post("/ui/submit", content=body, headers=headers)
        assert answer.status_code == 413
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "by the API and the command line" in answer.text
        assert answer.headers["Content-Security-Policy"]
    answer = await browser.http.post("/jobs", content=b"x" * 3000)
    assert answer.json()["error"]["httpcode"] == 413
    for body in (b"\xff\xfe", b"a=%ff", b"&".join([b"a=1"] * 1001)[:1999] + b""):
        answer = await browser.http.post("/ui/submit", content=body, headers=headers)
        assert answer.status_code in (400, 403)


async def in_parts(*parts: bytes, read: list[bytes] | None = None) -> AsyncIterator[bytes]:
    """A body whose length is not announced. read: where to note what was asked for."""
    for part in parts:
        if read is not None:
            read.append(part)
        yield part


async def test_a_form_is_not_read_of_whoever_may_not_send_it() -> None:
    read: list[bytes] = []
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    services = FakeServices()
    stranger, ann = Browser(services), await signed_in(services, "ann")
    for browser, path, status in (
        (stranger, "/ui/jobs/job1/cancel", 303),
        (stranger, "/ui/admin/service", 303),
        (stranger, "/ui/nothing/there", 303),
        (ann, "/ui/admin/service", 403),
    ):
        answer = await browser.http.post(path, content=in_parts(b"a=1", read=read), headers=headers)
        assert (answer.status_code, read) == (status, []), path
    for browser, path in ((stranger, "/ui/sign-in"), (stranger, "/ui/sign-out"), (ann, "/ui/nothing/there")):
        read.clear()
        body = in_parts(*[b"x" * 10_000] * 50, read=read)
        answer = await browser.http.post(path, content=body, headers=headers)
        assert (answer.status_code, len(read)) == (413, 2), path


@pytest.mark.parametrize("error", [DependencyUnavailableError("away"), InvalidTokenError("revoked")])
async def test_signing_out_and_files_ask_nobody(error: Exception) -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    page = await browser.get("/ui/sites")
    services.authentication.raises["principal"] = error
    services.authentication.calls.clear()
    style = page.text.partition('rel="stylesheet" href="')[2].partition('"')[0]
    assert (await browser.get(style)).status_code == 200
    answer = await browser.post("/ui/sign-out", {}, mark_of(page.text))
    assert answer.headers["Location"] == "/ui/sign-in?done=signed-out"
    assert "cts_session" not in browser.http.cookies
    assert services.authentication.calls == []
    # The page stands open in another window, and its button does no harm.
    answer = await browser.post("/ui/sign-out", {}, mark_of(page.text))
    assert answer.headers["Location"] == "/ui/sign-in?done=signed-out"


async def test_nobody_is_signed_out_by_a_form_of_another_session() -> None:
    browser = await signed_in(FakeServices(), "ann")
    old = mark_of((await browser.get("/ui/sites")).text)
    await browser.sign_in("ann")
    for mark in (old, "", "x" * 43):
        answer = await browser.post("/ui/sign-out", {}, mark)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


async def test_a_form_that_is_sent_after_the_session_is_shown_again_and_not_sent() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    mark = mark_of((await browser.get("/ui/sites")).text)
    services.authentication.raises["principal"] = InvalidTokenError("revoked")
    form = {"name": "Typed <for> long", "args": "a\r\n\r\nb", "key": "k", "do": "submit"}
    answer = await browser.post("/ui/submit", form, mark)
    assert answer.status_code == 401
    assert "Nothing was done" in answer.text
    assert "cts_session" not in browser.http.cookies
    hidden = [a for t, a in tags_of(answer.text) if t == "input"]
    kept = {str(a["name"]): str(a["value"]) for a in hidden}
    assert {name: text.replace("\r\n", "\n") for name, text in kept.items()} == {
        "name": "Typed <for> long",
        "args": "a\n\nb",
        "key": "k",
    }
    services.authentication.raises.clear()
    await browser.sign_in("ann")
    shown = await browser.post("/ui/submit", kept, "")
    assert "Typed &lt;for&gt; long" in shown.text
    assert services.submission.calls == []
    again = await browser.post("/ui/submit", {**kept, "do": "check"}, mark_of(shown.text))
    assert "Look at it" not in again.text


async def test_a_form_that_is_sent_after_the_session_and_cannot_be_kept_is_told_of() -> None:
    browser = Browser(FakeServices())
    answer = await browser.post("/ui/submit", {"args": "x" * 2**20}, "")
    assert answer.status_code == 401
    assert "too large to be kept" in answer.text
    answer = await browser.post("/ui/jobs/job1/cancel", {}, "")
    assert answer.headers["Location"] == "/ui/sign-in?next=%2Fjobs%2Fjob1%2Fcancel&why=unsent"
    assert "nothing was done" in (await browser.get("/ui/sign-in?why=unsent")).text
    answer = await browser.post("/ui/admin/jobs/job1/notify", {}, "")
    assert answer.headers["Location"] == "/ui/sign-in?why=unsent"
    answer = await browser.post("/ui/submit", {}, "", Accept="text/plain", **{"Sec-Fetch-Mode": "cors"})
    assert answer.status_code == 401


async def test_neither_tokens_nor_cookies_are_in_what_is_shown_of_objects() -> None:
    services = FakeServices()
    kept = await services.sessions.begin("ann")
    session = await services.sessions.resume(kept)
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", kept.encode())]})
    sent = Sent({"token": ["a-secret"]})
    visit = Visit(request, Pages(cast(Services, services), cast(Templates, None), True), kept, session, sent)
    token = Session(session.user, False, "a-secret")
    for shown in (repr(visit), repr(sent), repr(token)):
        assert "a-secret" not in shown
        assert kept not in shown
