"""`cts refdata`: reference data at all sites, and the service that brings it to one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from cdmtaskservice.cli.remote import UNREACHABLE, AsJson, Remote, TokenFile, Url
from cdmtaskservice.cli.terminal import fail, show_table

app = typer.Typer(help="Reference data: register, follow, recover and retire it; serve a site.", no_args_is_help=True)

RefdataId = Annotated[str, typer.Argument(metavar="ID", help="The ID of the reference data.")]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="The name of a site.")]

_HEADINGS = ("id", "file", "site", "state", "done", "rate", "files", "what holds it up")
_OVER = frozenset({"complete", "error"})


@app.command("list")
def list_all(url: Url, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """All reference data, with its state and progress at each site. For administrators."""
    with Remote(url, token_file) as remote:
        told = remote.call("GET", "/admin/refdata")
    _show(told["data"], told, as_json=as_json)


@app.command()
def show(refdata_id: RefdataId, url: Url, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """One piece of reference data, with its progress at each site. For administrators."""
    with Remote(url, token_file) as remote:
        told = remote.call("GET", f"/admin/refdata/{refdata_id}")
    _show([told], told, as_json=as_json)
    for status in told["statuses"] if not as_json else ():
        if status.get("admin_error", status.get("error")) != status.get("error"):
            typer.echo(f"{status['cluster']}: {status['admin_error']}", err=True)


@app.command()
def watch(
    refdata_id: RefdataId,
    url: Url,
    token_file: TokenFile = None,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")] = 2.0,
) -> None:
    """Follow the staging until it is over at every site. Exit code 1 where it ended in error, or no site has it.

    While the service does not answer, this waits.
    """
    before: list[str] = []
    with Remote(url, token_file) as remote:
        while True:
            try:
                told = remote.call("GET", f"/admin/refdata/{refdata_id}")
            except typer.Exit as exit_:
                if exit_.exit_code != UNREACHABLE or not before:
                    raise
                time.sleep(interval)
                continue
            lines = ["  ".join(cell for cell in row[2:] if cell) for row in _rows([told])]
            for line in lines:
                if line not in before:
                    typer.echo(line)
            before = lines
            states = [status["state"] for status in told["statuses"]]
            if not states:
                fail(f"No site has {refdata_id}: none had room when it was registered; see `cts refdata recover`")
            if set(states) <= _OVER:
                raise typer.Exit(1 if "error" in states else 0)
            time.sleep(interval)


@app.command()
def register(
    file: Annotated[str, typer.Argument(metavar="BUCKET/KEY", help="The file in S3.")],
    url: Url,
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
    with Remote(url, token_file) as remote:
        told = remote.call("POST", f"/admin/refdata/{file}", crc64nvme=crc64nvme, unpack=unpack)
    typer.echo(json.dumps(told, indent=2) if as_json else told["id"])


@app.command()
def recover(
    refdata_id: RefdataId,
    site: SiteName,
    url: Url,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="Even where it is complete, as when a disk was lost.")] = False,
) -> None:
    """Stage it at a site anew, where that failed, does not go on, or was never begun. For administrators."""
    with Remote(url, token_file) as remote:
        remote.call("PUT", f"/admin/refdata/{refdata_id}/{site}/recover", force=force)
    typer.echo(f"{refdata_id} will be staged at {site} anew", err=True)


@app.command()
def clean(
    refdata_id: RefdataId,
    site: SiteName,
    url: Url,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="Stop the staging, where it goes on.")] = False,
) -> None:
    """Have removed what staging has left at a site, not the data. For administrators."""
    with Remote(url, token_file) as remote:
        remote.call("DELETE", f"/admin/refdata/{refdata_id}/{site}/clean", force=force)
    typer.echo(f"what staging {refdata_id} has left at {site} is being removed", err=True)


@app.command()
def retire(refdata_id: RefdataId, url: Url, token_file: TokenFile = None) -> None:
    """Have it removed at every site. No image may name it, and no job may need it. For administrators."""
    with Remote(url, token_file) as remote:
        remote.call("DELETE", f"/admin/refdata/{refdata_id}")
    typer.echo(f"{refdata_id} is retired, and is being removed at every site", err=True)


@app.command()
def serve(
    config_file: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The settings: a .toml file or a .jinja template of one."),
    ],
) -> None:
    """Be a reference data service near the storage of one or more sites, until told to stop."""
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


def _show(found: Sequence[Mapping[str, Any]], told: object, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told, indent=2))
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
