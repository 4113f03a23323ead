"""Numbers on all that the service has in hand, as the store tells them: every replica gives the same."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.meter import Meter
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.looks import Lag
from cdmtaskservice.store.stagings import StagingStore


@dataclass(frozen=True)
class LookLag:
    """due: how many wait for a look that is due. seconds: for how long the one that waits longest."""

    due: int
    seconds: float


@dataclass(frozen=True)
class Gauges:
    """What the store says.

    jobs: numbers by (site, state). waiting: of those the ones that cannot go on now. oldest: seconds for which the
    job that has been longest in a state is in it. Both are of jobs that are not over.
    owed: jobs that owe messages to the broker. messages: how many they owe. owed_seconds: for how long the oldest.
    lag: by what is looked at. stagings: of reference data, by (site, state).
    """

    jobs: Mapping[tuple[str, str], int]
    owed: int
    waiting: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest: Mapping[tuple[str, str], float] = field(default_factory=dict)
    messages: int = 0
    owed_seconds: float = 0.0
    lag: Mapping[str, LookLag] = field(default_factory=dict)
    stagings: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Metrics(Meter, Protocol):
    """Whoever keeps the numbers, and shows them."""

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request was answered. route: a template, never a path. seconds: None where its reader decided how long."""
        ...

    def page(self, gauges: Gauges | None, sites: Mapping[str, bool]) -> bytes:
        """Everything in Prometheus' text format; without `gauges`, what the store says is left out.

        sites: whether each is available.
        """
        ...


PATIENCE = 3.0
"""Seconds for the store to tell its numbers: who collects them waits for ten, and wants those of the process anyway."""

_GOOD_FOR = datetime.timedelta(seconds=5)
"""How old numbers may be: anybody may ask for them, and they cost more than one question."""


class Numbers:
    """Asks the store."""

    def __init__(self, jobs: JobStore, stagings: StagingStore, clock: Clock) -> None:
        self._jobs = jobs
        self._stagings = stagings
        self._clock = clock
        self._known: tuple[datetime.datetime, Gauges] | None = None
        self._turn = asyncio.Lock()

    async def gauges(self) -> Gauges:
        """All of them, as they were a few seconds ago. Raises: DependencyUnavailableError."""
        try:
            async with asyncio.timeout(PATIENCE), self._turn:
                if self._known is None or self._clock() - self._known[0] >= _GOOD_FOR:
                    self._known = self._clock(), await self._ask()
                return self._known[1]
        except TimeoutError:
            raise DependencyUnavailableError(f"The database does not tell its numbers within {PATIENCE:g} s") from None

    async def _ask(self) -> Gauges:
        now = self._clock()
        counts, active, owed, job_lag, staging_lag, stagings = await asyncio.gather(
            self._jobs.counts(),
            self._jobs.active(),
            self._jobs.owing(),
            self._jobs.lag(now),
            self._stagings.lag(now),
            self._stagings.counts(),
        )
        return Gauges(
            jobs=counts,
            waiting={key: of.waiting for key, of in active.items()},
            oldest={key: _ago(now, of.since) for key, of in active.items()},
            owed=owed.jobs,
            messages=owed.messages,
            owed_seconds=_ago(now, owed.since),
            lag={"job": _lag(now, job_lag), "staging": _lag(now, staging_lag)},
            stagings=stagings,
        )


def _lag(now: datetime.datetime, lag: Lag) -> LookLag:
    return LookLag(lag.due, _ago(now, lag.since))


def _ago(now: datetime.datetime, since: datetime.datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
