"""Why a queued run finds no machine: HTCondor's own evaluation of its requirements against the pool's slots."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdmtaskservice.sites.htcondor.gateway import Gateway

_GOOD_FOR = 60.0
_KEPT = 1000


@dataclass(frozen=True)
class Analysis:
    """slots: in the pool. matching: those that would take the run if nothing ran on them. rejecting: those that it
    would have, and that do not want it. clauses: parts of its requirements, with the slots that meet each. said: the
    schedd's own words."""

    slots: int
    matching: int
    rejecting: int
    clauses: Sequence[tuple[str, int]]
    said: str | None

    def told_to_admins(self) -> str:
        """Everything, in one line."""
        parts = [f"{self.matching} of {self.slots} slots of the pool match, looked at as if they were idle"]
        if self.rejecting:
            parts.append(f"{self.rejecting} would do and reject the job themselves (START)")
        parts += [f"{count} meet {clause}" for clause, count in self.clauses]
        if self.said:
            parts.append(f"the schedd says: {self.said}")
        return "; ".join(parts)

    def told_to_owner(self, site: str) -> str:
        """What somebody can do about it who knows nothing of the pool."""
        if not self.slots:
            return f"the site {site} has no machines just now; it waits until there is one"
        return (
            f"no machine of the site {site} has all that it asks for (CPUs, memory, disk, GPUs), not even an idle one; "
            "it waits until there is such a machine: cancel the job and ask for less if that should not be"
        )


class Analyses:
    """Makes analyses, each good for a minute and for all that asks for the same: it looks at every slot of the pool."""

    def __init__(self, gateway: Gateway, limit: float) -> None:
        """limit: seconds for one of them."""
        self._gateway = gateway
        self._limit = limit
        self._made: dict[Hashable, tuple[float, Analysis]] = {}

    async def of(self, job: str, asks: Hashable) -> Analysis | None:
        """The analysis of `cluster.proc`, which asks for `asks`; None where it is queued no more.

        Raises: SiteUnreachableError.
        """
        now = time.monotonic()
        known = self._made.get(asks)
        if known is not None and now - known[0] < _GOOD_FOR:
            return known[1]
        found: Mapping[str, Any] | None = await self._gateway.call("analyze", self._limit, vital=False, job=job)
        if found is None:
            return None
        analysis = Analysis(
            found["slots"],
            found["matching"],
            found["rejecting"],
            [(clause["clause"], clause["slots"]) for clause in found["clauses"]],
            found["said"],
        )
        if len(self._made) >= _KEPT:
            self._made = {name: made for name, made in self._made.items() if now - made[0] < _GOOD_FOR}
        self._made[asks] = now, analysis
        return analysis
