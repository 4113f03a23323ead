"""JAWS Central: its HTTP interface, and where the `jaws` command brings its submissions."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .checks import RefusedError, check
from .layout import JAWS_SITES, JAWS_TEAM, Layout
from .provision import jaws_users
from .runs import Run, Runs, TooLateError
from .switches import Switches, json_object

_BASE = "/jaws/api/v2"


class Central:
    """The routes."""

    def __init__(self, layout: Layout, switches: Switches, runs: Runs) -> None:
        self._layout = layout
        self._switches = switches
        self._runs = runs

    def routes(self) -> list[Route]:
        """All routes. All need a token."""
        guard = self._authorized
        return [
            Route(f"{_BASE}/user", guard(self._user)),
            Route(f"{_BASE}/run/{{id}}", guard(self._run)),
            Route(f"{_BASE}/run/{{id}}/cancel", guard(self._cancel), methods=["PUT"]),
            Route(f"{_BASE}/run/{{id}}/run_log", guard(self._log)),
            Route(f"{_BASE}/status/{{site}}", guard(self._status)),
            Route(f"{_BASE}/search", guard(self._search), methods=["POST"]),
            Route("/jaws/stand-in/submit", guard(self._submit), methods=["POST"]),
        ]

    def _authorized(
        self, handler: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            user = jaws_users(self._layout).get(token.strip()) if scheme == "Bearer" else None
            if user is None:
                return _error(401, "Provided token is not valid")
            return await handler(request, user)

        return guarded

    async def _user(self, _: Request, user: str) -> Response:
        return JSONResponse({"uid": user, "email": f"{user}@example.invalid", "teams": [JAWS_TEAM], "is_admin": False})

    async def _run(self, request: Request, user: str) -> Response:
        run = self._runs.find(request.path_params["id"])
        return JSONResponse(_told(run)) if run and run.user == user else _no_run(request)

    async def _cancel(self, request: Request, user: str) -> Response:
        run = self._runs.find(request.path_params["id"])
        if run is None or run.user != user:
            return _no_run(request)
        try:
            self._runs.cancel(run)
        except TooLateError as e:
            return _error(400, str(e))
        return JSONResponse({str(run.id): True})

    async def _log(self, request: Request, user: str) -> Response:
        run = self._runs.find(request.path_params["id"])
        return JSONResponse(run.log) if run and run.user == user else _no_run(request)

    async def _status(self, request: Request, _: str) -> Response:
        site = request.path_params["site"]
        if site not in JAWS_SITES:
            return _error(404, f"{site} is no valid Site ID")
        down = site in self._switches["jaws_site_down"]
        state = "DOWN" if down else "UP"
        return JSONResponse({f"{site}-Site": state, f"{site}-Cromwell": state, f"{site}-RMQ": "UP"})

    async def _search(self, request: Request, user: str) -> Response:
        try:
            asked = json_object(await request.body())
        except ValueError as e:
            return _error(400, str(e))
        found = [r for r in self._runs.all() if r.user == user and _matches(r, asked)]
        return JSONResponse([_told(run) for run in found])

    async def _submit(self, request: Request, user: str) -> Response:
        asked = json_object(await request.body())
        site, team = asked["site"], asked["team"]
        try:
            if site not in JAWS_SITES:
                raise RefusedError(f"{site} is no valid Site ID; it is one of {', '.join(JAWS_SITES)}")
            if team != JAWS_TEAM:
                raise RefusedError(f"{user} is not a member of the team {team!r}")
            if site in self._switches["jaws_site_down"]:
                raise RefusedError(f"{site} is down")
            allowed = self._layout.submit_staging_dir / "inputs" / site
            await asyncio.to_thread(check, asked["wdl"], asked["inputs"], allowed)
        except RefusedError as e:
            return _error(400, str(e))
        run = self._runs.submit(asked["wdl"], asked["inputs"], site, asked["tag"], user, team)
        if fails := self._switches["submit_fails_after"]:
            self._switches.set({"submit_fails_after": fails if fails is True else fails - 1})
            return _error(504, "JAWS Central did not answer in time")
        return JSONResponse({"run_id": run.id})


def _told(run: Run) -> dict[str, Any]:
    return {
        **run.brief(),
        "run_id": run.id,
        "compute_site_id": run.site,
        "input_site_id": run.site,
        "user_id": run.user,
        "team_id": run.team,
        "status_detail": run.log[-1]["comment"] if run.log else "",
        "wdl_file": "workflow.wdl",
        "json_file": "inputs.json",
    }


def _matches(run: Run, asked: dict[str, Any]) -> bool:
    age = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.datetime.fromisoformat(run.submitted)
    return (
        not (asked.get("active_only") and run.status == "done")
        and age <= datetime.timedelta(days=float(asked.get("delta_days") or 10))
        and asked.get("site_id") in (None, "all", run.site)
        and asked.get("result") in (None, "any", run.result)
    )


def _error(status: int, words: str) -> Response:
    return JSONResponse({"detail": {"error": words}}, status)


def _no_run(request: Request) -> Response:
    return _error(404, f"Run not found: {request.path_params['id']}")
