"""What keeps many from waiting, one after the other, for somebody who hangs."""

from __future__ import annotations

import time

from cdmtaskservice.sites.base import SiteUnreachableError

_OPEN_FOR = 10.0
"""Seconds for which nobody asks after a call that took too long."""


class Breaker:
    """Open for a moment after a call that was not answered in time: then all others fail at once."""

    def __init__(self) -> None:
        self._until = 0.0
        self._why = ""

    def check(self) -> None:
        """Raises: SiteUnreachableError while it is open."""
        if time.monotonic() < self._until:
            raise SiteUnreachableError(self._why)

    def open(self, why: str) -> None:
        """A call was not answered in time."""
        self._until, self._why = time.monotonic() + _OPEN_FOR, why
