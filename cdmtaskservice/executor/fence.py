"""What keeps an executor that the service does not hear from writing to S3: its container may be another's by now."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from .stopping import Stop


def since_boot() -> float:
    """Seconds on a clock that is never set, and that goes on while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Closed(Exception):
    """The fence has closed in the middle of a write. Not a failure: try again when it has opened."""


class Fence:
    """Closed while the last call that was answered had been sent longer ago than the limit. Every thread may use it.

    The time of sending counts: the service cannot have given the container away before it saw that call.
    """

    def __init__(self, clock: Callable[[], float] = since_boot) -> None:
        self.now = clock
        self._limit: float | None = None
        self._heard = clock()
        self._changed = threading.Condition()

    def limit(self, seconds: float | None) -> None:
        """The longest silence; None, which it is at first, for a fence that never closes."""
        with self._changed:
            self._limit = seconds
            self._changed.notify_all()

    def heard(self, sent: float) -> None:
        """A call that was sent at `sent`, by `now`, was answered."""
        with self._changed:
            self._heard = max(self._heard, sent)
            self._changed.notify_all()

    def left(self) -> float | None:
        """Seconds until it closes, not more than 0 when it is closed; None for never."""
        with self._changed:
            return None if self._limit is None else self._heard + self._limit - self.now()

    @property
    def closed(self) -> bool:
        """Whether nothing may be written now."""
        left = self.left()
        return left is not None and left <= 0

    def check(self) -> None:
        """Raise Closed when it is."""
        if self.closed:
            raise Closed("the service has not answered for too long")

    def wait(self, stop: Stop) -> None:
        """Return when it is open; raise the reason of `stop` when that comes first."""
        stop.on_set(self._wake)
        with self._changed:
            # Only an answer opens it, and every answer notifies.
            self._changed.wait_for(lambda: stop.why is not None or not self.closed)
        stop.check()

    @contextmanager
    def on_close(self, callback: Callable[[], None]) -> Iterator[None]:
        """Within this, `callback` is called, in a thread of its own, each time that the fence closes."""
        if self.left() is None:
            # The limit came with the work order, and there is no other.
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(callback, over), name="fence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            self._wake()
            thread.join()

    def _watch(self, callback: Callable[[], None], over: threading.Event) -> None:
        with self._changed:
            while not over.is_set():
                left = self.left()
                if left is None or left > 0:
                    self._changed.wait(left)
                    continue
                callback()
                self._changed.wait_for(lambda: over.is_set() or not self.closed)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
