"""`cts s3 put`: files of this machine become files that can be inputs of jobs."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli.s3_account import Endpoint, Profile, refusals_end, s3_config
from cdmtaskservice.cli.terminal import AsOwnJson, Exit, fail, needs, say, show_json

if TYPE_CHECKING:
    import os

    from cdmtaskservice.s3.model import S3Object

_AT_ONCE = 4
"""Files that are sent at once."""

_OTHERS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def put(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Files to send; of a directory, all that is below it: hidden files, and what links lead to, too.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="BUCKET/KEY for one file, BUCKET/PREFIX/ for any number of them."),
    ],
    endpoint: Endpoint = None,
    profile: Profile = None,
    as_json: AsOwnJson = False,
) -> None:
    """Send files to S3, each with the CRC64NVME checksum that inputs of jobs must have. Prints their paths.

    What is there already under the same path is replaced. If something cannot be sent, such as a file that you may not
    read or a link that leads nowhere, nothing is. Keys are taken as for `cts s3 checksum`.
    """
    with needs("s3", "cts s3"):
        import structlog

        import cdmtaskservice.s3.client  # noqa: F401
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    wanted = _targets(sources, target.removeprefix("s3://"))
    sent = asyncio.run(_send(wanted, endpoint, profile, quiet=as_json))
    if as_json:
        show_json({"files": [{"file": o.path, "size": o.size, "crc64nvme": o.crc64nvme} for o in sent]})


def _targets(sources: Sequence[Path], target: str) -> list[tuple[Path, str]]:
    """(file, path in S3) of all that is to be sent."""
    from cdmtaskservice.domain.errors import CTSError
    from cdmtaskservice.domain.s3_paths import check_s3_path

    found: list[tuple[Path, str]] = []
    for source in sources:
        if stat.S_ISDIR(_looked(source).st_mode):
            below = _below(source)
            if not below:
                fail(f"There are no files below {source}")
            found += [(p, f"{target}{p.relative_to(source).as_posix()}") for p in below]
        else:
            _readable(source, _looked(source))
            found.append((source, f"{target}{source.name}" if target.endswith("/") else target))
    if not target.endswith("/") and (len(sources) > 1 or sources[0].is_dir()):
        fail(f"{target}: write a / at its end, for there are several files to go below it", Exit.USAGE)
    try:
        for _, path in found:
            check_s3_path(path)
    except CTSError as exc:
        fail(exc.message)
    by_path = {path: file for file, path in found}
    for file, path in found:
        if by_path[path] != file:
            fail(f"{file} and {by_path[path]} would both become {path}")
    return found


def _below(top: Path) -> list[Path]:
    """All files below a directory, through links too; where one of them cannot be sent, the command ends."""
    found: list[Path] = []
    left: list[tuple[Path, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while left:
        directory, above = left.pop()
        looked = _looked(directory)
        this = (looked.st_dev, looked.st_ino)
        if this in above:
            fail(f"{directory} is a link to a directory that it lies in itself: remove it, or send the rest by name")
        try:
            entries = list(directory.iterdir())
        except OSError as exc:
            fail(f"{directory} cannot be read: {exc.strerror or exc}")
        for entry in entries:
            looked = _looked(entry)
            if stat.S_ISDIR(looked.st_mode):
                left.append((entry, above | {this}))
            else:
                _readable(entry, looked)
                found.append(entry)
    return sorted(found)


def _looked(path: Path) -> os.stat_result:
    """What is at `path`, or where its link leads."""
    try:
        return path.stat()
    except FileNotFoundError:
        fail(f"{path} is a link that leads nowhere" if path.is_symlink() else f"There is no file {path}")
    except OSError as exc:
        fail(f"{path} cannot be read: {exc.strerror or exc}")


def _readable(file: Path, looked: os.stat_result) -> None:
    if not stat.S_ISREG(looked.st_mode):
        fail(f"{file} is {_OTHERS.get(stat.S_IFMT(looked.st_mode), 'no file')}, and only files can be sent")
    try:
        file.open("rb").close()
    except OSError as exc:
        fail(f"{file} cannot be read: {exc.strerror or exc}")


async def _send(
    wanted: Sequence[tuple[Path, str]], endpoint: str | None, profile: str | None, *, quiet: bool
) -> list[S3Object]:
    from cdmtaskservice.s3.batches import run_batch
    from cdmtaskservice.s3.client import S3Client

    async with S3Client.create(await s3_config(endpoint, profile)) as s3:

        async def send(one: tuple[Path, str]) -> S3Object:
            file, path = one
            try:
                sent = await s3.upload_file(path, file)
            except OSError as exc:
                fail(f"{file} cannot be read: {exc.strerror or exc}")
            if not quiet:
                typer.echo(path)
            return sent

        with refusals_end():
            # Some stores make a bucket of whatever is written to, a slip of the pen too.
            await s3.check_bucket(wanted[0][1].partition("/")[0])
            sent = await run_batch(wanted, send, _AT_ONCE)
    if not quiet:
        files = "1 file" if len(sent) == 1 else f"{len(sent)} files"
        say(f"{files} sent, {sum(o.size for o in sent):,} bytes, with checksums")
    return sent
