"""What keeps many from waiting, one after the other, for somebody who hangs."""

from __future__ import annotations

import time

from cdmtaskservice.sites.base import SiteUnreachableError

_OPEN_FOR = 10.0
"""Seconds for which nobody asks after a call that took too long."""


class Breaker:
    """Open after a call that was not answered in time: all others fail at once, but for one every now and then."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._why = ""

    def check(self) -> None:
        """Raises: SiteUnreachableError while it is open. Whoever passes then is the one who tries."""
        if self._until is None:
            return
        now = time.monotonic()
        if now < self._until:
            raise SiteUnreachableError(self._why)
        self._until = now + _OPEN_FOR

    def open(self, why: str) -> None:
        """A call was not answered in time."""
        self._until, self._why = time.monotonic() + _OPEN_FOR, why

    def close(self) -> None:
        """A call was answered, whatever the answer was."""
        self._until = None
