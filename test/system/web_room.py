"""A real browser at a running service, and what must hold on every page that it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from playwright.async_api import Browser, BrowserContext, Page, Request, Response, async_playwright

from cdmtaskservice.embedded import browser_packages
from test.system.driver import Driver

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PHONE = {"width": 390, "height": 800}


@asynccontextmanager
async def chromium(parts: Path) -> AsyncIterator[Browser]:
    """The browser of the parts."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=browser_packages.program(parts), args=list(ARGUMENTS)
        )
        yield browser
        await browser.close()


class Surfer:
    """Somebody at a service with a browser. Everything that goes wrong on their pages is noted in `faults`."""

    def __init__(self, driver: Driver, context: BrowserContext, page: Page) -> None:
        self.driver = driver
        self.context = context
        self.page = page
        self.faults: list[str] = []
        self.expected: set[int] = set()
        """HTTP statuses of pages that a test means to see."""
        self._urls: list[str] = []
        self.watch(page)

    def watch(self, page: Page) -> None:
        """Note what goes wrong on this page."""
        page.on("console", lambda m: self._console(m.type, m.text))
        page.on("pageerror", lambda e: self.faults.append(f"script: {e}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)
        page.on("request", lambda r: self._urls.append(r.url))

    def _console(self, kind: str, text: str) -> None:
        refused = any(f"status of {status}" in text for status in self.expected)
        if kind in {"error", "warning"} and not refused:
            self.faults.append(f"console: {text}")

    def _failed(self, request: Request) -> None:
        # A page that is left, or a stream that has ended, gives up what it had asked for.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.faults.append(f"failed: {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.faults.append(f"HTTP {response.status}: {response.url}")

    def check(self) -> None:
        """Nothing went wrong on any page, and no address had a token in it."""
        assert self.faults == []
        for url in self._urls:
            for token in self.driver.service.tokens.values():
                assert token not in url

    async def go(self, path: str) -> Self:
        """Open a page, by its path below the service's URL."""
        await self.page.goto(self.driver.service.url + path)
        return self

    async def turn(self, selector: str) -> None:
        """Click what leads to another page, and wait until that one is there: a click alone does not."""
        async with self.page.expect_navigation():
            await self.page.click(selector)

    async def sign_in(self, user: str) -> Self:
        """Sign in, at the page where one is asked to."""
        await self.go("/ui/jobs")
        await self.page.fill("#token", self.driver.service.tokens[user])
        await self.page.click("main button[type=submit]")
        await self.page.wait_for_url("**/ui/jobs")
        return self

    async def text(self, selector: str) -> str:
        """What an element says."""
        return await self.page.inner_text(selector)

    async def says(self, selector: str, words: str, within: float = 60) -> None:
        """Wait until an element says these words."""
        await self.page.locator(selector).filter(has_text=words).first.wait_for(timeout=within * 1000)

    async def fits(self) -> None:
        """The page is no wider than the window."""
        width, window = await self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        beyond = """[...document.querySelectorAll("body *")]
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
            .map((e) => `${e.tagName} ${e.className}`).slice(-5)"""
        assert width <= window, (self.page.url, width, window, await self.page.evaluate(beyond))


@asynccontextmanager
async def surfing(driver: Driver, browser: Browser, user: str | None = None, **options: Any) -> AsyncIterator[Surfer]:
    """A window of its own, with nothing of others' sessions; at its end nothing may have gone wrong.

    user: who signs in. options: of the browser's context, such as `viewport` and `color_scheme`.
    """
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        surfer = Surfer(driver, context, await context.new_page())
        if user is not None:
            await surfer.sign_in(user)
        yield surfer
        surfer.check()
    finally:
        await context.close()
