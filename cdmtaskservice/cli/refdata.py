"""`cts refdata`: reference data at all sites, and the service that brings it to one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdmtaskservice.cli import completion
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected
from cdmtaskservice.cli.terminal import fail, harmless, needs, say, show_json, show_table

if TYPE_CHECKING:
    from cdmtaskservice.client import Client

app = typer.Typer(help="Reference data: register, follow, recover and retire it; serve a site.", no_args_is_help=True)

RefdataId = Annotated[
    str, typer.Argument(metavar="ID", help="The ID of the reference data.", autocompletion=completion.refdata_ids)
]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="The name of a site.", autocompletion=completion.sites)]

_HEADINGS = ("id", "file", "site", "state", "done", "rate", "files", "what holds it up")
_OVER = frozenset({"complete", "error"})


@app.command("list")
def list_all(url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """All reference data, with its state at each site; administrators see its progress, too."""
    with connected(url, token_file) as cts:
        found = _all(cts)
    _show(found, {"data": found}, as_json=as_json)


@app.command()
def show(refdata_id: RefdataId, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """One piece of reference data, with its state at each site; administrators see its progress, too."""
    with connected(url, token_file) as cts:
        found = _one(cts, refdata_id)
    _show([found], found, as_json=as_json)
    for status in found["statuses"] if not as_json else ():
        if status.get("admin_error", status.get("error")) != status.get("error"):
            say(f"{status['cluster']}: {status['admin_error']}")


@app.command()
def watch(
    refdata_id: RefdataId,
    url: Url = None,
    token_file: TokenFile = None,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Follow the staging until it is over at every site. Exit code 1 where it ended in error, or no site has it.

    While the service does not answer, this waits.
    """
    from cdmtaskservice.client.errors import ServiceUnreachable

    before: list[str] = []
    with connected(url, token_file) as cts:
        while True:
            try:
                found = _one(cts, refdata_id)
            except ServiceUnreachable:
                if not before:
                    raise
                time.sleep(interval)
                continue
            lines = ["  ".join(harmless(cell) for cell in row[2:] if cell) for row in _rows([found])]
            for line in lines if not as_json else ():
                if line not in before:
                    typer.echo(line)
            before = lines
            states = [status["state"] for status in found["statuses"]]
            if not states:
                fail(f"No site has {refdata_id}: none had room when it was registered; see `cts refdata recover`")
            if set(states) <= _OVER:
                if as_json:
                    show_json(found)
                raise typer.Exit(1 if "error" in states else 0)
            time.sleep(interval)


@app.command()
def register(
    file: Annotated[str, typer.Argument(metavar="BUCKET/KEY", help="The file in S3.")],
    url: Url = None,
    token_file: TokenFile = None,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Unpack it: a .tar.gz, .tgz, .tar.zst, .gz or .zip.")
    ] = False,
    crc64nvme: Annotated[
        str | None, typer.Option("--crc64nvme", metavar="BASE64", help="The checksum that it must have.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a file, which is then staged at every site that has room. Prints its ID. For administrators."""
    if file.startswith("s3://"):
        fail(f"{file}: write it without s3://, as BUCKET/KEY")
    with connected(url, token_file) as cts:
        found = cts.admin.register_refdata(file, crc64nvme=crc64nvme, unpack=unpack)
    if as_json:
        show_json(found.raw)
    else:
        typer.echo(harmless(found.id))


@app.command()
def recover(
    refdata_id: RefdataId,
    site: SiteName,
    url: Url = None,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="Even where it is complete, as when a disk was lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stage it at a site anew, where that failed, does not go on, or was never begun. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.recover_refdata(refdata_id, site, force=force)
    _done(f"{refdata_id} will be staged at {site} anew", as_json=as_json)


@app.command()
def clean(
    refdata_id: RefdataId,
    site: SiteName,
    url: Url = None,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="Stop the staging, where it goes on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have removed what staging has left at a site, not the data. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.clean_refdata(refdata_id, site, force=force)
    _done(f"what staging {refdata_id} has left at {site} is being removed", as_json=as_json)


@app.command()
def retire(refdata_id: RefdataId, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Have it removed at every site. No image may name it, and no job may need it. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.retire_refdata(refdata_id)
    _done(f"{refdata_id} is retired, and is being removed at every site", as_json=as_json)


@app.command()
def serve(
    config_file: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The settings: a .toml file or a .jinja template of one."),
    ],
) -> None:
    """Be a reference data service near the storage of one or more sites, until told to stop."""
    with needs("server", "cts refdata serve"):
        from cdmtaskservice.logs import configure_logging
        from cdmtaskservice.settings import RefdataServiceFile, SettingsError, load
        from cdmtaskservice.wiring.refdata import run_refdata_service

    try:
        settings = load(RefdataServiceFile, config_file, os.environ)
    except SettingsError as exc:
        fail(str(exc))
    configure_logging(settings.logging.level, settings.logging.format)

    async def until_told() -> None:
        work = asyncio.ensure_future(run_refdata_service(settings.refdata_service))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        with suppress(asyncio.CancelledError):
            await work

    asyncio.run(until_told())


def _all(cts: Client) -> list[Mapping[str, Any]]:
    """As the service sends it: to administrators all, to others what everybody may see."""
    from cdmtaskservice.client.errors import AuthenticationError, Unauthorized

    try:
        return [data.raw for data in cts.admin.refdata()]
    except (AuthenticationError, Unauthorized):
        return [data.raw for data in cts.refdata()]


def _one(cts: Client, refdata_id: str) -> Mapping[str, Any]:
    from cdmtaskservice.client.errors import AuthenticationError, Unauthorized

    try:
        return cts.admin.refdata_one(refdata_id).raw
    except (AuthenticationError, Unauthorized):
        return cts.refdata_by_id(refdata_id).raw


def _done(message: str, *, as_json: bool) -> None:
    say(message)
    if as_json:
        show_json({})


def _show(found: Sequence[Mapping[str, Any]], told: object, *, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    show_table(_HEADINGS, _rows(found))


def _rows(found: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[str]]:
    """A row a site; one where there is no site."""
    rows = []
    for refdata in found:
        for status in refdata["statuses"] or [{}]:
            progress = status.get("progress")
            rows.append(
                (
                    refdata["id"],
                    refdata["file"],
                    status.get("cluster", ""),
                    _state(refdata, status),
                    f"{progress['phase']} {progress['percent']:.1f} %" if progress else "",
                    f"{progress['bytes_per_second'] / 1e6:.1f} MB/s" if progress else "",
                    _count(status, progress),
                    status.get("waiting") or status.get("error") or "",
                )
            )
    return rows


def _state(refdata: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if "retired_on" not in refdata:
        return str(status.get("state", ""))
    return "removed" if "removed_on" in status else "being removed"


def _count(status: Mapping[str, Any], progress: Mapping[str, Any] | None) -> str:
    if "files" in status:
        return f"{status['files']:,}"
    return f"{progress['files_done']:,}" if progress and progress["files_done"] else ""
