"""JAWS Central's HTTP interface: who we are, runs, sites."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from cdmtaskservice.meter import UNMETERED, Meter, Metered
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.breaker import Breaker
from cdmtaskservice.sites.jaws.config import JawsConfig
from cdmtaskservice.sites.jaws.credentials import WatchedFile

_TRIES = 3
_PAUSE = 0.5
"""Seconds before the second try; doubled before each further one."""
_SEARCH_DAYS = 30
"""How far back runs are searched. A submission in doubt is minutes old."""

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
_CANCELLATION = re.compile(r"cancell?(ed|ing)( by .*)?", re.IGNORECASE)
"""What the log says of a run that somebody cancelled; an engine may cancel jobs of its own for other reasons."""


class NoSuchRunError(Exception):
    """JAWS has no run with that ID."""


class JawsRefusedError(SiteUnreachableError):
    """JAWS Central has understood the request, and said no."""


@dataclass(frozen=True)
class JawsRun:
    """A run as JAWS Central tells of it.

    result: succeeded, failed, cancelled, or None where JAWS itself failed, or the run goes on.
    """

    id: str
    status: str
    result: str | None
    output_dir: str | None
    tag: str | None
    cpu_hours: float | None
    raw: Mapping[str, Any]

    @property
    def over(self) -> bool:
        """Whether JAWS will do no more for it."""
        return self.status == "done"


@dataclass(frozen=True)
class RunLog:
    """What JAWS has noted of a run, as text, and whether one of its states was that it was cancelled."""

    text: str
    says_cancelled: bool


class JawsCentral:
    """A client. Every method raises SiteUnreachableError where JAWS does not answer as it should."""

    def __init__(self, config: JawsConfig, meter: Meter = UNMETERED) -> None:
        self._meter = meter
        self._token = WatchedFile(config.token, "JAWS token")
        self._user = config.user
        self._good: str | None = None
        """The last token that was seen to be the user's."""
        self._http = httpx.AsyncClient(base_url=config.url.rstrip("/"), timeout=config.timeout, follow_redirects=False)
        self._breaker = Breaker()
        self._random = random.Random()  # noqa: S311 - jitter

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def check_user(self) -> None:
        """The token must be the configured user's. Raises: JawsRefusedError."""
        await self._check_token(self._token.read_token())

    async def _check_token(self, token: str) -> None:
        found = (await self._ask(token, "GET", "/api/v2/user", None)).get("uid")
        if found != self._user:
            raise JawsRefusedError(
                f"The JAWS token belongs to the user {found}, and jaws.user is {self._user}: set one right"
            )
        self._good = token

    async def run(self, run_id: str) -> JawsRun:
        """A run. Raises: NoSuchRunError."""
        return _run(await self._call("GET", f"/api/v2/run/{run_id}?verbose=true&local_tz=UTC"))

    async def cancel(self, run_id: str) -> None:
        """Ask JAWS to cancel a run. That it is too late is no error: look at the run. Raises: NoSuchRunError."""
        try:
            await self._call("PUT", f"/api/v2/run/{run_id}/cancel")
        except JawsRefusedError as e:
            if "too late" not in e.message:
                raise

    async def log(self, run_id: str) -> RunLog:
        """What JAWS has noted of a run. Raises: NoSuchRunError."""
        body = await self._call("GET", f"/api/v2/run/{run_id}/run_log")
        entries = body.get("_", body)
        rows = entries if isinstance(entries, list) else [entries]
        values = [[str(v) for v in (r.values() if isinstance(r, dict) else [r])] for r in rows]
        cancelled = any(_CANCELLATION.fullmatch(v.strip()) for row in values for v in row)
        return RunLog("\n".join(" ".join(row) for row in values), cancelled)

    async def recent_runs(self) -> Sequence[JawsRun]:
        """All runs of the token's user in the last days, whatever became of them."""
        body = await self._call("POST", "/api/v2/search", {"active_only": False, "delta_days": _SEARCH_DAYS})
        return [_run(row) for row in body.get("_", []) if isinstance(row, dict)]

    async def site_down(self, site: str) -> str | None:
        """Why JAWS cannot run anything at a site now; None where it can."""
        body = await self._call("GET", f"/api/v2/status/{site}")
        down = [f"{name} is {state}" for name, state in body.items() if str(state).upper() != "UP"]
        return ", ".join(down) or None

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object of the answer; a list comes as the value of the key `_`."""
        token = self._token.read_token()
        if token != self._good:
            # To another user's questions JAWS says that there is no such run.
            await self._check_token(token)
        return await self._ask(token, method, path, body)

    async def _ask(self, token: str, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        self._breaker.check()
        with Metered(self._meter, "jaws", _name_of(path), (JawsRefusedError, NoSuchRunError)):
            return await self._tried(token, method, path, body)

    async def _tried(self, token: str, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        why = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE * 2 ** (attempt - 1) * self._random.uniform(0.5, 1.0))
            headers = {"Authorization": f"Bearer {token}"}
            try:
                reply = await self._http.request(method, path, headers=headers, json=body)
            except httpx.TimeoutException as e:
                why = f"JAWS Central does not answer: {type(e).__name__} {e}".strip()
                self._breaker.open(why)
                break
            except httpx.HTTPError as e:
                why = f"JAWS Central does not answer: {type(e).__name__} {e}".strip()
                continue
            self._breaker.close()
            if reply.status_code < 300:
                return _object(reply)
            why = f"JAWS Central answers {method} {path.partition('?')[0]} with {reply.status_code}: {_words(reply)}"
            if reply.status_code == httpx.codes.NOT_FOUND and "/run/" in path and _is_its_own(reply):
                raise NoSuchRunError(why)
            if reply.status_code < 500 and reply.status_code not in {408, 429}:
                raise JawsRefusedError(why)
        raise SiteUnreachableError(why)


def _name_of(path: str) -> str:
    """What a call is named by: what it is of, or does to a run."""
    _, _, of, *rest = path.partition("?")[0].strip("/").split("/")
    return rest[1] if len(rest) > 1 else of


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError as e:
        raise SiteUnreachableError(f"JAWS Central answers with what is no JSON: {reply.text[:200]}") from e
    return body if isinstance(body, dict) else {"_": body}


def _is_its_own(reply: httpx.Response) -> bool:
    """Whether an error is JAWS's, and not of something between us."""
    with suppress(ValueError, KeyError, TypeError):
        return "error" in reply.json()["detail"]
    return False


def _words(reply: httpx.Response) -> str:
    """What an error says: `{"detail": {"error": …}}`, `{"detail": …}`, or whatever else came."""
    try:
        detail = reply.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return reply.text[:500]
    return str(detail["error"] if isinstance(detail, dict) and "error" in detail else detail)[:500]


def _run(body: Mapping[str, Any]) -> JawsRun:
    hours = body.get("cpu_hours")
    run_id = body.get("id", body.get("run_id"))
    return JawsRun(
        id=str(run_id),
        status=str(body.get("status")),
        result=body.get("result"),
        output_dir=body.get("output_dir"),
        tag=body.get("tag"),
        cpu_hours=float(hours) if isinstance(hours, (int, float)) else None,
        raw=body,
    )
