"""A browser, as far as pages without scripts need one: it keeps cookies, sends forms, and says where from."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx

from test.unit.api_fakes import FakeServices

ORIGIN = "http://cts"


class Browser:
    """One browser at an application in this process. headers: of the last answer."""

    def __init__(self, services: FakeServices, **options: Any) -> None:
        self.services = services
        transport = httpx.ASGITransport(services.app(**options), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        self.root = ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page."""
        sent = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", **headers}
        return await self.http.get(self.root + path, headers=sent)

    async def post(self, path: str, fields: dict[str, Any], mark: str | None = None, **headers: str) -> httpx.Response:
        """A form, with the mark that the page of sites or of signing in carries."""
        if mark is None:
            page = await self.get("/ui/sites" if "cts_session" in self.http.cookies else "/ui/sign-in")
            mark = mark_of(page.text)
        sent = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", **headers}
        return await self.http.post(self.root + path, data={"mark": mark, **fields}, headers=sent)

    async def sign_in(self, token: str) -> httpx.Response:
        """Sign in."""
        return await self.post("/ui/sign-in", {"token": token})


async def signed_in(services: FakeServices, token: str, **options: Any) -> Browser:
    """A browser in which somebody has signed in."""
    browser = Browser(services, **options)
    answer = await browser.sign_in(token)
    assert answer.status_code == 303, answer.text
    return browser


def mark_of(page: str) -> str:
    """The mark of a page's forms."""
    found = re.search(r'name="mark" value="([^"]+)"', page)
    assert found, page
    return found[1]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """All tags of a page with their attributes."""
    reader = _Reader()
    reader.feed(page)
    return reader.tags


def text_of(page: str) -> str:
    """What a page says."""
    reader = _Reader()
    reader.feed(page)
    return " ".join(" ".join(reader.words).split())
