"""Reference data on one database: stores, places whose tasks a test steers, and everything that speaks of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import NoSuchS3PathError
from cdmtaskservice.domain.refdata import RefdataRecord, StagingRecord
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.reconciler.loop import LoopConfig, Reconciler
from cdmtaskservice.reconciler.refdata_keeper import RefdataKeeper
from cdmtaskservice.reconciler.stagings import StagingConfig, Stagings
from cdmtaskservice.s3.model import S3Object
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.services.refdata_desk import RefdataDesk
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.sites.base import SiteHealth, SiteUnreachableError
from cdmtaskservice.sites.refdata import StagingLimits
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.sites import SiteStore
from cdmtaskservice.store.stagings import StagingStore
from test.stand_ins.clockwork import FakeClock, counting_ids, eventually
from test.stand_ins.fake_site import FakeSite

S = RefdataState
ADMIN = Principal("adam", frozenset({"admin"}))
FILE = "cts-data/ref/db.tar.gz"
CRC = "AAAAAAAAAAA="
ROOT = "/data/ref"
LIMITS = StagingLimits(connections=4, piece_size=1 << 20, patience=60.0, max_files=100, max_bytes=1 << 30)
GOOD = [S.CREATED, S.DOWNLOAD_SUBMITTED, S.COMPLETE]


def states(staging: StagingRecord) -> list[RefdataState]:
    return [t.state for t in staging.transitions]


class FakeS3:
    """objects: checksums by path, None for an object without one."""

    def __init__(self) -> None:
        self.objects: dict[str, str | None] = {FILE: CRC}

    async def head(self, path: str) -> S3Object:
        if path not in self.objects:
            raise NoSuchS3PathError(f"There is no {path}")
        return S3Object(path, 1000, self.objects[path], "e")

    async def head_many(self, paths: Sequence[str]) -> Sequence[S3Object]:
        return [await self.head(path) for path in paths]

    async def check_writable(self, path: str) -> None:
        pass


class FakePlace:
    """A place whose tasks run until they are told how to end.

    outcomes: by kind, how the next tasks end at once. begun: (OWNER/NAME, kind) in order; begun twice it is one task.
    tasks, plans: what is said of each, and was last asked.
    """

    def __init__(self, *, copies: bool = False, directory: str = "/dtn/ref/cts") -> None:
        self.copies = copies
        self.directory = directory
        self.outcomes: dict[str, list[TaskStatus]] = {}
        self.begun: list[tuple[str, str]] = []
        self.plans: dict[str, Plan] = {}
        self.tasks: dict[str, TaskStatus] = {}
        self.stopped: list[str] = []
        self.slow_stop = 0
        """So many more calls of `stop_task` leave what runs running."""
        self.unreachable: str | None = None
        self.down: str | None = None
        """Why nothing should be begun."""

    def root(self) -> str:
        return self.directory

    async def require_up(self) -> None:
        self._answer()
        if self.down is not None:
            raise SiteUnreachableError(self.down)

    async def begin_task(self, owner: str, name: str, kind: str, plan: Plan) -> str:
        self._answer()
        task = f"{owner}/{name}"
        if task not in self.tasks:
            self.begun.append((task, kind))
            ends = self.outcomes.get(kind)
            self.tasks[task] = ends.pop(0) if ends else TaskStatus(running=True)
        self.plans[task] = plan
        return f"h-{name}"

    async def task_status(self, owner: str, name: str, handle: str | None, age: float = 0.0) -> TaskStatus:
        self._answer()
        return self.tasks.get(f"{owner}/{name}", TaskStatus(lost="there is no such task"))

    async def stop_task(self, owner: str, name: str, handle: str | None, age: float) -> bool:
        self._answer()
        task = f"{owner}/{name}"
        if task in self.running():
            if self.slow_stop > 0:
                self.slow_stop -= 1
                return False
            self.stopped.append(task)
            self.tasks[task] = failed("it was stopped", "later")
        return True

    def end(self, status: TaskStatus) -> None:
        """The one task that runs ends so."""
        [name] = [name for name, known in self.tasks.items() if known.running]
        self.tasks[name] = status

    def running(self) -> list[str]:
        return [name for name, status in self.tasks.items() if status.running]

    def _answer(self) -> None:
        if self.unreachable is not None:
            raise SiteUnreachableError(self.unreachable)


DONE = TaskStatus(result={"ok": True, "files": 5, "bytes": 4000})


def failed(error: str, again: str | None, admin_error: str | None = None) -> TaskStatus:
    return TaskStatus(failure=TaskFailure(error, admin_error, again))


class RefdataHouse:
    """Three sites: the data of `here` is brought by a reference data service, that of `nersc` by a place, and to `far`
    it is copied from there. `bare` has no room for any.

    places: by site; `nersc2` and `far2` lie at the same place as the others, once a test lets them keep something.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.refdata_store = RefdataStore(database)
        self.stagings = StagingStore(database)
        self.images = ImageStore(database)
        self.jobs = JobStore(database)
        self.clock = FakeClock()
        self.pace = 1.0
        """Seconds that go by at every tick of `until`."""
        self.s3 = FakeS3()
        self.nersc, self.far = FakePlace(), FakePlace(copies=True)
        self.places = {"nersc": self.nersc, "far": self.far, "nersc2": FakePlace(), "far2": FakePlace(copies=True)}
        self.keeping = ["here", "nersc", "far"]
        self.looked_for: list[str] = []
        self.reconciler: Reconciler[StagingRecord] | None = None
        self.ids = counting_ids("ref")
        self.sites = Sites({n: FakeSite(n) for n in ("here", *self.places, "bare")}, SiteStore(database))
        self.sites._health = {name: SiteHealth(True) for name in self.sites._sites}  # nobody asks them here
        self.refdata = Refdata(
            self.refdata_store,
            self.stagings,
            self.images,
            self.jobs,
            self.s3,  # type: ignore[arg-type]
            self.sites,
            self.keeping,
            self.clock,
            self.ids,
            self._look,
        )
        self.desk = RefdataDesk(
            self.refdata_store, self.stagings, self.step(), ["here"], self.clock, self._look, report_interval=5.0
        )
        self.keeper = RefdataKeeper(self.refdata_store, self.stagings, self.clock, self._look)

    def step(
        self, stagings: StagingStore | None = None, refdata: RefdataStore | None = None, **config: Any
    ) -> Stagings:
        """A step with short times."""
        values: dict[str, Any] = {"look_delay": 5.0, "presign_expiry": 3600, "most_failures": 4, "silence": 60.0}
        return Stagings(
            refdata or self.refdata_store,
            stagings or self.stagings,
            self.jobs,
            lambda site, path, expiry: f"https://s3-of-{site}/{path}?expires={expiry}",
            self.places,
            ["here"],
            self.clock,
            StagingConfig(**values | config, limits=LIMITS),
        )

    @contextlib.asynccontextmanager
    async def reconciling(
        self, owner: str = "p1", step: Any = None, stagings: StagingStore | None = None, **loop: Any
    ) -> AsyncIterator[Reconciler[StagingRecord]]:
        """A reconciler that runs, and that ends well."""
        values: dict[str, Any] = {"poll_interval": 0.01, "coalesce": 0.001, "lease": 30.0, "max_backoff": 20.0}
        reconciler = Reconciler(
            stagings or self.stagings, step or self.step(), self.clock, owner, LoopConfig(**values | loop)
        )
        self.reconciler = reconciler
        task = asyncio.create_task(reconciler.run())
        try:
            yield reconciler
        finally:
            await reconciler.stop()
            done, _ = await asyncio.wait([task], timeout=10)
            task.cancel()
            assert done, "the reconciler did not stop"
            await task

    def _look(self, staging_id: str) -> None:
        self.looked_for.append(staging_id)
        if self.reconciler is not None:
            self.reconciler.hint(staging_id, full=True)

    async def registered(self, *sites: str, file: str = FILE, unpack: bool = True) -> str:
        """Register a file, to be staged at these sites; returns its ID."""
        before = list(self.keeping)
        self.keeping[:] = sites
        self.s3.objects.setdefault(file, CRC)
        view = await self.refdata.register(ADMIN, file, None, unpack=unpack)
        self.keeping[:] = before
        return view.refdata.id

    async def staged(self, *sites: str) -> str:
        """Reference data that is complete at these sites, though nobody has brought it."""
        refdata_id = await self.registered(*sites)
        for site in sites:
            await self.stagings.set_fields(f"{refdata_id}@{site}", {"state": "complete", "cleaned": 1})
        return refdata_id

    async def at(self, refdata_id: str, site: str) -> StagingRecord:
        staging = await self.stagings.get(f"{refdata_id}@{site}")
        assert staging is not None
        return staging

    async def record(self, refdata_id: str) -> RefdataRecord:
        refdata = await self.refdata_store.get(refdata_id)
        assert refdata is not None
        return refdata

    # Waiting

    def tick(self) -> None:
        """Time goes by."""
        self.clock.advance(self.pace)

    async def until(self, check: Callable[[], Awaitable[Any]], *, ticking: bool = True) -> Any:
        """Wait for something while the clock runs, some hundred times as fast as it should."""
        return await eventually(check, tick=self.tick if ticking else None)

    async def until_state(self, refdata_id: str, site: str, state: RefdataState) -> StagingRecord:
        """Wait for a state from which on nothing is left to do, or for one that goes on."""

        async def there() -> StagingRecord | None:
            staging = await self.stagings.get(f"{refdata_id}@{site}")
            settled = staging is not None and (not staging.is_over or staging.next_look is None)
            return staging if settled and staging is not None and staging.state is state else None

        found: StagingRecord = await self.until(there)
        return found

    async def until_true(self, refdata_id: str, site: str, what: Callable[[StagingRecord], object]) -> StagingRecord:
        async def there() -> StagingRecord | None:
            staging = await self.stagings.get(f"{refdata_id}@{site}")
            return staging if staging is not None and what(staging) else None

        found: StagingRecord = await self.until(there)
        return found

    async def until_running(self, place: FakePlace, kind: str, count: int = 1) -> str:
        """Wait until the count-th task of the kind has been begun and runs. Its name."""

        async def there() -> str | None:
            names = [name for name, k in place.begun if k == kind]
            return names[count - 1] if len(names) >= count and place.tasks[names[count - 1]].running else None

        found: str = await self.until(there)
        return found

    # What a reference data service does

    async def work(self, claim: str = "c", room: int = 1) -> Sequence[Mapping[str, Any]]:
        """The orders of that service."""
        told = await self.desk.work("here", RefdataWorkRequest(claim=claim, root=ROOT, room=room))
        orders: Sequence[Mapping[str, Any]] = told["work"]
        return orders

    async def until_work(self, claim: str = "c", task: str | None = None) -> Mapping[str, Any]:
        """The first order that the service is given, or that of a task by its name."""

        async def given() -> Mapping[str, Any] | None:
            return next((o for o in await self.work(claim) if task in {None, o["task"]}), None)

        found: Mapping[str, Any] = await self.until(given)
        return found

    async def beat(self, order: Mapping[str, Any], claim: str = "c", done: int | None = None) -> bool:
        """A sign of life. Whether to stop."""
        progress = None
        if done is not None:
            told = {"phase": "downloading", "bytes_done": done, "bytes_total": 1000, "files_done": 0}
            progress = {**told, "bytes_unpacked": 0, "time": self.clock().timestamp()}
        told_all = {"task": order["task"], "claim": claim, "progress": progress}
        answer = await self.desk.progress(order["refdata_id"], "here", RefdataProgress.model_validate(told_all))
        return bool(answer["stop"])

    async def report(
        self, order: Mapping[str, Any], state: RefdataState = S.COMPLETE, claim: str = "c", **more: Any
    ) -> None:
        """The task has ended."""
        update = RefdataUpdate(task=order["task"], claim=claim, **more)
        await self.desk.update(order["refdata_id"], "here", state, update)


def seconds(count: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=count)
