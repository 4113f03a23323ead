"""One question to a pool for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from cdmtaskservice.sites.htcondor.batch import Coalesced


async def test_what_is_asked_for_several_is_asked_in_nobodys_name() -> None:
    asked: list[tuple[Collection[str], object]] = []

    async def fetch(keys: Collection[str]) -> int:
        asked.append((sorted(keys), structlog.contextvars.get_contextvars()))
        return 7

    batch = Coalesced(fetch, 0.001)

    async def ask(key: str) -> int:
        with structlog.contextvars.bound_contextvars(job=key):
            return await batch.ask([key])

    assert await asyncio.gather(*(ask(key) for key in "abc")) == [7, 7, 7]
    assert asked == [(["a", "b", "c"], {})]
