"""One way to stop everything: a reason that is set once, seen by every thread and every wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Callable

from .failures import EndedByEngine


class Stop:
    """Set once, with the exception that says why. Threads check it between two steps and wait on it to sleep.

    A child stops with its parent, but not the other way round: a failing download stops the other downloads only.
    """

    def __init__(self, parent: Stop | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._why: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []
        if parent is not None:
            parent.on_set(lambda: self.set(parent.why or RuntimeError("stopped")))

    @property
    def why(self) -> BaseException | None:
        """The reason, None while nothing has stopped."""
        return self._why

    def set(self, why: BaseException) -> None:
        """Stop everything. Only the first reason counts."""
        with self._lock:
            if self._why is not None:
                return
            self._why = why
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call `callback` when this stops, at once where it has stopped already."""
        with self._lock:
            if self._why is None:
                self._callbacks.append(callback)
                return
        callback()

    def check(self) -> None:
        """Raise the reason if there is one."""
        if self._why is not None:
            raise self._why

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the stop: then raise its reason."""
        self._event.wait(seconds)
        self.check()


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """While this is open, SIGTERM and SIGINT set `stop`.

    The handlers do nothing: they may run while the main thread holds the very lock that setting an event needs.
    Python writes the signal's number to a pipe, and a thread of ours reads it there.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {s: signal.signal(s, _ignore) for s in (signal.SIGTERM, signal.SIGINT)}
    old_fd = signal.set_wakeup_fd(writer)

    def watch() -> None:
        while True:
            for signum in os.read(reader, 16):
                if signum == 0:
                    return
                if signum in before:
                    stop.set(EndedByEngine(signum))

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        with suppress(OSError):
            os.write(writer, b"\0")
        thread.join(5)
        os.close(writer)
        os.close(reader)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Stands for a handler so that the signal does not kill; the wake-up pipe does the work."""
