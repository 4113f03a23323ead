"""How long to wait before the next try, and when there is none."""

from __future__ import annotations

import random
import time

from .stopping import Stop

LONGEST_WAIT = 30.0
"""Seconds. However long an outage lasts, its end is noticed this soon."""


class Retry:
    """The tries of one operation: waits that double, with jitter, for at most `patience` seconds without progress."""

    def __init__(self, stop: Stop, patience: float, first_wait: float = 0.25) -> None:
        self._stop = stop
        self._patience = patience
        self._first_wait = first_wait
        self._failures = 0
        self._since = 0.0

    def progress(self) -> None:
        """Something got through: patience starts anew."""
        self._failures = 0

    def not_counting(self, seconds: float) -> None:
        """So many of the seconds that passed were nobody's failure: patience lasts longer by them."""
        self._since += seconds

    def wait(self, at_least: float = 0.0) -> bool:
        """Sleep before the next try; False, at once, when patience is over. Raises the stop's reason."""
        self._stop.check()
        now = time.monotonic()
        if not self._failures:
            self._since = now
        left = self._since + self._patience - now
        if left <= 0:
            return False
        longest = min(LONGEST_WAIT, self._first_wait * 2 ** min(self._failures, 20))
        self._failures += 1
        # No cryptography: the jitter only keeps many executors from coming back in one instant.
        wait = max(min(at_least, LONGEST_WAIT), longest * random.uniform(0.5, 1.0))  # noqa: S311
        self._stop.sleep(min(wait, left))
        return True
