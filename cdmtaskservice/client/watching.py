"""Following a job to its end: the stream of its events, and waiting by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cdmtaskservice.client.calls import Calls
from cdmtaskservice.client.effects import Emit, Flow, Items, NetworkFault, consuming, open_, pause, read
from cdmtaskservice.client.errors import (
    NotFound,
    ResourceUnavailable,
    ServiceUnreachable,
    TooManyRequests,
    UnexpectedReply,
    WaitTimeout,
)
from cdmtaskservice.client.events import (
    COMMENT,
    ContainersEvent,
    EndEvent,
    Event,
    EventParser,
    StateEvent,
    WaitingEvent,
    read_event,
)
from cdmtaskservice.client.models import TERMINAL_STATES, Job
from cdmtaskservice.client.progress import Bar
from cdmtaskservice.client.requests import get, id_of, path_of
from cdmtaskservice.client.retrying import Backoff, Retrying

T = TypeVar("T")

SILENCE = 45.0
"""Seconds. The service sends something every 15; after three times that the connection is dead."""
CLOSE = 20.0
"""Seconds before a timeout in which a job is polled: a stream that says nothing cannot be left in time."""
_AFTER_REFUSAL = 60.0
"""Seconds for which a job is polled where there were too many streams."""
_FIRST_POLL = 0.5
_LONGEST_POLL = 15.0
_LONGEST_OUTAGE_DELAY = 20.0


def never() -> bool:
    """For streams that are followed to their end."""
    return False


def events(
    calls: Calls, job_id: str, silence: Callable[[], float] = lambda: SILENCE, leave: Callable[[], bool] = never
) -> Items[Event]:
    """The events of a job, each once, to its end, over as many connections as it takes.

    silence: seconds without a byte after which a connection is given up. leave: asked whenever something came; True
    ends it.
    """
    seen = _Seen()
    last_id = ""
    failures = 0
    while not leave():
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if last_id:
            headers["last-event-id"] = last_id
        request = get(path_of("jobs", id_of(job_id), "events"), headers=headers, read_timeout=silence())
        reply = yield from calls.retrying.call(request, open_)
        if not reply.headers.get("content-type", "").startswith("text/event-stream"):
            raise UnexpectedReply("What answers at the service's URL does not send events")
        parser = EventParser(last_id)
        seen.connected()
        try:
            while (chunk := (yield from read())) is not None:
                for raw in parser.feed(chunk):
                    if (freed := seen.freed(raw.name)) is not None:
                        yield Emit(freed)
                    if raw.name == COMMENT:
                        continue
                    last_id = parser.last_id if raw.name == "state" else last_id
                    event = read_event(raw)
                    if seen.is_new(event):
                        failures = 0
                        yield Emit(event)
                    if isinstance(event, EndEvent):
                        return
                if leave():
                    return
        except NetworkFault:
            pass
        yield from pause(calls.retrying.backoff.delay(failures))
        failures += 1


@dataclass
class _Seen:
    """What was told before: a new connection begins with it."""

    number: int = -1
    counts: ContainersEvent | None = None
    waiting: str | None = None
    _counted: bool = False
    """Whether this connection has told of containers."""
    _settled: bool = False
    """Whether it is known of this connection if something holds the job up."""

    def connected(self) -> None:
        """A new connection begins."""
        self._counted = self._settled = False

    def freed(self, name: str) -> WaitingEvent | None:
        """What is to be told before an event, or a comment, of that name: that nothing holds the job up any more.

        A connection begins with states, the containers, and what holds the job up if anything does. So where something
        else follows the containers, what an earlier connection told of is over.
        """
        over = self._counted and not self._settled and name != "waiting"
        self._counted = self._counted or name == "containers"
        self._settled = self._settled or over or name == "waiting"
        if not over or self.waiting is None:
            return None
        self.waiting = None
        return WaitingEvent(kind="waiting")

    def is_new(self, event: Event) -> bool:
        match event:
            case StateEvent(number=number):
                if 0 <= number <= self.number:
                    return False
                self.number = max(number, self.number)
            case ContainersEvent():
                if event == self.counts:
                    return False
                self.counts = event
            case WaitingEvent(waiting=waiting):
                if waiting == self.waiting:
                    return False
                self.waiting = waiting
        return True


@dataclass
class Wait:
    """Waiting for one job. timeout: seconds, None for as long as it takes."""

    calls: Calls
    job_id: str
    timeout: float | None
    bar: Bar
    state: str | None = None
    _once: Calls = field(init=False)
    _deadline: float | None = field(init=False)
    _answered: bool = False
    _silent_since: float | None = None
    _failures: int = 0
    _polls: int = 0
    _stream_from: float = float("-inf")

    def __post_init__(self) -> None:
        self._deadline = None if self.timeout is None else self.calls.clock() + self.timeout
        # What fails is seen here at once, so that it can be shown.
        self._once = replace(self.calls, retrying=Retrying(0, self.calls.retrying.backoff))

    def flow(self) -> Flow[Job]:
        """The job once it is over. Raises WaitTimeout, and what a refusal of the service is, such as NoSuchJob."""
        try:
            while True:
                status = yield from self._answer(lambda: self._once.status(self.job_id))
                self._come_to(status.state)
                if status.is_over:
                    job = yield from self._answer(lambda: self._once.job(self.job_id))
                    if job.is_over:
                        return job
                elif self._streams():
                    yield from self._stream()
                else:
                    yield from self._pause(Backoff(self.calls.retrying.backoff.jitter, _FIRST_POLL, _LONGEST_POLL))
                    self._polls += 1
        finally:
            self.bar.close()

    def _streams(self) -> bool:
        left = self._left()
        return self.calls.clock() >= self._stream_from and (left is None or left > CLOSE)

    def _stream(self) -> Flow[None]:
        try:
            happened = events(self._once, self.job_id, self._silence, lambda: not self._streams())
            yield from consuming(happened, self._deal)
        except (ServiceUnreachable, TooManyRequests) as e:
            yield from self._bear(e)
        except ResourceUnavailable:
            self._stream_from = self.calls.clock() + _AFTER_REFUSAL
        except NotFound as e:
            if not e.is_url:
                raise
            self._stream_from = float("inf")

    def _silence(self) -> float:
        left = self._left()
        return SILENCE if left is None else max(min(SILENCE, left), 0.1)

    def _deal(self, event: Event) -> None:
        self._heard()
        match event:
            case StateEvent(state=state):
                self._come_to(state)
            case ContainersEvent():
                self.bar.count(event.over, event.total)
            case WaitingEvent(waiting=waiting):
                self.bar.note(waiting)

    def _come_to(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._polls = 0
            self.bar.name(state)
            if state in TERMINAL_STATES:
                self.bar.note(None)

    def _answer(self, make: Callable[[], Flow[T]]) -> Flow[T]:
        """What comes of the flow once the service answers."""
        while True:
            self._check()
            try:
                result = yield from make()
            except (ServiceUnreachable, TooManyRequests) as e:
                yield from self._bear(e)
                continue
            self._heard()
            return result

    def _bear(self, error: ServiceUnreachable | TooManyRequests) -> Flow[None]:
        """Wait for the service, unless it most likely never was there."""
        if isinstance(error, ServiceUnreachable):
            wrong = error.unknown_host and not self._answered and self._failures >= self.calls.retrying.retries
            if error.hopeless or wrong:
                raise error
        now = self.calls.clock()
        self._silent_since = now if self._silent_since is None else self._silent_since
        self.bar.note(f"No answer for {now - self._silent_since:.0f} s, waiting for the service. {error.message}")
        backoff = Backoff(self.calls.retrying.backoff.jitter, longest=_LONGEST_OUTAGE_DELAY)
        yield from self._pause(backoff, self._failures)
        self._failures += 1

    def _heard(self) -> None:
        self._answered = True
        if self._silent_since is not None:
            self._silent_since = None
            self._failures = 0
            self.bar.note(None)

    def _pause(self, backoff: Backoff, number: int | None = None) -> Flow[None]:
        left = self._left()
        delay = backoff.delay(self._polls if number is None else number)
        yield from pause(delay if left is None else max(min(delay, left), 0))

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - self.calls.clock()

    def _check(self) -> None:
        left = self._left()
        if left is not None and left <= 0 and self.timeout is not None:
            raise WaitTimeout(self.job_id, self.state, self.timeout)
