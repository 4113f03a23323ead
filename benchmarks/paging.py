"""How quickly pages come, and how large they are."""

from __future__ import annotations

import re
import time
import urllib.parse
import zlib
from dataclasses import dataclass

import aiohttp

from benchmarks.figures import Effort, Figure, files_of, median
from benchmarks.load import Refused
from benchmarks.reporting import CONTAINERS
from benchmarks.stage import House


@dataclass(frozen=True)
class _Seen:
    """One page. first: seconds until its first byte. all: until its last."""

    first: float
    all: float
    size: int
    zipped: int


async def pages(house: House, effort: Effort) -> list[Figure]:
    """The page of a job that is large in every way, beside that of the smallest one, and the list of jobs."""
    containers, files = effort.times(CONTAINERS, 200), effort.most_files
    large = await house.submit(house.job(await house.stage.files(files), containers))
    small = await house.submit(house.job(await house.stage.files(1)))
    times = effort.times(30, 8)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        await _sign_in(browser, house)
        seen = {
            name: await _look(browser, f"{house.service.url}/ui{path}", times)
            for name, path in (("small", f"/jobs/{small}"), ("large", f"/jobs/{large}"), ("list", "/jobs"))
        }
    await house.cancel([small, large])
    what = f"page of a job of {containers:,} containers, {files_of(files)}"
    first, last, size, zipped = seen["large"]
    return [
        Figure("pages.first", f"{what}: first byte", first, "ms"),
        Figure("pages.last", "last byte", last, "ms"),
        Figure("pages.size", "size", size, "kB", note=f"{zipped:.0f} kB when a proxy compresses it"),
        Figure("pages.small.first", "page of a job of one container and file: first byte", seen["small"][0], "ms"),
        Figure("pages.small.size", "size", seen["small"][2], "kB"),
        Figure("pages.list.first", "list of jobs: first byte", seen["list"][0], "ms"),
        Figure("flat.pages", "first byte, large ÷ small", first / seen["small"][0], "×"),
    ]


async def _look(browser: aiohttp.ClientSession, url: str, times: int) -> tuple[float, float, float, float]:
    """Medians: milliseconds to the first and last byte; kilobytes as they are, and compressed."""
    seen = [await _page(browser, url) for _ in range(times)]
    return (
        1000 * median([s.first for s in seen]),
        1000 * median([s.all for s in seen]),
        median([s.size for s in seen]) / 1000,
        median([s.zipped for s in seen]) / 1000,
    )


async def _page(browser: aiohttp.ClientSession, url: str) -> _Seen:
    begun = time.perf_counter()
    async with browser.get(url, allow_redirects=False) as reply:
        data = await reply.content.readany()
        first = time.perf_counter() - begun
        data += await reply.content.read()
        if reply.status != 200:
            raise Refused(f"{url}: {reply.status} {data[:500]!r}")
        return _Seen(first, time.perf_counter() - begun, len(data), len(zlib.compress(data)))


async def _sign_in(browser: aiohttp.ClientSession, house: House) -> None:
    url = f"{house.service.url}/ui/sign-in"
    async with browser.get(url) as reply:
        mark = re.search(r'name="mark" value="([^"]+)"', await reply.text())
    if mark is None:
        raise Refused(f"{url} has no form to sign in with")
    sent = {"mark": mark[1], "token": house.service.tokens["ann"]}
    origin = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
    async with browser.post(url, data=sent, headers={"Origin": origin}, allow_redirects=False) as reply:
        if reply.status != 303:
            raise Refused(f"{url}: {reply.status} {await reply.text()}")
