"""What a test can make go wrong, and what it can read of what went on.

All switches are off by default, and are set by `NerscSite.switch`, that is by `POST /control` with a JSON object:

    latency             seconds before each answer
    sfapi_error         status code of all answers of the Superfacility API, with its token service
    jaws_error          the same of JAWS Central
    drop                close connections without an answer, and without having looked at the request
    lose_answers        do what is asked, then close the connection without an answer
    machine_status      {machine: status} or {machine: {status, notes, until}}; until: ISO time of an outage's end
    jaws_site_down      names of JAWS sites that are down
    lose_tasks          commands are unknown as soon as they end
    task_lifetime       seconds for which a command is known after its end (600)
    hide_views          whether a machine's commands do not see the directories of the other (true)
    expire_tokens       true: all access tokens given so far are invalid from now on
    next_run            what becomes of the run that begins next: "cancelled_null" (somebody cancelled it, and JAWS
                        gives no result), "system_error" (JAWS itself fails: no result), "never_started" (no container
                        of it starts)
    hold_runs           submitted runs stay queued
    run_slots           how many runs run at a time (3)
    submit_fails_after  `jaws submit` registers the run, and then fails
    relative_outputs    outputs.json has paths relative to the output directory
    hold_copies         reference data is not copied to sites that are not at NERSC
    copy_fails          the next copy fails
    results_late        seconds from a run's end until its outputs.json or errors.json is there
    reset               true: everything as at the start; the other values of the same call come after it

The four switches of answers also take {"times": N, "path": PART} (and "status" for an error): only the next N requests
whose path has PART in it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULTS: Final[Mapping[str, Any]] = {
    "latency": 0.0,
    "sfapi_error": None,
    "jaws_error": None,
    "drop": None,
    "lose_answers": None,
    "machine_status": {},
    "jaws_site_down": [],
    "lose_tasks": False,
    "task_lifetime": 600.0,
    "hide_views": True,
    "next_run": None,
    "hold_runs": False,
    "run_slots": 3,
    "submit_fails_after": False,
    "relative_outputs": False,
    "hold_copies": False,
    "copy_fails": False,
    "results_late": 0.0,
}
RUN_FATES = ("cancelled_null", "system_error", "never_started")


class Switches:
    """The values, and what was called."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = dict(DEFAULTS)
        self.calls: Counter[str] = Counter()
        self.commands: list[str] = []

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def set(self, values: Mapping[str, Any]) -> None:
        """Set some. Raises: ValueError for one that there is not."""
        if unknown := set(values) - set(DEFAULTS):
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}")
        if values.get("next_run") not in (None, *RUN_FATES):
            raise ValueError(f"next_run is one of {', '.join(RUN_FATES)}")
        self.values.update(values)

    def reset(self) -> None:
        """Everything as at the start."""
        self.values = dict(DEFAULTS)
        self.calls.clear()
        self.commands.clear()

    def take(self, name: str) -> Any:
        """The value of a switch that counts once."""
        value, self.values[name] = self.values[name], DEFAULTS[name]
        return value

    def hits(self, name: str, path: str) -> Any:
        """The value of a switch of answers for a request, counted; None where it is off, or not for this request."""
        value = self.values[name]
        if not isinstance(value, dict):
            return value or None
        if value.get("path", "") not in path or value.get("times", 1) < 1:
            return None
        if "times" in value:
            value["times"] -= 1
        return value.get("status", 503)


class Faults:
    """ASGI middleware that makes answers go wrong. `/control` is never touched."""

    def __init__(self, app: ASGIApp, switches: Switches) -> None:
        self._app = app
        self._switches = switches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] != "http" or path == "/control":
            await self._app(scope, receive, send)
            return
        self._switches.calls[path] += 1
        if self._switches["latency"]:
            await asyncio.sleep(self._switches["latency"])
        status = self._switches.hits("sfapi_error" if path.startswith("/sfapi/") else "jaws_error", path)
        if self._switches.hits("drop", path):
            await _hang_up(receive)
        elif status:
            await JSONResponse({"detail": "out of order"}, status)(scope, receive, send)
        elif self._switches.hits("lose_answers", path):
            await self._app(scope, receive, _ignore)
            await _hang_up(receive)
        else:
            await self._app(scope, receive, send)


async def _ignore(_: Message) -> None:
    pass


async def _hang_up(receive: Receive) -> None:
    """Close the connection. ASGI has no word for that, but uvicorn's receive belongs to what holds the transport."""
    cycle: Any = receive.__self__  # type: ignore[attr-defined]
    cycle.transport.abort()
    while not cycle.disconnected:
        await asyncio.sleep(0.001)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises: ValueError."""
    value = json.loads(body or b"{}")
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
