"""Reference data through faults at every call of the stores that a look makes: it ends as it would without."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from mongomock_motor import AsyncMongoMockClient

from cdmtaskservice.sites.refdata import COPY, REMOVE, STAGE
from cdmtaskservice.sites.tasks import TaskStatus
from cdmtaskservice.store.database import Database, StoreUnavailableError
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.stagings import StagingStore
from test.stand_ins.refdata_house import ADMIN, DONE, GOOD, RefdataHouse, S, failed, states

pytestmark = pytest.mark.usefixtures("quiet")

CALLS = {
    "stagings": (
        *("get", "lease", "due", "release", "look_soon", "note_flow", "note_handles", "of", "transition"),
        *("set_fields", "note_progress", "end_errand", "unwant_errand"),
    ),
    "refdata": ("get",),
    "jobs": ("using_refdata",),
}
"""What looks, and the loop that makes them, call of each store."""
FAULTS: dict[str, Callable[[], BaseException]] = {
    "away": lambda: StoreUnavailableError("away"),
    "bug": lambda: RuntimeError("a bug"),
    "dead": asyncio.CancelledError,  # the look is gone, and its lease stays
}


PROGRESS = {"phase": "x", "bytes_done": 1, "bytes_total": 2, "files_done": 0, "bytes_unpacked": 0, "time": 1.0}


class Fault:
    """Raises once, at the `at`-th call of a method, before or after it has taken effect.

    calls: how often each method was called.
    """

    def __init__(self, name: str = "", at: int = 0, error: str = "away", *, after: bool = False) -> None:
        self.name, self.at, self.error, self.after = name, at, error, after
        self.calls: Counter[str] = Counter()

    def put_into(self, store: Any, kind: str) -> None:
        for method in CALLS[kind]:
            self._wrap(store, method, f"{kind}.{method}")

    def _wrap(self, store: Any, method: str, name: str) -> None:
        real = getattr(store, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            strikes = name == self.name and self.calls[name] == self.at
            if strikes and not self.after:
                raise FAULTS[self.error]()
            told = await real(*args, **kwargs)
            if strikes:
                raise FAULTS[self.error]()
            return told

        setattr(store, method, call)


async def live(fault: Fault) -> None:
    """Data is brought by a service and copied from NERSC, fails once, is recovered while it goes on, and retired."""
    database = Database(AsyncMongoMockClient(), f"test-{uuid.uuid4().hex}")
    await database.create_indexes()
    house = RefdataHouse(database)
    house.pace = 3.0
    going = TaskStatus(running=True, progress=PROGRESS)
    house.far.outcomes = {STAGE: [going] + [DONE] * 9, COPY: [DONE] * 9, REMOVE: [DONE] * 9}
    looked, of_looks = StagingStore(database), RefdataStore(database)
    step = house.step(looked, of_looks)
    fault.put_into(looked, "stagings")
    fault.put_into(of_looks, "refdata")
    jobs = type(house.jobs)(database)
    step._jobs = jobs
    fault.put_into(jobs, "jobs")
    given: Counter[str] = Counter()

    async def serve() -> None:
        for order in await house.work():
            if await house.beat(order, done=500):
                await house.report(order, S.ERROR, error="it was stopped", again="later")
                continue
            given[f"{order['task']}"] += 1
            await house.report(order)

    async with house.reconciling(step=step, stagings=looked, lease=6.0, max_backoff=3.0):
        refdata_id = await house.registered("here", "far")
        await house.until_true(refdata_id, "here", lambda s: s.errand and s.state is S.DOWNLOAD_SUBMITTED)
        order = await house.until_work()
        await house.refdata.recover(ADMIN, refdata_id, "here")

        async def staged() -> bool:
            if await house.beat(order):
                await serve()
                there = await house.at(refdata_id, "here")
                if there.errand is not None and there.errand.task == order["task"] and there.errand.outcome is None:
                    await house.report(order, S.ERROR, error="it was stopped", again="later")
            if house.far.running() and (await house.at(refdata_id, "far")).progress is not None:
                house.far.end(failed("S3 is away", "later"))
            return all([(await house.at(refdata_id, n)).state is S.COMPLETE for n in ("here", "far")])

        await house.until(staged)
        assert states(await house.at(refdata_id, "far")) == GOOD
        assert states(await house.at(refdata_id, "here")) == [*GOOD[:2], *GOOD]
        assert REMOVE not in {kind for _, kind in house.far.begun}
        staged_by = len(house.far.begun)
        await house.refdata.retire(ADMIN, refdata_id)

        async def removed() -> bool:
            await serve()
            both = [await house.at(refdata_id, n) for n in ("here", "far")]
            return all(s.removed_on and s.next_look is None for s in both)

        await house.until(removed)
    assert all(times == 1 for times in given.values()), given
    after = [kind for _, kind in house.far.begun[staged_by:]]
    assert STAGE not in after
    assert set(after) == {REMOVE, COPY}
    # A task whose beginning was noted and never happened is begun once more, and no more than that.
    assert len(house.far.begun) <= 6
    assert states(await house.at(refdata_id, "here")) == [*GOOD[:2], *GOOD]
    for site in ("here", "far"):
        staging = await house.at(refdata_id, site)
        assert (staging.error, staging.admin_error, staging.waiting, staging.failures) == (None, None, None, 0)
    database.close()


async def test_without_faults() -> None:
    fault = Fault()
    await live(fault)
    tried = {f"{kind}.{method}" for kind, methods in CALLS.items() for method in methods}
    assert tried - set(fault.calls) <= {"stagings.look_soon"}  # where two look at once


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        (f"{kind}.{method}", error)
        for kind, methods in CALLS.items()
        for method in methods
        for error in FAULTS
        if (method, error) != ("due", "dead")  # which is no look
    ],
)
async def test_a_fault_at_any_call_of_a_look(name: str, error: str, after: bool) -> None:
    counted = Fault()
    await live(counted)
    for at in sorted({1, 2, 3, 4, 5, 6, 8, counted.calls[name] - 1, counted.calls[name]}):
        if 1 <= at <= counted.calls[name]:
            await live(Fault(name, at, error, after=after))
