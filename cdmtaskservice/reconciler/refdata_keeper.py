"""Sees to it that what is retired comes to be removed, and what was not retired after all can be used again."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.stagings import StagingStore

_log = structlog.get_logger(__name__)

_BROKEN_OFF = 60.0
"""Seconds after which a request to retire something is not under way any more."""
_AT_ONCE = 100


class RefdataKeeper:
    """Runs in every process; what it does may be done twice."""

    def __init__(
        self,
        refdata: RefdataStore,
        stagings: StagingStore,
        clock: Clock,
        look: Callable[[str], None],
        *,
        interval: float = 30.0,
    ) -> None:
        """look: told the ID of a staging to look at. interval: seconds."""
        self._refdata = refdata
        self._stagings = stagings
        self._clock = clock
        self._look = look
        self._interval = interval

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            try:
                await self.keep()
            except DependencyUnavailableError as e:
                _log.warning("refdata_keeper_waits", error=e.message)
            except Exception:
                _log.exception("refdata_keeper_failed")
            await asyncio.sleep(self._interval)

    async def keep(self) -> None:
        """Look once."""
        before = self._clock() - datetime.timedelta(seconds=_BROKEN_OFF)
        for refdata in await self._refdata.broken_off(before, _AT_ONCE):
            assert refdata.retiring is not None
            await self._refdata.stop_retiring(refdata.id, refdata.retiring)
            _log.info("retirement_broken_off", refdata=refdata.id)
        if not (removing := [r.id for r in await self._refdata.removing()]):
            return
        left = [s for s in await self._stagings.of(removing) if s.removed_on is None]
        for staging in left:
            if staging.next_look is None:
                await self._stagings.wake(staging.id)
                self._look(staging.id)
        for refdata_id in set(removing) - {s.refdata_id for s in left}:
            await self._refdata.gone(refdata_id)
