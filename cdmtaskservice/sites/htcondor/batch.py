"""One question for many who ask at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalesced(Generic[K, V]):
    """Gathers what callers want to know within a moment, or while the question before is being answered."""

    def __init__(self, fetch: Callable[[Collection[K]], Awaitable[V]], moment: float = 0.02) -> None:
        """fetch: answers for many keys at once. moment: seconds for which others are waited for."""
        self._fetch = fetch
        self._moment = moment
        self._turn = asyncio.Lock()
        self._wanted: set[K] = set()
        self._gathering: asyncio.Task[V] | None = None

    async def ask(self, keys: Collection[K]) -> V:
        """The answer to a question that was put after this call and covers `keys`. Raises what `fetch` raises."""
        self._wanted.update(keys)
        if self._gathering is None:
            # It is asked for several, so it must not log in the name of the one who came first.
            self._gathering = asyncio.create_task(self._answer(), context=contextvars.Context())
        # One of those who asked may be cancelled; the others still want to know.
        return await asyncio.shield(self._gathering)

    async def _answer(self) -> V:
        await asyncio.sleep(self._moment)
        async with self._turn:
            wanted, self._wanted = self._wanted, set()
            self._gathering = None
            return await self._fetch(wanted)
