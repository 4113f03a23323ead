"""Signing in and out, what browsers keep of it, and who may use it."""

from __future__ import annotations

import dataclasses
import datetime
import re

import pytest

from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidTokenError
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import NOW
from test.unit.web_client import Browser, mark_of, signed_in


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
    assert "ann" not in re.split(r"[-_]", value)
    assert services.sessions.resume
    assert (await browser.get("/ui/jobs")).status_code == 200


@pytest.mark.parametrize(
    ("options", "headers"), [({"secure": True}, {}), ({}, {"X-Forwarded-Proto": "https"})], ids=["set", "proxy"]
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
    ],
)
async def test_signing_in_goes_on_to_a_page_of_ours(after: str, goes_to: str) -> None:
    answer = await Browser(FakeServices()).post("/ui/sign-in", {"token": "ann", "next": after})
    assert answer.headers["Location"] == goes_to


async def test_nobody_is_signed_in_by_a_form_of_another_site() -> None:
    browser = Browser(FakeServices())
    page = await browser.get("/ui/sign-in")
    mark = mark_of(page.text)
    for change in ({"Sec-Fetch-Site": "cross-site"}, {"Cookie": "cts_visitor=another-browser-altogether"}):
        answer = await browser.post("/ui/sign-in", {"token": "ann"}, mark, **change)
        assert answer.status_code == 403
    for origin, status in (("https://evil.example", 403), ("http://cts", 303), ("null", 303)):
        # Browsers that do not say from where a form comes, other than by its origin.
        sent = {"Origin": origin, "Accept": "text/html", "Cookie": f"cts_visitor={page.cookies['cts_visitor']}"}
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
    assert (await browser.post("/ui/submit", {"args": "x" * 3000}, "m")).status_code == 413
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    for body in (b"\xff\xfe", b"a=%ff", b"&".join([b"a=1"] * 1001)[:1999] + b""):
        answer = await browser.http.post("/ui/submit", content=body, headers=headers)
        assert answer.status_code in (400, 403)
