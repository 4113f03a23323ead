"""`cts s3`: what can be done with files in S3 before they are inputs of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdmtaskservice.cli.terminal import Exit, fail, needs, say, show_json, show_table

if TYPE_CHECKING:
    from cdmtaskservice.s3.mending import Looked
    from cdmtaskservice.s3.store import Store

app = typer.Typer(help="Files in S3, with your own S3 credentials.", no_args_is_help=True)

_AT_ONCE = 16
_ADDED_AT_ONCE = 3
"""Files that are sent again at once; each is in a temporary file meanwhile."""

_PATIENCE = 20.0
"""Seconds for a connection to stand, and between two arrivals of bytes: the store may be far away."""

_SLOWEST = 20_000
"""Bytes per second and request that are not taken for a transfer that is stuck: many share a slow line."""

_REGION = "us-east-1"


@app.callback()
def _group() -> None:
    """A group of its own, although it has one command."""


@app.command()
def checksum(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="BUCKET/KEY, or BUCKET/PREFIX/ for all below it; s3:// may precede."),
    ],
    add: Annotated[
        bool, typer.Option("--add", help="Give those that lack one a checksum, by sending them again.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", envvar="AWS_ENDPOINT_URL", help="The S3 store."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", envvar="AWS_PROFILE", help="Of your AWS configuration.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say which files lack the CRC64NVME checksum that inputs of jobs must have. Exit code 1 if any does.

    Keys are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or from AWS's own configuration
    files. --add reads each file that lacks one into a temporary file and writes it again to where it is; its content
    type, metadata and tags stay. A file that changes meanwhile is left as it is.
    """
    with needs("s3", "cts s3"):
        import structlog

        import cdmtaskservice.s3.mending  # noqa: F401
    # What is found is all that is printed.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    wanted = [_plain(path) for path in paths]
    files = asyncio.run(_all(wanted, endpoint, profile, add=add, quiet=as_json))
    if as_json:
        show_json({"files": [file.told() for file in files]})
    else:
        show_table(("file", "size", "state", "CRC64NVME"), [file.row() for file in files])
    lacking = sum(file.crc64nvme is None for file in files)
    if lacking:
        remedy = "" if add else "; --add gives them one"
        fail(f"{lacking} of {len(files)} files have no CRC64NVME{remedy}")


@dataclass(frozen=True)
class _File:
    """What became of one file."""

    path: str
    size: int | None = None
    crc64nvme: str | None = None
    composite: bool = False
    added: bool = False
    error: str | None = None

    def row(self) -> tuple[str, str, str, str]:
        state = "added" if self.added else "complete" if self.crc64nvme else "error" if self.error else "lacking"
        words = self.error or ("of its parts only" if self.composite else "")
        return self.path, "" if self.size is None else str(self.size), state, self.crc64nvme or words

    def told(self) -> dict[str, Any]:
        found = {"file": self.path, "size": self.size, "crc64nvme": self.crc64nvme, "error": self.error}
        flags = {"composite": self.composite, "added": self.added}
        return {name: v for name, v in found.items() if v is not None} | {name: True for name, v in flags.items() if v}


def _plain(path: str) -> str:
    bucket, slash, _ = path.removeprefix("s3://").partition("/")
    if not bucket or not slash:
        fail(f"{path}: write BUCKET/KEY, or BUCKET/PREFIX/ for all that is below", Exit.USAGE)
    return path.removeprefix("s3://")


async def _all(paths: list[str], endpoint: str | None, profile: str | None, *, add: bool, quiet: bool) -> list[_File]:
    from cdmtaskservice.s3.batches import run_batch
    from cdmtaskservice.s3.mending import below

    async with _store(endpoint, profile) as store:
        with _refusals_end():
            found: dict[str, None] = {}
            for path in paths:
                if not path.endswith("/"):
                    found[path] = None
                    continue
                there = [each async for each in below(store, path)]
                found |= dict.fromkeys(there)
                if not there:
                    fail(f"There is nothing below {path}")
            looks: list[Looked | _File] = await run_batch(list(found), lambda path: _look(store, path), _AT_ONCE)

            async def finished(look: Looked | _File) -> _File:
                if isinstance(look, _File):
                    return look
                if look.crc64nvme is None and add:
                    return await _mend(store, look, quiet=quiet)
                return _File(look.path, look.size, look.crc64nvme, look.composite)

            return await run_batch(looks, finished, _ADDED_AT_ONCE)


async def _look(store: Store, path: str) -> Looked | _File:
    """A _File where it cannot be looked at."""
    from cdmtaskservice.s3.mending import look

    return await _or_error(look(store, path), _File(path))


async def _mend(store: Store, look: Looked, *, quiet: bool) -> _File:
    from cdmtaskservice.s3.mending import mend

    before = _File(look.path, look.size, None, look.composite)
    now = await _or_error(mend(store, look), before)
    if isinstance(now, _File):
        return now
    if not quiet:
        say(f"{now.path} has a CRC64NVME now")
    return _File(now.path, now.size, now.crc64nvme, added=True)


async def _or_error(work: Coroutine[Any, Any, Looked], file: _File) -> Looked | _File:
    """What `work` gives, or `file` with the words of what concerns this file alone."""
    from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError, S3PathInaccessibleError
    from cdmtaskservice.s3.reading import ReplacedError

    try:
        return await work
    except ReplacedError:
        words = "it was replaced meanwhile, and is left as it is; try again"
    except DependencyUnavailableError:
        raise
    except S3PathInaccessibleError:
        words = "your keys do not let you read or write it"
    except CTSError as exc:
        words = exc.message
    except OSError as exc:
        words = f"the temporary file cannot be written: {exc.strerror or exc}"
    return replace(file, error=words)


@contextmanager
def _refusals_end() -> Iterator[None]:
    """What concerns the store as a whole ends the command."""
    from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError
    from cdmtaskservice.s3.attempts import CredentialsRefusedError

    try:
        yield
    except CredentialsRefusedError as exc:
        fail(f"The S3 store does not accept your keys ({exc.code}): check them, the region and this machine's clock")
    except DependencyUnavailableError as exc:
        fail(exc.message, Exit.UNREACHABLE)
    except CTSError as exc:
        fail(exc.message)


@asynccontextmanager
async def _store(endpoint: str | None, profile: str | None) -> AsyncIterator[Store]:
    """The S3 store that AWS's variables and files name."""
    from aiobotocore.session import AioSession
    from botocore.exceptions import BotoCoreError
    from pydantic import SecretStr

    from cdmtaskservice.s3.model import S3Config
    from cdmtaskservice.s3.store import Store

    try:
        session = AioSession(profile=profile)
        credentials = await session.get_credentials()
        keys = credentials and await credentials.get_frozen_credentials()
        region = session.get_config_variable("region") or _REGION
        async with session.create_client("s3", endpoint_url=endpoint, region_name=region) as client:
            address: str = client.meta.endpoint_url
    except (BotoCoreError, ValueError) as exc:
        fail(f"AWS's configuration cannot be used: {exc}")
    if keys is None or not keys.access_key:
        fail("There are no S3 keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if endpoint is None and address.endswith(".amazonaws.com"):
        fail(f"Name the S3 store with --endpoint or AWS_ENDPOINT_URL; if it is AWS's own, {address}", Exit.USAGE)
    store = Store(
        S3Config(
            address.rstrip("/"),
            keys.access_key,
            SecretStr(keys.secret_key),
            region,
            session_token=SecretStr(keys.token) if keys.token else None,
            connect_timeout=_PATIENCE,
            read_timeout=_PATIENCE,
            slowest=_SLOWEST,
        )
    )
    try:
        yield store
    finally:
        await store.close()
