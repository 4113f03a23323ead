"""`cts`, the command line of the service.

Only what every command needs is imported here, and commands import their own parts when they run, so that help and
completion are there at once. Commands for users need this package as it is; those that run a service need its extra
`server`, and say so.

Exit codes: see `terminal.Exit`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cdmtaskservice.cli import account, admin, config, follow, images, jobs, refdata, s3, site, sites, submit, token
from cdmtaskservice.cli.imports import uncollected
from cdmtaskservice.cli.terminal import EXIT_CODES, AsOwnJson, fail, needs, show_json

_PRETTY = sys.stdout.isatty()

_CODES = [f"{code.value} {words}" for code, words in EXIT_CODES]
_EPILOG = f"Exit codes: {' · '.join(_CODES)}" if _PRETTY else "\n".join(["\b\nExit codes:", *_CODES])

app = typer.Typer(
    name="cts",
    help="The CDM Task Service: runs scientists' container jobs on remote compute.",
    epilog=_EPILOG,
    no_args_is_help=True,
    # Tracebacks with local variables would show secrets.
    pretty_exceptions_enable=False,
    # Markdown lets brackets be, and fills lines anew.
    rich_markup_mode="markdown" if _PRETTY else None,
)
_COMMANDS: Sequence[Callable[..., None]] = (
    *(account.login, account.logout, account.whoami),
    *(submit.submit, jobs.jobs, jobs.job, follow.watch, follow.logs, jobs.outputs, jobs.cancel),
)
for command in _COMMANDS:
    app.command()(command)
app.add_typer(images.app, name="images")
app.add_typer(sites.app, name="sites")
app.add_typer(refdata.app, name="refdata")
app.add_typer(s3.app, name="s3")
app.add_typer(admin.app, name="admin")
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")
app.add_typer(site.app, name="site")


@app.command()
def version(as_json: AsOwnJson = False) -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    found = version_of("cdmtaskservice")
    if as_json:
        show_json({"version": found})
    else:
        typer.echo(found)


@app.command()
def serve(
    config_file: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The settings: a .toml file or a .jinja template of one."),
    ],
) -> None:
    """Run the service until it is told to stop."""
    with needs("server", "cts serve"), uncollected():
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
    keep: Annotated[bool, typer.Option("--keep", help="Go on running until Ctrl-C.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where the data goes, and stays; if left out, a temporary directory that is removed.",
        ),
    ] = None,
    demo_site: Annotated[
        DemoSite,
        typer.Option(
            "--site", help="What runs the jobs: this machine, an HTCondor pool on it, or stand-ins for NERSC and JAWS."
        ),
    ] = DemoSite.LOCAL,
) -> None:
    """Start the service with all its parts on this machine, and run a job."""
    with needs("server", "cts demo"):
        from cdmtaskservice.cli.demo import run

    run(keep=keep, directory=directory, site=demo_site.value)
