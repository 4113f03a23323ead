"""`cts sites`: where jobs can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli import completion
from cdmtaskservice.cli.groups import ListByDefault
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected
from cdmtaskservice.cli.terminal import say, show_json, show_table
from cdmtaskservice.cli.wording import duration_shown

if TYPE_CHECKING:
    from cdmtaskservice.client.models import Site

app = typer.Typer(help="Sites, where jobs run: list them; open and close them.", cls=ListByDefault)

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.", autocompletion=completion.sites)]


@app.command("list")
def list_all(url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List the sites with their limits for one container, and whether they take jobs."""
    with connected(url, token_file) as cts:
        found = cts.sites()
    if as_json:
        show_json({"sites": [site.raw for site in found]})
        return
    headings = ("site", "state", "nodes", "CPUs", "memory", "GPUs", "runtime", "notes")
    show_table(headings, [_row(site) for site in found])


@app.command("open")
def open_site(site: SiteName, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Open a site for new jobs. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.open_site(site)
    say(f"{site} is open for new jobs")
    if as_json:
        show_json({})


@app.command("close")
def close_site(site: SiteName, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Close a site for new jobs. Those that it has go on. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.close_site(site)
    say(f"{site} is closed for new jobs")
    if as_json:
        show_json({})


def _row(site: Site) -> tuple[str, ...]:
    state = "closed" if not site.active else "open" if site.available else "unavailable"
    return (
        site.cluster,
        state,
        str(site.nodes),
        str(site.cpus_per_node),
        f"{site.memory_per_node_gb:g} GB",
        str(site.gpus_per_node or ""),
        duration_shown(site.max_runtime_min * 60),
        "; ".join([*([site.unavailable_reason] if site.unavailable_reason else []), *site.notes]),
    )
