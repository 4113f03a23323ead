"""Calls to NERSC after one that was not answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws import breaker
from cdmtaskservice.sites.jaws.config import NerscConfig
from cdmtaskservice.sites.jaws.nersc import Nersc


async def test_one_caller_tries_again_after_a_while_and_then_all_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(breaker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked: list[str] = []
    hangs = [True]

    class Client:
        async def get(self, path: str) -> httpx.Response:
            asked.append(path)
            if hangs[0]:
                await asyncio.Event().wait()
            return httpx.Response(200, json={"name": "ann"})

    async def current() -> Client:
        return Client()

    config = SimpleNamespace(credentials=Path("/nowhere"), concurrency=4, timeout=0.01)
    nersc = Nersc(cast(NerscConfig, config))
    monkeypatch.setattr(nersc, "_current", cast(Any, current))
    for _ in range(3):  # only the first of them waits
        with pytest.raises(SiteUnreachableError, match="did not answer"):
            await nersc.check()
    assert len(asked) == 1
    hangs[0] = False
    now[0] += 11
    await nersc.check()
    await nersc.check()
    assert len(asked) == 3
