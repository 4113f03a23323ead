"""What the service is told while the container goes on: reports in order, and heartbeats.

Both run in threads of their own. That the service does not answer must not delay a download, a container or its time
limit; only at the end are the reports waited for.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Mapping

from .failures import Ended, StoppedByService
from .jsonlog import Log, now
from .live_logs import LiveLogs
from .protocol import Rejected, Service
from .stopping import Stop

_FOLLOWED_PAUSE = 1.0
_HURRIED_PAUSE = 0.1
"""Seconds between heartbeats while the logs are followed, and while there is more of them than one may carry."""


class Progress:
    """How far the executor is, for the heartbeat. Bytes of the phase that goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = "downloading"
        self._done = 0
        self._total = 0

    def start(self, phase: str, total: int = 0) -> None:
        """A phase begins, in which `total` bytes are to be moved."""
        with self._lock:
            self._phase, self._done, self._total = phase, 0, total

    def add(self, count: int) -> None:
        """`count` more bytes are moved; negative where they must be moved again."""
        with self._lock:
            self._done += count

    def body(self, ending: str | None = None) -> dict[str, object]:
        """The body of a heartbeat."""
        with self._lock:
            return {
                "phase": self._phase,
                "bytes_done": max(0, self._done),
                "bytes_total": self._total,
                "ending": ending,
            }


class Reporter:
    """Sends reports one after the other, each until it is answered."""

    def __init__(self, service: Service, stop: Stop, log: Log) -> None:
        self._service = service
        self._stop = stop
        self._log = log
        self._queue: queue.Queue[tuple[str, Mapping[str, object]] | None] = queue.Queue()
        self._rejected: Rejected | None = None
        self._changed = threading.Condition()
        self._unanswered = 0
        self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
        stop.on_set(self._wake)
        self._thread.start()

    def send(self, state: str, **body: object) -> None:
        """Report `state`, some time soon. The time is now."""
        with self._changed:
            self._unanswered += 1
        self._queue.put((state, {"time": now(), **body}))

    def flush(self) -> None:
        """Wait until every report is answered. Raises Rejected, once, if one of them was; or the stop's reason."""
        with self._changed:
            while self._unanswered and self._stop.why is None:
                self._changed.wait()
            rejected, self._rejected = self._rejected, None
        self._stop.check()
        if rejected is not None:
            raise rejected

    def close(self) -> None:
        """End the thread once it has nothing left to send."""
        self._queue.put(None)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if item is None or self._stop.why is not None:
                return
            state, body = item
            try:
                self._service.update(state, body)
                self._log.event("reported", state=state)
            except Rejected as error:
                self._log.event("report_rejected", state=state, error=str(error))
                with self._changed:
                    self._rejected = self._rejected or error
            except Exception as error:
                # Mostly an Ended; but whatever it is, nobody must wait for this thread for ever.
                self._stop.set(error)
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def pause_after(age: float, interval: float, spread: float) -> float:
    """Seconds until the next heartbeat of an executor that has been at work for `age`: few at first, then `interval`.

    spread: around 1; another one for each heartbeat.
    """
    return min(interval, (2.0 + age / 3) * spread)


class Heartbeat:
    """Says every `interval` seconds that the executor is alive, and stops everything when the answer says so.

    More often at the beginning, so that short containers can be followed too, and while somebody follows the logs.
    """

    def __init__(
        self, service: Service, progress: Progress, live_logs: LiveLogs, interval: float, stop: Stop, log: Log
    ) -> None:
        self._service = service
        self._progress = progress
        self._live_logs = live_logs
        self._interval = interval
        self._begun = time.monotonic()
        self._stop = stop
        self._log = log
        self._over = threading.Event()
        stop.on_set(self._over.set)
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No further heartbeat."""
        self._over.set()

    def _work(self) -> None:
        pause = self._usual_pause()
        while not self._over.wait(pause):
            pause = self._usual_pause()
            try:
                pieces, more = self._live_logs.take()
                if pieces:
                    # Also where this one is lost: somebody waits for what it carries.
                    pause = min(pause, _FOLLOWED_PAUSE)
                answer = self._service.heartbeat({**self._progress.body(), **({"logs": pieces} if pieces else {})})
            except Ended as end:
                self._stop_unless_over(end)
                return
            except Exception as error:
                # A heartbeat that cannot be sent is one that is missed: the next may do better.
                self._log.event("heartbeat_failed", error=f"{type(error).__name__}: {error}")
                continue
            if answer.stop is not None:
                self._log.event("told_to_stop", reason=answer.stop)
                self._stop_unless_over(StoppedByService(answer.stop))
                return
            if answer.logs:
                self._live_logs.want(answer.logs)
                pause = min(pause, _HURRIED_PAUSE if more else _FOLLOWED_PAUSE)

    def _usual_pause(self) -> float:
        # Containers of one job begin together, and need not speak together.
        return pause_after(time.monotonic() - self._begun, self._interval, random.uniform(0.6, 1.4))  # noqa: S311

    def _stop_unless_over(self, why: Ended) -> None:
        # A heartbeat that crosses with the last report is answered "not yours any more", which is no news then.
        if not self._over.is_set():
            self._stop.set(why)
