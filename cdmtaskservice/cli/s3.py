"""`cts s3`: what can be done with files in S3 before they are inputs of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdmtaskservice.cli.s3_account import Endpoint, Profile, refusals_end, s3_config
from cdmtaskservice.cli.s3_put import put
from cdmtaskservice.cli.terminal import AsOwnJson, Exit, fail, needs, say, show_json, show_table

if TYPE_CHECKING:
    from cdmtaskservice.s3.mending import Looked
    from cdmtaskservice.s3.store import Store

app = typer.Typer(help="Files in S3, with your own S3 credentials.", no_args_is_help=True)

_AT_ONCE = 16
_ADDED_AT_ONCE = 3
"""Files that are sent again at once; each is in a temporary file meanwhile."""

app.command()(put)


@app.command()
def checksum(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="BUCKET/KEY, or BUCKET/PREFIX/ for all below it; s3:// may precede."),
    ],
    add: Annotated[
        bool, typer.Option("--add", help="Give those that lack one a checksum, by sending them again.")
    ] = False,
    endpoint: Endpoint = None,
    profile: Profile = None,
    as_json: AsOwnJson = False,
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
        with refusals_end():
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
    from cdmtaskservice.s3.mending import TagsHiddenError
    from cdmtaskservice.s3.reading import ReplacedError

    try:
        return await work
    except ReplacedError:
        words = "it was replaced meanwhile, and is left as it is; try again"
    except DependencyUnavailableError:
        raise
    except TagsHiddenError:
        words = "your keys do not let you read its tags (s3:GetObjectTagging), which would be lost; it is left as it is"
    except S3PathInaccessibleError:
        words = "your keys do not let you read or write it"
    except CTSError as exc:
        words = exc.message
    except OSError as exc:
        words = f"the temporary file cannot be written: {exc.strerror or exc}"
    return replace(file, error=words)


@asynccontextmanager
async def _store(endpoint: str | None, profile: str | None) -> AsyncIterator[Store]:
    from cdmtaskservice.s3.store import Store

    store = Store(await s3_config(endpoint, profile))
    try:
        yield store
    finally:
        await store.close()
