"""`cts site`: trying the connection to a site."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli.terminal import AsOwnJson, fail, needs, show_json

if TYPE_CHECKING:
    from cdmtaskservice.settings import Settings
    from cdmtaskservice.sites.base import Finding

app = typer.Typer(help="Try the connection to a site.", no_args_is_help=True)

_MARKS = {True: "ok", False: "WRONG", None: "-"}


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's name in the settings.")],
    config_file: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The settings: a .toml file or a .jinja template of one."),
    ],
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="How long the job on a worker may take.")
    ] = 120.0,
    as_json: AsOwnJson = False,
) -> None:
    """Try everything that can be wrong with a site, and say what to mend.

    A tiny job is run on a worker of a pool. Exit code 1 where something is wrong.
    """
    with needs("server", "cts site"):
        from cdmtaskservice.settings import SettingsError, load_settings

    try:
        settings = load_settings(config_file, os.environ)
    except SettingsError as exc:
        fail(str(exc))
    names = [site.name for site in settings.sites]
    if name not in names:
        fail(f"There is no site {name!r} in the settings; the sites are {', '.join(names)}")
    findings = asyncio.run(_check(settings, name, wait, quiet=as_json))
    if as_json:
        show_json({"site": name, "findings": [asdict(f) for f in findings]})
    if any(f.ok is False for f in findings):
        raise typer.Exit(1)


async def _check(settings: Settings, name: str, wait: float, *, quiet: bool) -> list[Finding]:
    import structlog

    from cdmtaskservice.wiring.sites import check_site

    # What is found is all that is printed.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    findings = []
    async for finding in check_site(settings, name, wait):
        findings.append(finding)
        if not quiet:
            typer.echo(f"{_MARKS[finding.ok]:6} {finding.step:10} {finding.found}")
            if finding.mend is not None:
                typer.echo(f"{'':17} → {finding.mend}")
    return findings
