"""Whether the service can do its work, and numbers on how it does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.services.numbers import Gauges, Numbers

CHECK_TIMEOUT = 5.0
"""Seconds for one dependency to answer."""


@dataclass(frozen=True)
class ServiceInfo:
    """What the service says of itself."""

    version: str
    git_hash: str
    notes: str
    now: Clock
    name: str = "CDM Task Service"


@dataclass(frozen=True)
class DependencyState:
    """Whether a dependency answers; `detail` says why not. Without one that is not required the service can still take
    jobs and bring them to their end."""

    name: str
    ok: bool
    detail: str | None = None
    required: bool = True


class Health:
    """Asks every dependency, all at once."""

    def __init__(
        self,
        required: Mapping[str, Callable[[], Awaitable[None]]],
        optional: Mapping[str, Callable[[], Awaitable[None]]],
        numbers: Numbers,
    ) -> None:
        """required, optional: by the dependency's name, a call that raises where it does not answer."""
        self._required = required
        self._optional = optional
        self._numbers = numbers

    async def ready(self) -> Sequence[DependencyState]:
        """The state of every dependency."""
        asked = [self._ask(name, check, True) for name, check in self._required.items()]
        asked += [self._ask(name, check, False) for name, check in self._optional.items()]
        return await asyncio.gather(*asked)

    async def gauges(self) -> Gauges:
        """Numbers for the metrics. Raises: DependencyUnavailableError."""
        return await self._numbers.gauges()

    @staticmethod
    async def _ask(name: str, check: Callable[[], Awaitable[None]], required: bool) -> DependencyState:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await check()
        except Exception as e:
            return DependencyState(name, False, str(e) or type(e).__name__, required)
        return DependencyState(name, True, required=required)
