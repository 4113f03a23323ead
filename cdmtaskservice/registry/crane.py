"""Asking a registry about an image, by the program crane.

Whatever is to be known of an image is asked of its digest: the tag is resolved once, and a tag that moves
meanwhile cannot mix two images. Crane is run without a shell, with validated names only, in an environment
of a few variables.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import BaseModel, Field, ValidationError

from cdmtaskservice.domain.errors import (
    DependencyUnavailableError,
    ImageFetchError,
    ImageNoEntrypointError,
)
from cdmtaskservice.meter import UNMETERED, Meter, Metered
from cdmtaskservice.registry.faults import crane_fault, error_line, is_answer
from cdmtaskservice.registry.names import ImageName

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ImageFacts:
    """What a registry says about an image.

    name: host and path, normalized.
    digest: `sha256:…`; of the index where the image is built for several platforms.
    tag: the tag that was asked for, if one was; it pointed to the digest when it was looked up.
    entrypoint: program and first arguments, never empty.
    """

    name: str
    digest: str
    tag: str | None
    entrypoint: tuple[str, ...]


class Crane:
    """Looks images up.

    Args:
        executable: the program, by its path or by its name on PATH.
        timeout: seconds for one run of crane, and as much for the wait until one may start.
        concurrency: how many runs at once.
        insecure_hosts: registries, as `host` or `host:port`, that may be asked over plain HTTP or with a
            certificate that nobody vouches for. Loopback addresses need no leave for plain HTTP.
        environment: where the variables that crane may see are taken from: PATH, HOME, DOCKER_CONFIG
            (credentials), those of proxies and certificates, and no others. The process's own environment if
            None.
        meter: told of every look-up.
    """

    def __init__(
        self,
        executable: Path | str = "crane",
        timeout: float = 30.0,
        concurrency: int = 4,
        insecure_hosts: Collection[str] = (),
        environment: Mapping[str, str] | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._meter = meter
        self._executable = str(executable)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._insecure_hosts = frozenset(host.lower() for host in insecure_hosts)
        self._environment = _environment(os.environ if environment is None else environment)

    async def check(self) -> None:
        """Try whether crane can be run at all.

        Raises:
            DependencyUnavailableError: it is missing, may not be run, or fails.
        """
        ended = await self._run("version")
        if ended is None or ended.code != 0:
            how = "did not end in time" if ended is None else f"exited with {ended.code}: {error_line(ended.stderr)}"
            raise DependencyUnavailableError(f"'{self._executable} version' {how}; is it crane?")

    async def resolve(self, name: ImageName) -> ImageFacts:
        """Look up the digest and the entrypoint of an image for linux/amd64.

        With tag and digest the digest decides, and the tag must point to it.

        Raises:
            ImageFetchError: there is no such image, not for this platform, or the registry does not tell.
            ImageNameParseError: crane does not take the name.
            ImageNoEntrypointError: the image cannot be given arguments, having no entrypoint.
            DependencyUnavailableError: crane cannot be run, or too many look-ups are waiting.
        """
        digest = name.digest or await self._digest(name)
        entrypoint = await self._entrypoint(name, digest)
        if name.digest and name.tag:
            await self._check_tag(name)
        _log.info("image_resolved", image=str(name), digest=digest)
        return ImageFacts(name.name, digest, name.tag, entrypoint)

    async def _check_tag(self, name: ImageName) -> None:
        pointed_to = await self._digest(ImageName(name.name, name.tag))
        if pointed_to != name.digest:
            raise ImageFetchError(
                f"The tag {name.tag} of {name.name} points to {pointed_to} now, not to {name.digest}. Name the image"
                " by its digest alone, or give the digest that the tag points to"
            )

    async def _digest(self, name: ImageName) -> str:
        digest = (await self._ask("digest", name)).decode(errors="replace").strip()
        if not _DIGEST.fullmatch(digest):
            raise ImageFetchError(
                f"The registry gives {digest[:200]!a} as the digest of image {name}; only sha256 digests are taken"
            )
        return digest

    async def _entrypoint(self, name: ImageName, digest: str) -> tuple[str, ...]:
        text = await self._ask("config", ImageName(name.name, digest=digest))
        try:
            config = _Config.model_validate_json(text)
        except ValidationError:
            raise ImageFetchError(
                f"The registry's configuration of image {name} ({digest}) is not that of a container image; it may be"
                " an artifact of another kind"
            ) from None
        # Crane picks the platform from an index, but takes a single image as it is, whatever it was built for.
        if f"{config.os}/{config.architecture}" != _PLATFORM:
            raise ImageFetchError(
                f"Image {name} ({digest}) is for {config.os[:50]}/{config.architecture[:50]} only; build it for"
                f" {_PLATFORM} too and push it"
            )
        entrypoint = tuple((config.config and config.config.entrypoint) or ())
        if not any(entrypoint):
            raise ImageNoEntrypointError(
                f"Image {name} ({digest}) has no entrypoint, so a job could not pass arguments to its program. Add"
                ' ENTRYPOINT ["program"] to its Dockerfile, build it again and push it'
            )
        return entrypoint

    async def _ask(self, command: str, name: ImageName) -> bytes:
        """What crane prints. `name` is asked for by its digest where it has one."""
        asked = f"{name.name}@{name.digest}" if name.digest else str(name)
        flags = ["--insecure"] if name.host in self._insecure_hosts else []
        if command == "config":
            # Not for `digest`: it would give that of one variant, where the digest of the whole index is wanted.
            flags.append(f"--platform={_PLATFORM}")
        # Two dashes end the options; besides, a normalized name starts with a host and never with a dash.
        with Metered(self._meter, "registry", command) as call:
            ended = await self._run(command, *flags, "--", asked)
            if ended is None or ended.code != 0:
                call.outcome = "refused" if ended is not None and is_answer(ended.stderr) else "error"
        if ended is None:
            _log.warning("image_lookup_failed", image=str(name), command=command, reason="timeout")
            raise ImageFetchError(
                f"The registry {name.host} did not answer within {self._timeout:g} s when asked for image {name}; try"
                " again later, or see whether the service may reach it"
            )
        if ended.code != 0:
            _log.warning("image_lookup_failed", image=str(name), command=command, reason=error_line(ended.stderr))
            raise crane_fault(name, ended.stderr)
        if len(ended.stdout) > _MAX_OUTPUT:
            raise ImageFetchError(
                f"The registry's description of image {name} is larger than {_MAX_OUTPUT} bytes; this is not an image"
                " that can be used"
            )
        return ended.stdout

    async def _run(self, *arguments: str) -> _Ended | None:
        """Run crane to its end; None if it had to be stopped for its time.

        Whatever happens, cancellation too, no process is left behind.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise DependencyUnavailableError(
                f"Too many images are being looked up at once: none of the look-ups ended within {self._timeout:g} s"
            ) from None
        try:
            return await self._run_now(arguments)
        finally:
            self._slots.release()

    async def _run_now(self, arguments: tuple[str, ...]) -> _Ended | None:
        try:
            process = await asyncio.create_subprocess_exec(
                self._executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                # Its own group, so that credential helpers that it starts are stopped with it.
                start_new_session=True,
            )
        except OSError as e:
            raise DependencyUnavailableError(
                f"The program '{self._executable}' cannot be run: {e.strerror or e}. Install crane, or name its path"
                " in the settings"
            ) from e
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self._timeout):
                stdout, stderr = await asyncio.gather(_head(process.stdout), _end(process.stderr))
                return _Ended(await process.wait(), stdout, stderr.decode(errors="replace"))
        except TimeoutError:
            await _kill(process)
            return None
        except BaseException:
            await _kill(process)
            raise


_MAX_OUTPUT = 4 * 1024 * 1024
_MAX_ERROR_TEXT = 64 * 1024
_KILL_WAIT = 2.0
_CHUNK = 64 * 1024
_PLATFORM = "linux/amd64"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_VARIABLES = frozenset(
    {
        *("PATH", "HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    }
)


@dataclass(frozen=True)
class _Ended:
    """How a run of crane ended; of a larger output one byte more than `_MAX_OUTPUT` is kept."""

    code: int
    stdout: bytes
    stderr: str


class _RunConfig(BaseModel):
    """The part of an image's configuration that says how it is started."""

    entrypoint: list[str] | None = Field(default=None, alias="Entrypoint")


class _Config(BaseModel):
    """An image's configuration, as its specification writes it."""

    os: str
    architecture: str
    config: _RunConfig | None = None


def _environment(source: Mapping[str, str]) -> dict[str, str]:
    """What crane may see: never the service's own secrets."""
    # Crane would try to send traces to a collector that is not there.
    return {k: v for k, v in source.items() if k in _VARIABLES} | {"OTEL_TRACES_EXPORTER": "none"}


async def _head(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, keeping the start."""
    # What is not kept is read all the same: a program stands still when nobody reads what it prints.
    kept = bytearray()
    while chunk := await stream.read(_CHUNK):
        kept += chunk[: _MAX_OUTPUT + 1 - len(kept)]
    return bytes(kept)


async def _end(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, keeping the last of it, where crane says why it failed."""
    kept = bytearray()
    while chunk := await stream.read(_CHUNK):
        kept += chunk
        del kept[:-_MAX_ERROR_TEXT]
    return bytes(kept)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Make an end of the process and whatever it started, and collect its exit status."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A helper that left the group may hold the pipes open, which would keep us waiting for as long as it lives.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILL_WAIT):
            await process.wait()
