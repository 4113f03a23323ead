"""The relay of the outbox: publishes what jobs owe, in each job's order, and records what was acknowledged."""

from __future__ import annotations

import asyncio
import datetime
from typing import Protocol

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.store.jobs import JobStore, OwedJob

_log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """Something that tells the world of a job's transition."""

    async def publish(self, job_id: str, transition: Transition) -> None:
        """Returns once the message is safe with the broker. Raises: DependencyUnavailableError."""
        ...


class Relay:
    """Publishes owed messages; several processes may run one, each job is published by one at a time."""

    def __init__(
        self,
        jobs: JobStore,
        publisher: Publisher,
        clock: Clock,
        *,
        interval: float = 1.0,
        lease: float = 60.0,
        concurrency: int = 8,
    ) -> None:
        """interval: seconds between looks where nothing wakes the relay. lease: seconds for publishing one job."""
        self._jobs = jobs
        self._publisher = publisher
        self._clock = clock
        self._interval = interval
        self._lease = datetime.timedelta(seconds=lease)
        self._concurrency = concurrency
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """A transition was made."""
        self._wake.set()

    async def stop(self) -> None:
        """Publish no more after what is being published now."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until `stop`."""
        delay = self._interval
        while not self._stopping:
            self._wake.clear()
            faults: list[Exception] = []
            await self._drain(self._concurrency - 1, faults)
            delay = min(2 * delay, 10.0) if faults else self._interval
            for fault in faults:
                if isinstance(fault, DependencyUnavailableError):
                    _log.warning("publishing_waits", error=fault.message)
                else:
                    _log.error("publishing_failed", exc_info=fault)
            if self._stopping:
                return
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _drain(self, more: int, faults: list[Exception]) -> None:
        """Publish until nothing is owed. A drain that finds something begins another one beside itself, which may do
        so `more` times: where nothing is owed, the store is asked once.
        """
        async with asyncio.TaskGroup() as group:
            try:
                while not self._stopping:
                    owed = await self._take()
                    if owed is None:
                        return
                    if more:
                        group.create_task(self._drain(more - 1, faults))
                        more = 0
                    await self.publish(owed)
            except Exception as e:
                # One that fails must not cancel the others: a lease that is being taken then would be held by nobody.
                faults.append(e)

    async def _take(self) -> OwedJob | None:
        now = self._clock()
        taking = asyncio.ensure_future(self._jobs.lease_owed(now, now + self._lease))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # The store does what it was asked for: the lease must not stay with a relay that has ended.
            if (owed := await taking) is not None:
                await self._jobs.published(owed.id, owed.published)
            raise

    async def publish(self, owed: OwedJob) -> int:
        """Publish what a job owes, in order; returns how many messages the broker took.

        What was acknowledged before a failure is recorded, so that only the rest is sent again.
        """
        with structlog.contextvars.bound_contextvars(job=owed.id):
            return await self._publish(owed)

    async def _publish(self, owed: OwedJob) -> int:
        count = owed.published
        try:
            for transition in owed.transitions[owed.published :]:
                await self._publisher.publish(owed.id, transition)
                count += 1
        finally:
            await self._jobs.published(owed.id, count)
        return count - owed.published
