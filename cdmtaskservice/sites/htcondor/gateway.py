"""The service's end of the agent: one call at a time, each with a time limit that is kept."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import structlog

from cdmtaskservice.meter import UNMETERED, Meter, Metered
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig

_log = structlog.get_logger(__name__)

_CONFIGURATIONS = ("/etc/condor/condor_config", "/usr/local/etc/condor_config")
_WORDS = 2000


class PoolRefusedError(SiteUnreachableError):
    """The pool has answered, and said no."""


class PoolHangsError(SiteUnreachableError):
    """The pool has not answered within the time of the call."""


class PoolBusyError(SiteUnreachableError):
    """The call was not made, since others take too long."""


class Gateway:
    """Starts the agent when it is first needed, and ends it where a call takes too long.

    Callers wait for each other, as a call takes milliseconds. After one that took too long the others fail at once,
    until a `ping` is answered: else each would wait as long, one after the other.
    """

    def __init__(
        self,
        site: str,
        *,
        condor_config: Path | None = None,
        collector: str | None = None,
        schedd: str | None = None,
        token_directory: Path | None = None,
        command: Sequence[str] = (sys.executable, "-m", "cdmtaskservice.sites.htcondor.agent"),
        meter: Meter = UNMETERED,
    ) -> None:
        """site: its name, for messages. The rest: as in `HTCondorSiteConfig`. command: starts the agent."""
        self._site = site
        self._meter = meter
        self._command = [*command, *([f"--collector={collector}"] if collector else [])]
        self._schedd = schedd
        """The one to use. Where none was named, the first that was found stays the one."""
        self._environment = _environment(condor_config, token_directory)
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._hangs: str | None = None

    @classmethod
    def of(cls, config: HTCondorSiteConfig, meter: Meter = UNMETERED) -> Self:
        """That of a site."""
        return cls(
            config.info.name,
            condor_config=config.condor_config,
            collector=config.collector,
            schedd=config.schedd,
            token_directory=config.token_directory,
            meter=meter,
        )

    async def call(self, name: str, limit: float, /, *, vital: bool = True, turn: float = 0.0, **arguments: Any) -> Any:
        """What the agent's call `name` returns.

        limit: seconds for the call itself. vital: if it takes longer, the pool hangs. turn: if not 0, seconds within
        which it must begin. Raises: PoolRefusedError, PoolBusyError, and SiteUnreachableError where it is not known
        what became of the call.
        """
        async with self._in_turn(turn):
            if self._hangs is not None and name != "ping":
                raise PoolBusyError(self._hangs)
            with Metered(self._meter, "htcondor", name, (PoolRefusedError,)):
                return await self._call(name, limit, vital, arguments)

    async def _call(self, name: str, limit: float, vital: bool, arguments: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(limit):
                answer = await self._exchange({"call": name, "arguments": arguments})
        except TimeoutError:
            why = f"site {self._site}: HTCondor has not answered {name} within {limit:g} seconds"
            self._hangs = why if vital else None
            await self.close()
            raise PoolHangsError(why) from None
        except (OSError, EOFError, ValueError) as error:
            await self.close()
            raise SiteUnreachableError(f"site {self._site}: the agent for HTCondor died: {error}") from error
        except BaseException:
            # Cancelled in the middle of a call: its answer must not be taken for that of the next one.
            self._kill()
            raise
        self._hangs = None
        self._schedd = answer.get("schedd") or self._schedd
        if "error" in answer:
            kind = PoolRefusedError if answer["refused"] else SiteUnreachableError
            raise kind(f"site {self._site}: {name}: {str(answer['error'])[:_WORDS]}")
        return answer["value"]

    @property
    def pid(self) -> int | None:
        """The agent's process ID while it runs."""
        return self._process.pid if self._process is not None else None

    async def close(self) -> None:
        """End the agent. The next call starts another one."""
        process = self._process
        self._kill()
        if process is not None:
            await process.wait()

    @asynccontextmanager
    async def _in_turn(self, within: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(within or None):
                await self._turn.acquire()
        except TimeoutError:
            raise PoolBusyError(f"site {self._site}: other calls to HTCondor take too long") from None
        try:
            yield
        finally:
            self._turn.release()

    async def _exchange(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *([f"--schedd={self._schedd}"] if self._schedd else []),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
            )
            _log.info("htcondor_agent_started", site=self._site, pid=self._process.pid)
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        data = json.dumps(request).encode()
        writer.write(b"%d\n" % len(data) + data)
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise EOFError("it has ended; its last words are in the service's log")
        answer: Mapping[str, Any] = json.loads(await reader.readexactly(int(line)))
        return answer

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process = None


def _environment(condor_config: Path | None, token_directory: Path | None) -> Mapping[str, str]:
    environment = dict(os.environ)
    if condor_config is not None:
        environment["CONDOR_CONFIG"] = str(condor_config)
    elif "CONDOR_CONFIG" not in environment and not any(Path(p).exists() for p in _CONFIGURATIONS):
        # Else the bindings refuse to work at all.
        environment["CONDOR_CONFIG"] = "ONLY_ENV"
    if token_directory is not None:
        environment["_CONDOR_SEC_TOKEN_DIRECTORY"] = str(token_directory)
    return environment
