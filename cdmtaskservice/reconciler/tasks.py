"""Tasks of remote code as a look sees them: begun, followed, and begun again where that is worth it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import structlog

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.reconciler.flow import Flow
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskPlace, TaskStatus
from cdmtaskservice.store.looks import Looked, LookStore

_log = structlog.get_logger(__name__)

_MOST_REFUSALS = 5
"""Times that S3 may refuse fresh URLs of a task in a row."""
_MOST_CRASHES = 10
"""Times that a task which was begun may end without a word in a row."""
_MOST_ABSENT = 8
"""Times that what a run left may not be where it should be, over some quarter of an hour."""
_HELD_UP = 4
"""Looks' delays before a task is begun again that another one was in the way of."""
_LONGEST_DELAY = 60.0
_PATIENCE = 20
"""What has gone on for so many seconds is looked at once a second."""

AWAY = "NERSC or JAWS does not answer as it should; it goes on when that is over"
"""What owners are told of an outage."""


class Waits(Exception):
    """Nothing more can be done now. why: for administrators; told: for the owner."""

    def __init__(self, delay: float, why: str | None = None, told: str | None = None) -> None:
        super().__init__(why)
        self.delay, self.why, self.told = delay, why, told


class Fails(Exception):
    """What is looked at cannot go on."""

    def __init__(self, error: str, admin_error: str | None = None) -> None:
        super().__init__(error)
        self.error, self.admin_error = error, admin_error


R = TypeVar("R", bound=Looked)
P = TypeVar("P", bound=TaskPlace)


class Tasks(Generic[R, P]):
    """The tasks of records that are looked at. What is returned as a record has what was noted meanwhile."""

    kind: ClassVar[str] = "job"
    """What logs call that to which the tasks belong."""
    away: ClassVar[str] = AWAY
    """What owners are told of tasks that came to nothing without a word."""
    forgiven: ClassVar[Sequence[str]] = ("refused",)
    """What is counted anew where a try had less to do than any before."""
    lost: ClassVar[str] = "NERSC failed to do what the job needs; it is not the job's fault"
    """What owners are told where a task is lost again and again."""
    most_failures: int | None = None
    """Tries in a row that may come to nothing; None for any number, as what does not answer may be away for long."""

    def __init__(self, records: LookStore[R], clock: Clock, look_delay: float) -> None:
        """look_delay: seconds between looks at what goes on."""
        self._records = records
        self._clock = clock
        self._look_delay = look_delay

    async def note(self, record: R, flow: Flow) -> R:
        """Note how far it has come. Waits, so that nothing is begun, where somebody else has done so."""
        flow = flow.next_version
        if not await self._records.note_flow(record, flow.stored):
            raise Waits(0.0)
        noted: R = replace(record, flow=flow.stored)  # type: ignore[type-var]
        return noted

    async def begin(self, record: R, place: P, kind: str, plan: Callable[[R], Awaitable[Plan]], left: int = -1) -> R:
        """Begin a task, noting it before, and its ID after.

        plan: makes the task's for the record with what was noted of it, that is as it is when the task is begun. left:
        how much there is to do, files to send say.
        """
        flow = Flow.of(record).begin(kind, self._clock(), left if left >= 0 else self._left(record), self.forgiven)
        record = await self.note(record, flow)
        handle = await place.begin_task(record.id, flow.name, kind, await plan(record))
        if handle and (detail := self._detail(record, kind)) is not None:
            await self._records.note_handle(record.id, detail, handle)
        return await self.note(record, replace(Flow.of(record), handle=handle))

    async def result(
        self, record: R, place: P, kind: str, plan: Callable[[R], Awaitable[Plan]] | None
    ) -> tuple[R, Any]:
        """What a task found. It is begun if it was not, and again where it failed and may be. Else waits or fails.

        Without a plan it is not begun here: None where it is to be.
        """
        flow = Flow.of(record)
        now = self._clock()
        if flow.task == kind and (pause := flow.pause(now)) > 0:
            raise Waits(pause, flow.why, flow.told)
        if flow.task != kind or flow.not_before:
            if plan is None:
                return record, None
            await self._require(place, kind)
            await self.begin(record, place, kind, plan)
            raise Waits(self.delay(0.0), flow.why or None, flow.told or None)
        status = await place.task_status(record.id, flow.name, flow.handle or None, flow.age(now))
        await self._seen(record, status)
        if status.result is not None:
            return record, status.result
        if status.running:
            raise Waits(self.delay(flow.age(now)), self._why_it_waits(status, flow), flow.told or None)
        if status.failure is None:
            if flow.crashed >= _MOST_CRASHES or self._worn_out(flow):
                raise Fails(self.lost, str(status.lost))
            await self.try_again(record, flow, str(status.lost), counter="crashed" if status.crashed else "")
        failure = status.failure
        assert failure is not None
        if failure.again == "held":
            await self._held_up(record, flow, failure)
        counter = {"renewed": "refused", "absent": "absent"}.get(failure.again or "", "")
        worn_out = {"refused": flow.refused >= _MOST_REFUSALS, "absent": flow.absent >= _MOST_ABSENT}
        if failure.again is None or worn_out.get(counter, False) or self._worn_out(flow):
            raise Fails(failure.error, failure.admin_error)
        await self.try_again(record, flow, self._why(failure), failure.error, counter=counter)
        raise AssertionError("unreachable")

    async def _held_up(self, record: R, flow: Flow, failure: TaskFailure) -> NoReturn:
        why = self._why(failure)
        flow = flow.held_up(self._clock(), _HELD_UP * self._look_delay, why, failure.error)
        await self.note(record, flow)
        raise Waits(max(0.0, flow.pause(self._clock())), why, failure.error)

    async def try_again(
        self, record: R, flow: Flow, why: str, told: str | None = None, *, counter: str = ""
    ) -> NoReturn:
        """Let the task be begun again after a pause. told: for the owner, None for `away`."""
        told = self.away if told is None else told
        flow = flow.failed(self._clock(), self._look_delay, why, told, counter)
        _log.warning("task_failed", **{self.kind: record.id}, task=flow.name, why=why[:300])
        await self.note(record, flow)
        raise Waits(max(0.0, flow.pause(self._clock())), why, told)

    async def expire(self, record: R, kind: str, limit: float, why: str) -> None:
        """Begin a task anew that has gone on for longer than `limit` seconds; fail where that was so too often."""
        flow = Flow.of(record)
        if flow.task != kind or flow.not_before or flow.age(self._clock()) < limit:
            return
        if self._worn_out(flow):
            raise Fails(why)
        await self.try_again(record, flow, why)

    def delay(self, age: float) -> float:
        """Seconds until the next look at what has gone on for so long."""
        return min(_LONGEST_DELAY, max(self._look_delay, age / _PATIENCE))

    def _worn_out(self, flow: Flow) -> bool:
        return self.most_failures is not None and flow.failures + 1 >= self.most_failures

    def _why_it_waits(self, status: TaskStatus, flow: Flow) -> str | None:
        """What administrators are told of a task that goes on."""
        return status.why or flow.why or None

    def _why(self, failure: TaskFailure) -> str:
        """What administrators are told of a task that is tried again."""
        return failure.admin_error or failure.error

    def _left(self, record: R) -> int:
        """How much there is to do for the task that begins; -1 where that is not known."""
        return -1

    def _detail(self, record: R, kind: str) -> str | None:
        """Under which kind the ID of a task that was begun is kept for administrators; None for not at all."""
        return None

    async def _require(self, place: P, kind: str) -> None:
        """Raises: SiteUnreachableError where a task of that kind should not be begun now."""

    async def _seen(self, record: R, status: TaskStatus) -> None:
        """Called with whatever is heard of a task."""
