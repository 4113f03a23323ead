"""`cts`, the command line of the service.

Only what every command needs is imported here, and commands import their own parts when they run, so that help and
completion are there at once.

Exit codes: 0 done, 1 failed or invalid, 2 wrong usage, 3 the service does not answer.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cdmtaskservice.cli import config, refdata, s3, site, token
from cdmtaskservice.cli.terminal import fail

app = typer.Typer(
    name="cts",
    help="The CDM Task Service: runs scientists' container jobs on remote compute.",
    no_args_is_help=True,
    # Tracebacks with local variables would show secrets.
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")
app.add_typer(site.app, name="site")
app.add_typer(refdata.app, name="refdata")
app.add_typer(s3.app, name="s3")


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    typer.echo(version_of("cdmtaskservice"))


@app.command()
def serve(
    config_file: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The settings: a .toml file or a .jinja template of one."),
    ],
) -> None:
    """Run the service until it is told to stop."""
    from cdmtaskservice.cli.serve import serve as run
    from cdmtaskservice.settings import SettingsError

    try:
        run(config_file)
    except SettingsError as exc:
        fail(str(exc))


class DemoSite(Enum):
    """The kinds of sites that the demo can show."""

    LOCAL = "local"
    HTCONDOR = "htcondor"
    JAWS = "jaws"


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Go on running, and keep the data at the end.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where the data goes; a temporary directory if left out."),
    ] = None,
    demo_site: Annotated[
        DemoSite,
        typer.Option(
            "--site", help="What runs the jobs: this machine, an HTCondor pool on it, or stand-ins for NERSC and JAWS."
        ),
    ] = DemoSite.LOCAL,
) -> None:
    """Start the service with all its parts on this machine, and run a job."""
    from cdmtaskservice.cli.demo import run

    run(keep=keep, directory=directory, site=demo_site.value)
