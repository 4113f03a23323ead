"""The loop that looks at jobs: when they are due, and at once when something hints that there is news.

A look holds a lease on its job, so several service processes may run this loop side by side. A look that raises is
repeated with exponential backoff and jitter, with the reason kept on the job; nothing that raises ever fails a job.
A loop that ends hands its leases over: what it cannot bring to an end in time is due at once, for any other process.

The same loop looks at stagings of reference data: what is said of jobs here is so of them, too.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import random
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeAlias, TypeVar

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.store.looks import Lease, Looked, LookStore

_log = structlog.get_logger(__name__)

_REST = 4.0
"""After a look a job is left alone for so many times as long as the look took, so that looks at it take a fifth of the
time at most, however fast its containers report."""

_LONGEST_REST = 1.0

_HAND_OVER = 5.0
"""Seconds for giving back, at the end, what is held."""

MAX_WANTED = 10_000
"""Hints that wait at once; whoever is turned away is found when its next look is due."""


class Job(Looked, Protocol):
    """What is looked at."""

    @property
    def site(self) -> str:
        """Where it is."""
        ...

    @property
    def failures(self) -> int:
        """How many looks in a row have failed."""
        ...

    def overtakes(self, earlier: Self) -> bool:
        """Whether somebody has asked for a look since, which must not wait for that after a failure."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Wait(Generic[J]):
    """Look again in `delay` seconds.

    why: why the job does not move on, if something holds it up; for administrators. told: the same for its owner, where
    there is something to say.
    """

    job: J
    delay: float
    why: str | None = None
    told: str | None = None


@dataclass(frozen=True)
class Done(Generic[J]):
    """Nothing is left to do for this job."""

    job: J


Next: TypeAlias = Wait[J] | Done[J]


class Step(Protocol[J]):
    """One look at a job of some kind."""

    async def look(self, job: J, *, full: bool, reachable_since: datetime.datetime) -> Next[J]:
        """Look once. `full` is False where only a hint has come; then the engine need not be asked."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """All times in seconds.

    lease: how long a look may hold a job without a sign of life. poll_interval: between searches for due jobs.
    max_backoff: the longest wait after failed looks. concurrency: looks at once. coalesce: hints of one job that come
    within this time share a look.
    """

    lease: float = 30.0
    poll_interval: float = 1.0
    max_backoff: float = 60.0
    concurrency: int = 8
    coalesce: float = 0.05


class Reconciler(Generic[J]):
    """Runs looks at jobs, each job by one process at a time."""

    def __init__(
        self,
        jobs: LookStore[J],
        step: Step[J],
        clock: Clock,
        owner: str,
        config: LoopConfig,
        *,
        of: str = "job",
        meter: Meter = UNMETERED,
    ) -> None:
        """owner: a name for this process that no other process has or had. of: what is looked at, in logs and
        numbers."""
        self._jobs = jobs
        self._step = step
        self._clock = clock
        self._owner = owner
        self._config = config
        self._of = of
        self._meter = meter
        self._wanted: dict[str, bool] = {}
        """Jobs to look at now, and whether the look must be full."""
        self._running: dict[str, asyncio.Task[None]] = {}
        self._resting: dict[str, float] = {}
        """Until when jobs that were just looked at are left alone, by the event loop's clock."""
        self._wake = asyncio.Event()
        self._stopping = False
        self._slots = asyncio.Semaphore(config.concurrency)
        self._reachable_since: datetime.datetime | None = None
        self._searched: datetime.datetime | None = None
        self._random = random.Random()  # noqa: S311 - jitter

    def hint(self, job_id: str, *, full: bool = False) -> None:
        """There may be news of a job: look at it soon. `full` where the engine should be asked as well."""
        if job_id in self._wanted or len(self._wanted) < MAX_WANTED:
            self._wanted[job_id] = full or self._wanted.get(job_id, False)
        self._wake.set()

    async def run(self) -> None:
        """Look at jobs until `stop`."""
        try:
            while not self._stopping:
                more = False
                try:
                    more = await self._search()
                except DependencyUnavailableError as e:
                    self._reachable_since = None
                    _log.warning("reconciler_waits", error=e.message)
                except Exception:
                    self._reachable_since = None
                    _log.exception("reconciler_search_failed")
                await self._serve_hints(more)
            await self._drain()
        finally:
            await self._break_off()
            await self.pass_on()

    async def stop(self) -> None:
        """Begin no more looks. `run` returns once those that run are over and their leases handed over."""
        self._stopping = True
        self._wake.set()

    async def _search(self) -> bool:
        """Want looks at the jobs that are due. True where there may be more of them than were asked for."""
        now = self._clock()
        if self._searched is not None and (now - self._searched).total_seconds() > self._config.lease:
            # This process stood still, so executors could not have reached it whatever the database says.
            self._reachable_since = None
        limit = 4 * self._config.concurrency
        found = await self._jobs.due(now, limit)
        for job_id in found:
            if job_id not in self._running:
                self._wanted.setdefault(job_id, False)
        self._searched = self._clock()
        if self._reachable_since is None:
            self._reachable_since = self._searched
        return len(found) == limit

    async def _serve_hints(self, more: bool) -> None:
        """Start the looks that are wanted, for one poll interval or, where `more` are due, until all are started."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._config.poll_interval * self._random.uniform(0.8, 1.2)
        while not self._stopping and (left := end - loop.time()) > 0:
            self._start_looks()
            if more and not self._wanted and len(self._running) <= self._config.concurrency:
                await asyncio.sleep(self._config.coalesce)
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return
            await asyncio.sleep(self._config.coalesce)

    def _start_looks(self) -> None:
        now = asyncio.get_running_loop().time()
        for job_id in list(self._wanted):
            if len(self._running) >= 4 * self._config.concurrency:
                return
            if job_id not in self._running and self._resting.get(job_id, 0.0) <= now:
                full = self._wanted.pop(job_id)
                task = asyncio.create_task(self._look(job_id, full), name=f"look-{job_id}")
                self._running[job_id] = task
                task.add_done_callback(functools.partial(self._ended, job_id, now))

    def _ended(self, job_id: str, begun: float, _: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        # A job whose looks are long, having many containers, rests after each: reports come faster than looks.
        loop = asyncio.get_running_loop()
        rest = min(_REST * (loop.time() - begun), _LONGEST_REST)
        self._resting[job_id] = loop.time() + rest
        loop.call_later(rest, self._rested, job_id)
        self._wake.set()  # there is room for another look

    def _rested(self, job_id: str) -> None:
        self._resting.pop(job_id, None)
        if job_id in self._wanted:
            self._wake.set()

    async def _drain(self) -> None:
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def pass_on(self) -> None:
        """After the end: let other processes look at once at what there have been hints of."""
        try:
            async with asyncio.timeout(_HAND_OVER):
                while self._wanted:
                    job_id, _ = self._wanted.popitem()
                    await self._jobs.look_soon(job_id, self._clock())
        except (DependencyUnavailableError, TimeoutError):
            _log.warning("hints_not_handed_over", of=self._of, hints=len(self._wanted))

    async def _break_off(self) -> None:
        looks = list(self._running.values())
        for task in looks:
            task.cancel()
        if looks:
            await asyncio.wait(looks, timeout=2 * _HAND_OVER)

    async def _look(self, job_id: str, full: bool) -> None:
        begun = False
        try:
            async with self._slots:
                begun = not self._stopping
                if begun:
                    with structlog.contextvars.bound_contextvars(**{self._of: job_id}):
                        await self._take_and_look(job_id, full)
        finally:
            if not begun:
                self._wanted.setdefault(job_id, full)

    async def _take_and_look(self, job_id: str, full: bool) -> None:
        now = self._clock()
        lease = Lease(self._owner, now + datetime.timedelta(seconds=self._config.lease))
        taking = asyncio.ensure_future(self._jobs.lease(job_id, lease, now))
        try:
            # What the store was asked for it may do, though nobody waits for it: then the lease must be given back.
            job = await asyncio.shield(taking)
            if job is None:
                # Whoever looks now may have read the containers before the news came: it must look again.
                await self._jobs.look_soon(job_id, now)
                return
            if job.next_look is None:
                await self._jobs.release(job, self._owner, next_look=None)
                return
            with structlog.contextvars.bound_contextvars(site=job.site):
                await self._look_metered(job, full or job.next_look <= now, now)
        except asyncio.CancelledError:
            await self._hand_over(job_id, taking)
            raise
        except DependencyUnavailableError as e:
            # The lease runs out by itself, and the job is due then if it was due now.
            _log.warning("look_interrupted", error=e.message)
        except Exception:
            _log.exception("look_failed")

    async def _hand_over(self, job_id: str, taking: asyncio.Future[J | None]) -> None:
        """Give back the lease of a look that was broken off. One that was lost meanwhile stays with whoever has it."""
        try:
            async with asyncio.timeout(_HAND_OVER):
                if await taking is not None and await self._jobs.hand_over(job_id, self._owner, self._clock()):
                    _log.info("lease_handed_over")
        except (DependencyUnavailableError, TimeoutError) as e:
            _log.warning("lease_not_handed_over", error=str(e) or type(e).__name__)

    async def _look_metered(self, job: J, full: bool, now: datetime.datetime) -> None:
        since = self._jobs.due_since(job)
        late = max(0.0, (now - since).total_seconds()) if since is not None and since <= now else None
        begun = asyncio.get_running_loop().time()
        outcome = "broken_off"
        try:
            outcome = await self._look_leased(job, full)
        finally:
            self._meter.looked(self._of, outcome, asyncio.get_running_loop().time() - begun, late)

    async def _look_leased(self, job: J, full: bool) -> str:
        """Look, note what came of it, and say it in a word."""
        planned = job.next_look
        look = asyncio.current_task()
        assert look is not None
        keeper = asyncio.create_task(self._keep_lease(job.id, look))
        try:
            since = self._reachable_since or self._clock()
            result = await self._step.look(job, full=full, reachable_since=since)
        except Exception as e:
            transient = isinstance(e, DependencyUnavailableError)
            _log.warning("look_will_be_repeated", error=repr(e), exc_info=not transient)
            why = e.message if isinstance(e, CTSError) else f"{type(e).__name__}: {e}"
            at = self._clock() + datetime.timedelta(seconds=self._backoff(job.failures))
            current = await self._jobs.get(job.id) or job
            if current.overtakes(job):
                current = job
            await self._jobs.release(
                current,
                self._owner,
                next_look=at,
                failures=job.failures + 1,
                waiting=why[:1000],
                told=e.told if isinstance(e, SiteUnreachableError) else None,
            )
            return "unavailable" if transient else "failed"
        finally:
            keeper.cancel()
        if isinstance(result, Done):
            await self._jobs.release(result.job, self._owner, next_look=None)
            return "done"
        at = self._clock() + datetime.timedelta(seconds=result.delay)
        if not full and planned is not None:
            at = planned
        if not await self._jobs.release(result.job, self._owner, next_look=at, waiting=result.why, told=result.told):
            self.hint(job.id, full=True)
        return "waits" if result.why is None else "held_up"

    async def _keep_lease(self, job_id: str, look: asyncio.Task[None]) -> None:
        """Keep the lease for as long as the look takes; break the look off where the lease was lost."""
        held = self._clock() + datetime.timedelta(seconds=self._config.lease)
        kept = True
        while kept:
            await asyncio.sleep(self._config.lease / 3)
            until = self._clock() + datetime.timedelta(seconds=self._config.lease)
            try:
                kept = await self._jobs.extend(job_id, Lease(self._owner, until))
                held = until
            except DependencyUnavailableError as e:
                kept = self._clock() < held
                _log.warning("lease_not_extended", error=e.message)
        _log.warning("lease_lost")
        look.cancel()

    def _backoff(self, failures: int) -> float:
        longest = min(self._config.max_backoff, 0.5 * 2.0 ** min(failures, 20))
        return longest * self._random.uniform(0.5, 1.0)
