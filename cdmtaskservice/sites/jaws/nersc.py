"""NERSC's Superfacility API (SFAPI): commands and small files on the machines there.

The library that it is called with repeats what was not answered, so a command may be begun twice: whatever is run here
must bear that. All calls raise SiteUnreachableError where NERSC does not do what it was asked.
"""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import shlex
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import structlog
import tenacity
from authlib.common.errors import AuthlibBaseError
from joserfc.errors import JoseError

from cdmtaskservice.meter import UNMETERED, Meter, Metered
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.breaker import Breaker
from cdmtaskservice.sites.jaws.config import NerscConfig
from cdmtaskservice.sites.jaws.credentials import SfapiCredentials, WatchedFile, parse_credentials

with warnings.catch_warnings(record=True):
    # A library below it warns of its own future whenever it is loaded, past the log, which is not set up by then.
    from sfapi_client import AsyncClient
    from sfapi_client.exceptions import SfApiError

_log = structlog.get_logger(__name__)

_GONE = "No such file or directory"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks at a command that is waited for."""
_ENDED = frozenset({"completed", "failed", "cancelled"})
_ONGOING = frozenset({"Active", "Extended"})
"""What is said of an outage that goes on."""


@dataclass(frozen=True)
class CommandState:
    """A command that was begun. running: it has not ended. exit_code: where it has ended and said so."""

    running: bool
    exit_code: int | None = None
    output: str = ""
    error: str = ""


@dataclass(frozen=True)
class ClientInfo:
    """A client of SFAPI, and until when it is valid."""

    id: str
    expires_at: datetime.datetime


class NerscRefusedError(SiteUnreachableError):
    """NERSC has understood the request, and said no."""


class Nersc:
    """One user's access. Credentials that were renewed are taken up by the next call."""

    def __init__(self, config: NerscConfig, meter: Meter = UNMETERED) -> None:
        self._config = config
        self._meter = meter
        self._file = WatchedFile(config.credentials, "NERSC credentials")
        self._client: AsyncClient | None = None
        self._used: SfapiCredentials | None = None
        self._refused: SfapiCredentials | None = None
        """Credentials that were looked at and are not taken."""
        self._why_refused = ""
        self._closing: set[asyncio.Task[None]] = set()
        self._renewing = asyncio.Lock()
        self._breaker = Breaker()
        self._slots = asyncio.Semaphore(config.concurrency)

    async def close(self) -> None:
        """Close the connections."""
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def upload(self, machine: str, path: str, content: bytes) -> None:
        """Write a file, whose directory must be there."""
        reply = await self._call(
            "upload", lambda c: c.put(f"utilities/upload/{machine}/{quote(path)}", files={"file": io.BytesIO(content)})
        )
        _checked(reply, f"write {path}")

    async def download(self, machine: str, path: str) -> str | None:
        """The text of a file; None where there is none."""
        reply = await self._call(
            "download",
            lambda c: c.get(f"utilities/download/{machine}/{quote(path)}", params={"binary": False}),
            missing=(404,),
        )
        if reply is None or _GONE in str(_object(reply).get("error")):
            return None
        return str(_checked(reply, f"read {path}").get("file"))

    async def begin(self, machine: str, arguments: Sequence[str]) -> str:
        """Begin a command; returns the ID of its task, which NERSC knows until some minutes after its end."""
        line = shlex.join(["bash", "-c", f"exec {shlex.join(arguments)}"])
        reply = await self._call("command", lambda c: c.post(f"utilities/command/{machine}", data={"executable": line}))
        task_id = _checked(reply, "run a command").get("task_id")
        if not task_id:
            raise SiteUnreachableError("NERSC did not say how it calls a command that it runs")
        return str(task_id)

    async def state(self, task_id: str) -> CommandState | None:
        """What became of a command; None where NERSC does not know it, so that it has ended."""
        reply = await self._call("task", lambda c: c.get(f"tasks/{task_id}"), missing=(404, 410))
        if reply is None:
            return None
        task = _object(reply)
        if str(task.get("status", "")).lower() not in _ENDED:
            return CommandState(running=True)
        return _ended(task.get("result"))

    async def run(self, machine: str, arguments: Sequence[str], within: float) -> CommandState:
        """Run a short command to its end, which must come within so many seconds."""
        task_id = await self.begin(machine, arguments)
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(within):
                while (state := await self.state(task_id)) is not None and state.running:
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE)
        except TimeoutError:
            raise SiteUnreachableError(f"A command at NERSC did not end within {within:.0f} seconds") from None
        if state is None:
            raise SiteUnreachableError("NERSC has lost a command that it was to run")
        return state

    async def cancel(self, task_id: str) -> None:
        """Let NERSC forget a command."""
        await self._call("cancel", lambda c: c.delete(f"tasks/{task_id}"), missing=(404, 410))

    async def why_down(self) -> str | None:
        """Why NERSC's machines cannot be used now, and until when if that is known; None where they can."""
        for machine in (self._config.submit_machine, self._config.transfer_machine):
            reply = await self._call("status", partial(_get, f"status/{machine}"))
            status = _object(reply)
            if status.get("status") not in {"active", "degraded"}:
                notes = "; ".join(str(n) for n in status.get("notes") or ())
                until = await self._end_of_outage(machine)
                return f"NERSC's {machine} is {status.get('status')}" + (f" ({notes})" if notes else "") + until
        return None

    async def client_info(self) -> ClientInfo:
        """The client whose credentials are used."""
        reply = await self._call("clients", lambda c: c.get("account/clients"))
        assert self._used is not None
        for client in _list(reply):
            if client.get("clientId") == self._used.client_id:
                try:
                    expires = datetime.datetime.fromisoformat(str(client.get("expiresAt")))
                except ValueError as e:
                    raise SiteUnreachableError(f"NERSC does not say when the client expires: {e}") from e
                utc = expires.replace(tzinfo=datetime.UTC) if expires.tzinfo is None else expires
                return ClientInfo(self._used.client_id, utc.astimezone(datetime.UTC))
        raise SiteUnreachableError(f"NERSC does not list the client {self._used.client_id} among its user's")

    async def check(self) -> None:
        """The credentials must be good, and the configured user's."""
        await self._call("account", lambda c: c.get("account/"))
        if self._refused is not None:
            raise NerscRefusedError(self._why_refused)

    async def _end_of_outage(self, machine: str) -> str:
        reply = await self._call("outages", lambda c: c.get(f"status/outages/{machine}"), missing=(404,))
        ends = [o.get("end_at") for o in _list(reply) if o.get("status") in _ONGOING]
        known = sorted(str(end) for end in ends if end)
        return f", until {known[-1]}" if known else ""

    async def _call(
        self, name: str, ask: Callable[[AsyncClient], Awaitable[httpx.Response]], *, missing: Sequence[int] = ()
    ) -> httpx.Response | None:
        """One call. None for an answer with a status of `missing`. A token that has run out is got anew, once."""
        self._breaker.check()
        with Metered(self._meter, "nersc", name, (NerscRefusedError,)):
            return await self._tried(ask, missing)

    async def _tried(
        self, ask: Callable[[AsyncClient], Awaitable[httpx.Response]], missing: Sequence[int]
    ) -> httpx.Response | None:
        for last in (False, True):
            if last:
                # Not at first: whoever has been let through once is the one who tries.
                self._breaker.check()
            client = None
            try:
                async with self._slots, asyncio.timeout(self._config.timeout):
                    client = await self._current()
                    reply = await ask(client)
                self._breaker.close()
                return reply
            except httpx.HTTPStatusError as e:
                self._breaker.close()
                status = e.response.status_code
                if status in missing:
                    return None
                if status in {401, 403} and not last and client is not None:
                    await self._forget(client)
                    continue
                words = e.response.text[:500]
                kind = NerscRefusedError if status < 500 and status != 429 else SiteUnreachableError
                raise kind(f"NERSC answers {e.request.method} {e.request.url.path} with {status}: {words}") from e
            except TimeoutError:
                why = f"NERSC did not answer within {self._config.timeout:.0f} seconds"
                self._breaker.open(why)
                raise SiteUnreachableError(why) from None
            except (httpx.HTTPError, tenacity.RetryError, SfApiError) as e:
                if isinstance(e, httpx.RemoteProtocolError) and not last:
                    continue  # a connection that was kept for too long
                raise SiteUnreachableError(f"NERSC does not answer as it should: {_words(e)}") from e
            except (AuthlibBaseError, JoseError, ValueError) as e:
                raise NerscRefusedError(f"NERSC does not take the credentials: {type(e).__name__} {e}") from e
        raise AssertionError("unreachable")

    async def _current(self) -> AsyncClient:
        async with self._renewing:
            await self._renew()
            assert self._client is not None
            return self._client

    async def _renew(self) -> None:
        """Take up credentials that are new, unless they are somebody else's."""
        credentials = parse_credentials(self._file.read(), self._config.credentials)
        if credentials == self._used:
            self._refused = None
        if credentials == self._refused and self._used is not None:
            credentials = self._used
        if credentials == self._used and self._client is not None:
            return
        client = AsyncClient(
            credentials.client_id,
            credentials.key,
            api_base_url=self._config.api_url.rstrip("/"),
            token_url=self._config.token_url,
        )
        try:
            user = _object(await client.get("account/")).get("name")
        except (httpx.HTTPStatusError, AuthlibBaseError, JoseError, ValueError) as e:
            await client.close()
            if self._used is None or credentials == self._used:
                raise
            # Those that were good may still be.
            self._refused, self._why_refused = credentials, f"NERSC does not take the new credentials: {_words(e)}"
            _log.error("nersc_credentials_refused", error=_words(e))
            await self._renew()
            return
        except BaseException:
            await client.close()
            raise
        if user != self._config.user:
            await client.close()
            self._refused = credentials
            self._why_refused = (
                f"The NERSC credentials in {self._config.credentials} are those of the user {user}, and nersc.user is "
                f"{self._config.user}: they are not used"
            )
            _log.error("nersc_credentials_refused", user=user)
            if self._used is None:
                raise NerscRefusedError(self._why_refused)
            await self._renew()  # with those that were good
            return
        if self._used is not None and credentials != self._used:
            _log.info("nersc_credentials_renewed", client=credentials.client_id)
        if credentials != self._used:
            self._refused = None
        self._replace(client)
        self._used = credentials

    async def _forget(self, client: AsyncClient) -> None:
        """Make a client anew, unless somebody has done so."""
        async with self._renewing:
            if self._client is client:
                self._replace(None)

    def _replace(self, client: AsyncClient | None) -> None:
        old, self._client = self._client, client
        if old is not None:
            # Calls that are under way have a moment to end.
            task = asyncio.create_task(self._close_later(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_later(self, client: AsyncClient) -> None:
        try:
            await asyncio.sleep(self._config.timeout)
        finally:
            await client.close()


async def _get(path: str, client: AsyncClient) -> httpx.Response:
    reply: httpx.Response = await client.get(path)
    return reply


def _checked(reply: httpx.Response | None, what: str) -> dict[str, Any]:
    body = _object(reply)
    if str(body.get("status")).upper() != "OK":
        raise SiteUnreachableError(f"NERSC did not {what}: {body.get('error')}")
    return body


def _object(reply: httpx.Response | None) -> dict[str, Any]:
    body = _json(reply)
    return body if isinstance(body, dict) else {}


def _list(reply: httpx.Response | None) -> list[dict[str, Any]]:
    body = _json(reply)
    return [entry for entry in body if isinstance(entry, dict)] if isinstance(body, list) else []


def _json(reply: httpx.Response | None) -> object:
    """The answer's JSON. Raises: SiteUnreachableError, as what stands before NERSC answers otherwise."""
    try:
        return reply.json() if reply is not None else None
    except ValueError as e:
        raise SiteUnreachableError("NERSC answers with what is no JSON") from e


def _ended(result: object) -> CommandState:
    """A command's end. `result` is JSON in a string; without one, all that is known is that it ended."""
    try:
        told = json.loads(result) if isinstance(result, str) else {}
    except ValueError:
        told = {}
    code = told.get("exit_code")
    return CommandState(
        running=False,
        exit_code=code if isinstance(code, int) else None,
        output=str(told.get("output") or ""),
        error=str(told.get("error") or ""),
    )


def _words(error: BaseException) -> str:
    if isinstance(error, tenacity.RetryError):
        cause = error.last_attempt.exception()
        return f"{type(cause).__name__} {cause}"
    return f"{type(error).__name__} {error}".strip()
