"""What all JAWS sites share: NERSC, JAWS Central, and what the service keeps at NERSC to be able to work there.

The service starts without any of them. What is missing is made in the background, again and again until all is there,
and `why_not_ready` says what stands in the way.
"""

from __future__ import annotations

import asyncio
import configparser
import hashlib
import io
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.central import JawsCentral
from cdmtaskservice.sites.jaws.config import JawsConfig, NerscConfig
from cdmtaskservice.sites.jaws.credentials import WatchedFile
from cdmtaskservice.sites.jaws.nersc import Nersc

_log = structlog.get_logger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_RENEW = 600.0
"""Seconds after which it is looked whether all is still there."""
_SHORT = 120.0
"""Seconds within which a short command ends."""

# Arguments: directory, archive's name, and the archive as it was uploaded. Whoever finds the directory finds it whole.
_UNPACK = """\
set -e
umask 077
cd "$1"
if [ ! -d "$2" ]; then
    aside=".unpacking-$3"
    rm -rf "$aside"
    mkdir "$aside"
    tar -xzf "$3" -C "$aside"
    chmod 755 "$aside"
    mv -T "$aside" "$2" 2>/dev/null || [ -d "$2" ]
    rm -rf "$aside"
fi
rm -f "$3"
"""


class JawsPlatform:
    """Started by every site that uses it, and stopped with the last."""

    def __init__(
        self,
        nersc: NerscConfig,
        jaws: JawsConfig,
        archive: Callable[[], Awaitable[bytes]],
        meter: Meter = UNMETERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """archive: gives the executor's code, as a .tar.gz."""
        self.nersc = Nersc(nersc, meter)
        self.central = JawsCentral(jaws, meter)
        self.nersc_config = nersc
        self.jaws_config = jaws
        self._archive = archive
        self._token = WatchedFile(jaws.token, "JAWS token")
        self._clock = clock
        self._sha256 = ""
        self._name = secrets.token_hex(4)
        """Tells what this process uploads from what others do."""
        self._installed_token: str | None = None
        self._ready_since: float | None = None
        self._why = "the connection to NERSC and JAWS is being set up"
        self._wake = asyncio.Event()
        self._users = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def why_not_ready(self) -> str | None:
        """What is missing; None where all is there."""
        return None if self._ready_since is not None else self._why

    @property
    def code(self) -> str:
        """The directory of the executor's code at NERSC."""
        return f"{self.nersc_config.code_dir}/code/{self._sha256}"

    @property
    def jaws_settings(self) -> str:
        """The file of the `jaws` command's settings at NERSC."""
        return f"{self.nersc_config.code_dir}/jaws.conf"

    @property
    def plans(self) -> str:
        """Where plans are uploaded: nobody else can read there."""
        return f"{self.nersc_config.code_dir}/plans"

    async def start(self) -> None:
        """Begin to set up."""
        self._users += 1
        if self._task is None:
            self._task = asyncio.create_task(self._keep_ready())

    async def stop(self) -> None:
        """End, if nobody else uses it."""
        self._users -= 1
        if self._users == 0 and self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.nersc.close()
            await self.central.close()

    def doubt(self) -> None:
        """Something at NERSC seems to be gone: look whether all is there."""
        self._wake.set()

    def require_ready(self) -> None:
        """Raises: SiteUnreachableError where something is missing."""
        if (why := self.why_not_ready) is not None:
            raise SiteUnreachableError(why)

    def require_code(self) -> None:
        """Raises: SiteUnreachableError where remote code cannot be run."""
        if not self._sha256:
            raise SiteUnreachableError(self._why)

    async def set_up(self) -> None:
        """See to it once that all is there. Raises: SiteUnreachableError."""
        await self.nersc.check()
        archive = await self._archive()
        await self._install_code(archive, hashlib.sha256(archive).hexdigest())
        await self.install_token(anew=True)

    async def install_token(self, *, anew: bool = False) -> None:
        """Put the JAWS token where the `jaws` command reads it, unless that was done. It must be the right user's."""
        token = self._token.read_token()
        if token == self._installed_token and not anew:
            return
        await self.central.check_user()
        settings = configparser.ConfigParser()
        settings.optionxform = str  # type: ignore[assignment,method-assign]
        settings["USER"] = {"token": token.replace("%", "%%"), "default_team": self.jaws_config.team}
        text = io.StringIO()
        settings.write(text)
        aside = f"{self.plans}/jaws-{self._name}.conf"
        await self.nersc.upload(self.nersc_config.transfer_machine, aside, text.getvalue().encode())
        await self._shell(
            f"chmod 600 {shlex.quote(aside)} && mv -f {shlex.quote(aside)} {shlex.quote(self.jaws_settings)}"
        )
        self._installed_token = token

    async def _install_code(self, archive: bytes, sha256: str) -> None:
        code = f"{self.nersc_config.code_dir}/code/{sha256}"
        directory = self.nersc_config.code_dir
        made = " ".join(shlex.quote(f"{directory}/{d}") for d in ("plans", "code", "tasks"))
        there = await self._shell(
            f"umask 077 && mkdir -p {made} && chmod 755 {shlex.quote(directory)} {shlex.quote(directory)}/code && "
            f"chmod 700 {shlex.quote(self.plans)} && if [ -d {shlex.quote(code)} ]; then echo there; fi"
        )
        if "there" in there:
            self._sha256 = sha256
            return
        uploaded = f"{sha256}.{self._name}.tgz"
        await self.nersc.upload(self.nersc_config.transfer_machine, f"{directory}/code/{uploaded}", archive)
        await self._shell(_UNPACK, f"{directory}/code", sha256, uploaded)
        self._sha256 = sha256
        _log.info("code_installed", sha256=sha256)

    async def _shell(self, script: str, *arguments: str) -> str:
        """What a few lines of shell print on the machine for transfers. Raises: SiteUnreachableError."""
        ran = await self.nersc.run(
            self.nersc_config.transfer_machine, ["bash", "-c", script, "cts", *arguments], within=_SHORT
        )
        if ran.exit_code != 0:
            said = (ran.error or ran.output)[-1000:]
            raise SiteUnreachableError(
                f"NERSC's {self.nersc_config.transfer_machine} could not set up {self.nersc_config.code_dir}: "
                f"exit code {ran.exit_code}: {said}"
            )
        return ran.output

    async def _keep_ready(self) -> None:
        pause = _FIRST_RETRY
        while True:
            self._wake.clear()
            try:
                await self.set_up()
            except SiteUnreachableError as e:
                self._note(e.message)
                wait, pause = pause, min(2 * pause, _LONGEST_RETRY)
            except Exception:
                _log.exception("jaws_set_up_failed")
                self._note("setting up the connection to NERSC and JAWS failed; the service's log has the reason")
                wait, pause = pause, min(2 * pause, _LONGEST_RETRY)
            else:
                if self._ready_since is None:
                    _log.info("jaws_ready")
                self._ready_since = self._clock()
                wait, pause = _RENEW, _FIRST_RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
                await asyncio.sleep(_FIRST_RETRY)

    def _note(self, why: str) -> None:
        if self._why != why or self._ready_since is not None:
            _log.warning("jaws_not_ready", reason=why)
        self._why, self._ready_since = why, None
