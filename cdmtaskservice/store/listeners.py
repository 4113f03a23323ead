"""Times what the database is asked, as its driver sees it: every command, and whether a server can be reached."""

from __future__ import annotations

from typing import Any

from pymongo import monitoring

from cdmtaskservice.meter import Meter, Outcome

_SYSTEM = "database"
_DUPLICATE_KEY = 11000
_MILLION = 1_000_000
"""Microseconds in a second."""


def listeners(meter: Meter) -> list[Any]:
    """For the driver's `event_listeners`. They are called in the driver's threads."""
    return [_Commands(meter), _Heartbeats(meter)]


class _Commands(monitoring.CommandListener):
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Nothing is known yet."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """The server has answered."""
        self._meter.called(_SYSTEM, event.command_name, "ok", event.duration_micros / _MILLION)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """It has refused, or did not answer."""
        outcome: Outcome = "refused" if event.failure.get("code") == _DUPLICATE_KEY else "error"
        self._meter.called(_SYSTEM, event.command_name, outcome, event.duration_micros / _MILLION)


class _Heartbeats(monitoring.ServerHeartbeatListener):
    """Where no server can be reached there are no commands: only these tell."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None:
        """Nothing is known yet."""

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
        """The server lives. One that was awaited took as long as nothing changed, which says nothing of its speed."""
        if not event.awaited:
            self._meter.called(_SYSTEM, "heartbeat", "ok", event.duration)

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """There is no server."""
        self._meter.called(_SYSTEM, "heartbeat", "error", event.duration)
