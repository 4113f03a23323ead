"""Whether the local site can run containers now: looked at in the background, so that asking costs nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from cdmtaskservice.sites.base import SiteHealth
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.processes import executor_environment, run_command

_log = structlog.get_logger(__name__)

_PROBES: Mapping[str, tuple[str, ...]] = {
    # In the executor's order. Each talks to the daemon or the storage, not just to the client.
    "podman": ("info", "--format", "{{.Version.Version}}"),
    "docker": ("version", "--format", "{{.Server.Version}}"),
    "apptainer": ("version",),
}
_PROBE_TIMEOUT = 30.0
_FIRST_CHECK_WAIT = 5.0
_RECHECK_SICK = 5.0


class HealthCheck:
    """The last thing known of the site's health, kept up to date by `run`."""

    def __init__(self, config: LocalSiteConfig, on_change: Callable[[], None]) -> None:
        """on_change: called in the event loop when the site becomes able or unable to run containers."""
        self._config = config
        self._on_change = on_change
        self._environment = executor_environment(config)
        self._last: SiteHealth | None = None
        self._checked = asyncio.Event()

    @property
    def hold(self) -> str | None:
        """Why nothing should be started now, None where all is well."""
        if self._last is None:
            return "the site is being checked for the first time"
        return self._last.reason

    async def health(self) -> SiteHealth:
        """What the last check found. Only right after the start is there a wait, for a few seconds at most."""
        if self._last is None:
            try:
                async with asyncio.timeout(_FIRST_CHECK_WAIT):
                    await self._checked.wait()
            except TimeoutError:
                return SiteHealth(False, self.hold)
        assert self._last is not None
        return self._last

    async def run(self) -> None:
        """Check again and again, more often while something is wrong, until cancelled."""
        while True:
            before = self._last
            try:
                reason = await self._reason()
            except Exception as error:
                # A check must not end for ever because of one that went wrong in a way nobody thought of.
                reason = f"the check of the site failed: {error}"
                _log.exception("local_site_check_failed")
            self._last = SiteHealth(reason is None, reason)
            self._checked.set()
            if self._last != before:
                _log.info("local_site_health", available=reason is None, reason=reason)
                self._on_change()
            interval = self._config.health_interval
            await asyncio.sleep(interval if reason is None else min(interval, _RECHECK_SICK))

    async def _reason(self) -> str | None:
        return await asyncio.to_thread(_disk_and_token, self._config) or await self._runtime()

    async def _runtime(self) -> str | None:
        """Why no container runtime works, None where one does."""
        found = []
        for kind, executable in _candidates(self._config, self._environment["PATH"]):
            why = await self._probe(kind, executable)
            if why is None:
                return None
            found.append(why)
        if found:
            return "; ".join(found)
        wanted = self._config.container_runtime
        if (path := self._config.container_runtime_path) is not None:
            return f"the name {path.name} does not say which container runtime it is: set the runtime's kind"
        names = "podman, docker or apptainer" if wanted == "auto" else wanted
        return f"there is no container runtime: {names} is not on the PATH of the service"

    async def _probe(self, kind: str, executable: str) -> str | None:
        name = Path(executable).name
        try:
            outcome = await run_command([executable, *_PROBES[kind]], self._environment, _PROBE_TIMEOUT)
        except OSError as error:
            return f"{name} cannot be started: {error.strerror}"
        if outcome.code is None:
            return f"{name} did not answer within {_PROBE_TIMEOUT:g} s"
        if outcome.code != 0:
            # What it says names paths of this machine, and users read this reason.
            _log.warning("container_runtime_does_not_work", executable=executable, output=outcome.output[-1000:])
            return f"{name} does not work on the service's machine"
        return None


def _candidates(config: LocalSiteConfig, path: str) -> list[tuple[str, str]]:
    """(kind, executable) of the container runtimes that an executor may use, the first choice first."""
    wanted = config.container_runtime
    if config.container_runtime_path is not None:
        named = str(config.container_runtime_path)
        if wanted == "auto":
            # The executor too tells the runtime by the name of its command.
            return [(k, named) for k in _PROBES if k in config.container_runtime_path.name][:1]
        return [(wanted, named)]
    kinds = list(_PROBES) if wanted == "auto" else [wanted]
    return [(k, e) for k in kinds if (e := shutil.which(k, path=path)) is not None]


def _disk_and_token(config: LocalSiteConfig) -> str | None:
    """What is wrong with the working directory, its disk or the token, None where nothing is."""
    directory = config.work_dir
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"the working directory cannot be read: {error.strerror}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return "the working directory cannot be written"
    if free < config.min_free_disk:
        return (
            f"the disk of the working directory has {free} bytes free, and {config.min_free_disk} are needed: "
            "free some space or lower the site's minimum"
        )
    return _token(config.token_file)


def _token(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8") as file:
            if not file.read(4096).strip():
                return "the executor's token file is empty"
    except OSError as error:
        return f"the executor's token file cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return "the executor's token file holds no text"
    return None
