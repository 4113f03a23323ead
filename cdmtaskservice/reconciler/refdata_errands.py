"""Tasks that a site's reference data service does: asked for in the database, where it comes to look for them.

It says who it is and takes what nobody has, gives signs of life, and tells how it ended. A task that it has been silent
about for too long is lost: the next one has another name, and whatever is still said of the old one is refused.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.refdata import Errand
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus
from cdmtaskservice.store.stagings import StagingStore

_LONG = 15.0
"""Seconds in which nobody comes, or says anything, before administrators are told so."""
NOBODY = "no reference data service has come for it; is one running for this site?"


@dataclass(frozen=True)
class RefdataErrands:
    """A `RefdataPlace`. The plans are made when somebody comes for a task, who knows where the data goes.

    silence: seconds. reachable_since: since when those who do the tasks could have reached this service.
    """

    stagings: StagingStore
    clock: Clock
    silence: float
    reachable_since: datetime.datetime
    copies: bool = False

    def root(self) -> str:
        """Known only where the tasks are done."""
        return ""

    async def require_up(self) -> None:
        """A task waits until somebody comes."""

    async def begin_task(self, owner: str, name: str, kind: str, plan: Plan) -> str:
        """Ask for it."""
        await self.stagings.put_errand(owner, Errand(name, kind, self.clock()), number=int(name.rpartition("-")[2]))
        return ""

    async def task_status(self, owner: str, name: str, handle: str | None, age: float = 0.0) -> TaskStatus:
        """What has been said of it."""
        errand = await self._errand(owner)
        if errand is None or errand.task != name:
            return TaskStatus(lost="nobody was asked to do it")
        if errand.outcome is not None:
            told = errand.outcome
            if told["ok"]:
                return TaskStatus(result=told)
            if told.get("crashed"):
                return TaskStatus(lost=str(told["error"]), crashed=True)
            return TaskStatus(failure=TaskFailure(told["error"], told.get("admin_error"), told.get("again")))
        silent = (self.clock() - max(errand.seen, self.reachable_since)).total_seconds()
        waits = silent > min(_LONG, self.silence / 2)
        if errand.claim is None:
            return TaskStatus(running=True, why=NOBODY if waits else None)
        if silent > self.silence:
            return TaskStatus(lost=f"the reference data service was not heard of for {silent:.0f} s", crashed=True)
        why = f"the reference data service was last heard of {silent:.0f} s ago" if waits else None
        return TaskStatus(running=True, why=why)

    async def stop_task(self, owner: str, name: str, handle: str | None, age: float) -> bool:
        """Tell whoever does it to stop; over once that one has said so, or is silent."""
        stopped = {"ok": 0, "error": "it was not wanted any more", "again": "later"}
        if await self.stagings.end_errand(owner, name, None, stopped):
            return True
        status = await self.task_status(owner, name, handle, age)
        if status.running:
            await self.stagings.unwant_errand(owner, name)
        return not status.running

    async def _errand(self, owner: str) -> Errand | None:
        staging = await self.stagings.get(owner)
        if staging is None:
            raise SiteUnreachableError(f"There is no staging {owner}")
        return staging.errand
